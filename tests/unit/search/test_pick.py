"""`llama-nas pick`: the network that a person asks for, by size and by what may be given up."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.support.judging import close_search, write_items
from tests.support.search import SHAPE, SPACE

from llama_nas import cli
from llama_nas.core.artifacts import read_json, read_table
from llama_nas.core.units import format_bytes, parse_size
from llama_nas.search.encoding import genotypes_of, parameters
from llama_nas.search.settings import GoalSettings

FULL, LARGE, MEDIUM, SMALL = "00000000-0000", "00000000-1111", "00001111-1111", "11111111-1xxx"
# Of 10,000 items the base answers 8,000. The large one loses 0.2 points, the others 2 and 10; the full one gains none.
SCORES = {FULL: 0.80, LARGE: 0.798, MEDIUM: 0.78, SMALL: 0.70}


def size(subnet_id: str, precision: str = "fp16") -> int:
    return SHAPE.size_bytes(SPACE.parse(subnet_id), precision)


def finished(results: Path, scores: dict[str, float], max_drop: float = 0.01) -> None:
    """A run's folder after its search."""
    task = results / "tasks/toy"
    task.mkdir(parents=True)
    (task / "task.json").write_text(json.dumps({"task": "toy", "metric": "acc", "higher_is_better": True}))
    write_items(task, 10_000)
    SPACE.write(results / "space.json")
    header = "round,candidate,subnet_id,origin,layers,parameters,size_bytes,acc,acc_stderr,items"
    sizes = parameters(SPACE, genotypes_of(SPACE, list(scores)))
    rows = [f"1,{i},{id},random,9,{sizes[i]},{2 * sizes[i]},{scores[id]},0.02,500" for i, id in enumerate(scores)]
    (results / "evaluations.csv").write_text("\n".join([header, *rows, ""]))
    inputs = {"space": results / "space.json", "task": task, "evaluations": results / "evaluations.csv"}
    inputs |= {"goals": GoalSettings()}
    score = {FULL: 0.8} | scores
    folder = results / "search/toy"
    close_search(folder, inputs, lambda ids: np.array([score[id] for id in ids]), 0.8, {"max_drop": max_drop})


@pytest.fixture
def results(tmp_path) -> Path:
    finished(tmp_path / "results", SCORES)
    return tmp_path / "results"


@pytest.fixture
def pick(results, capsys):
    def run(options: str, code: int = 0) -> str:
        assert cli.main(["pick", "--task", "toy", "--results", str(results), *options.split()]) == code
        out, err = capsys.readouterr()
        assert "Traceback" not in err and (code == 0 or err.count("\n") == 1)
        return out if code == 0 else err

    return run


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", LARGE),
        ("--max-drop 0.03", MEDIUM),
        ("--min-accuracy 0.77", MEDIUM),
        ("--max-drop 0.2", SMALL),
        ("--max-drop 0.001", FULL),  # the large one loses more
        ("--max-drop 0.0022", FULL),  # of the large one it is not refuted, but the full one is shown
        (f"--max-size {size(LARGE)} --max-drop 0.0022", LARGE),
        (f"--max-size {size(MEDIUM)} --max-drop 0.03", MEDIUM),
        (f"--max-size {size(LARGE, 'int8')} --precision int8", LARGE),
        (f"--max-size {size(FULL)}", LARGE),
    ],
)
def test_the_smallest_that_loses_no_more_than_it_may(pick, options, expected):
    assert pick(options).startswith(f"{expected}: ")


def test_the_recommended_network_is_that_of_the_table(pick, results):
    judgement = read_table(results / "search/toy/judgement.csv").set_index("subnet_id")
    assert judgement["recommended"].to_dict() == {SMALL: False, MEDIUM: False, LARGE: True, FULL: False}
    assert judgement["verdict"].to_dict() == {SMALL: "worse", MEDIUM: "worse", LARGE: "shown", FULL: "shown"}


def test_the_answer_says_what_was_measured_and_where_the_checkpoint_is(pick, results):
    (results / "benchmarks/toy/int8").mkdir(parents=True)
    (results / f"benchmarks/toy/int8/{LARGE}.json").write_text(json.dumps({"metrics": {"acc": 0.79}}))
    (results / f"networks/{LARGE}/int8").mkdir(parents=True)
    answer = results / "answer.json"
    text = pick(f"--precision int8 --output {answer}")
    assert text.splitlines() == [
        f"{LARGE}: 12 layers, {format_bytes(size(LARGE, 'int8'))} in int8",
        "acc 79.8 %, the base's 80.0 %: −0.2 points (−0.3 to −0.1), on 10,000 items that the search selected it by",
        "shown: it loses less than 1 point",
        "acc 79.0 % by stock lm-eval in int8, on all items",
        f"checkpoint: {results}/networks/{LARGE}/int8",
    ]
    found = read_json(answer)
    assert (found["benchmark_value"], found["verdict"], found["max_drop"]) == (0.79, "shown", 0.01)
    assert (found["base"], found["value"], found["difference"]) == pytest.approx((0.8, 0.798, -0.002))
    assert pick("").splitlines()[-1] == f"  snakemake --cores all results/networks/{LARGE}/hf"


def test_what_is_not_refuted_says_how_many_items_would_show_it(tmp_path, capsys):
    finished(tmp_path / "results", {LARGE: 0.798, SMALL: 0.7}, max_drop=0.0022)
    judgement = read_table(tmp_path / "results/search/toy/judgement.csv").set_index("subnet_id")
    needed = int(judgement.loc[LARGE, "items_needed"])
    assert cli.main(["pick", "--task", "toy", "--results", str(tmp_path / "results")]) == 0
    assert f"and may lose more; about {needed:,} such items would show it" in capsys.readouterr().out
    assert cli.main(["pick", "--task", "toy", "--results", str(tmp_path / "results"), "--max-drop", "0.0023"]) == 0
    assert "such items" not in capsys.readouterr().out  # the table's number is of another drop


def test_the_answer_has_the_costs_that_the_search_minimised(pick, results):
    path, answer = results / "search/toy/front.csv", results / "answer.json"
    front = read_table(path)
    front.assign(latency=0.125, size=8100).to_csv(path, index=False)
    lines = pick(f"--output {answer}").splitlines()
    assert "latency 0.125 s, by the layers' costs" in lines and "size 8.1e+03 B, by the layers' costs" in lines
    assert read_json(answer)["costs"] == {"size": 8100, "latency": 0.125}
    front.to_csv(path, index=False)
    assert "layers' costs" not in pick(f"--output {answer}")
    assert read_json(answer)["costs"] == {}


def test_a_checkpoint_that_is_there_is_named_and_none_is_told_to_be_made(pick, results):
    (results / f"networks/{LARGE}/hf").mkdir(parents=True)
    text = pick("")
    assert text.splitlines()[-1] == f"checkpoint: {results}/networks/{LARGE}/hf" and "snakemake" not in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--max-size 9XB", "--max-size '9XB': expected a number of bytes"),
        ("--max-size 10kB", "no network is at most 10kB in fp16; the smallest is "),
        ("--min-accuracy 0.81", "--min-accuracy 0.81: the base itself has acc 0.8000"),
        ("--min-accuracy 0.7 --max-drop 0.1", "give one of them"),
        (
            f"--max-size {size(MEDIUM)}",
            f"every network of at most {size(MEDIUM)} loses 1 point or more; the best has −2.0 points (−2.3 to −1.7): "
            f"{MEDIUM}; --max-drop 0.021 would not refute it",
        ),
    ],
)
def test_what_cannot_be_had_is_one_line(pick, options, message):
    assert message in pick(options, code=2)


def test_the_drop_that_a_refusal_names_is_enough(pick):
    assert pick(f"--max-size {size(MEDIUM)} --max-drop 0.021").startswith(MEDIUM)


def test_an_unfinished_search_or_a_loss_is_one_line(pick, results):
    (results / "tasks/toy/task.json").write_text(
        '{"task": "toy", "metric": "bits_per_byte", "higher_is_better": false}'
    )
    assert "of which less is better" in pick("--min-accuracy 0.5", code=2)
    (results / "search/toy/judgement.csv").unlink()
    assert "judgement.csv: not found" in pick("", code=2)


def test_sizes_are_decimal_or_binary():
    assert [parse_size(text, "--max-size") for text in ("9GB", "8.5 GiB", "900mb", "12")] == [
        9 * 10**9,
        17 * 2**29,
        9 * 10**8,
        12,
    ]


def test_it_needs_no_torch(results):
    code = (
        "import sys; from llama_nas.cli import main;"
        f"main(['pick', '--task', 'toy', '--results', '{results}']); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
