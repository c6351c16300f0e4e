"""`llama-nas pick`: the network that a person asks for, by size and accuracy."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llama_nas import cli
from llama_nas.core.units import parse_size

ROWS = """subnet_id,layers,parameters,size_bytes,acc,stderr,items,round,int8_bytes
1111xx,4,4000,8000,0.50,0.02,500,1,5000
0011xx,4,5000,10000,0.60,0.02,500,2,6000
001100,6,7000,14000,0.65,0.02,500,3,8200
000000,6,9000,18000,0.64,0.02,500,1,10000
"""


@pytest.fixture
def results(tmp_path) -> Path:
    folder = tmp_path / "results"
    for name in ("search/toy", "tasks/toy", "benchmarks/toy/int8", "networks/0011xx/int8"):
        (folder / name).mkdir(parents=True)
    (folder / "search/toy/front.csv").write_text(ROWS)
    (folder / "tasks/toy/task.json").write_text(json.dumps({"task": "toy", "metric": "acc", "higher_is_better": True}))
    (folder / "benchmarks/toy/int8/0011xx.json").write_text(json.dumps({"metrics": {"acc": 0.59}}))
    return folder


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
        ("", "001100"),
        ("--max-size 10kB", "0011xx"),
        ("--max-size 9999", "1111xx"),
        ("--max-size 7kB --precision int8", "0011xx"),
        ("--max-size 10kB --precision fp32", None),
        ("--min-accuracy 0.55", "0011xx"),
        ("--min-accuracy 0.55 --max-size 14kB", "001100"),
    ],
)
def test_the_best_that_fits_or_the_smallest_that_is_good_enough(pick, options, expected):
    if expected is None:
        assert "no network is at most 10kB in fp32; the smallest is 0.016 MB (0.0153 MiB)" in pick(options, code=2)
    else:
        assert pick(options).startswith(f"{expected}: ")


def test_the_answer_says_what_was_measured_and_where_the_checkpoint_is(pick, results):
    answer = results / "answer.json"
    text = pick(f"--max-size 6kB --precision int8 --output {answer}")
    assert text.splitlines() == [
        "0011xx: 4 layers, 0.006 MB (0.00572 MiB) in int8",
        "acc 0.6000 ± 0.0200 in the search, on 500 items",
        "acc 0.5900 by stock lm-eval in int8",
        f"checkpoint: {results}/networks/0011xx/int8",
    ]
    assert json.loads(answer.read_text())["benchmark_value"] == 0.59
    assert pick("--max-size 10kB").splitlines()[-1] == "  snakemake --cores all results/networks/0011xx/hf"


def test_the_answer_has_the_costs_that_the_search_minimised(pick, results):
    header, *rows = ROWS.splitlines()
    table = [header + ",latency,size", *(f"{row},0.125,8{i}00" for i, row in enumerate(rows))]
    (results / "search/toy/front.csv").write_text("\n".join(table))
    answer = results / "answer.json"
    lines = pick(f"--max-size 10kB --output {answer}").splitlines()
    assert "latency 0.125 s, by the layers' costs" in lines and "size 8.1e+03 B, by the layers' costs" in lines
    assert json.loads(answer.read_text())["costs"] == {"size": 8100.0, "latency": 0.125}
    (results / "search/toy/front.csv").write_text(ROWS)
    assert "layers' costs" not in pick(f"--max-size 10kB --output {answer}")
    assert json.loads(answer.read_text())["costs"] == {}


def test_a_checkpoint_that_is_there_is_named_and_none_is_told_to_be_made(pick, results):
    (results / "networks/0011xx/hf").mkdir()
    text = pick("--max-size 10kB")
    assert text.splitlines()[-1] == f"checkpoint: {results}/networks/0011xx/hf" and "snakemake" not in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--max-size 9XB", "--max-size '9XB': expected a number of bytes"),
        ("--min-accuracy 0.7", "no network has acc 0.7 or more; the best has 0.6500"),
        ("--max-size 9kB --min-accuracy 0.6", "no network of at most 9kB has acc 0.6 or more; the best has 0.5000"),
    ],
)
def test_what_cannot_be_had_is_one_line(pick, options, message):
    assert message in pick(options, code=2)


def test_an_unfinished_search_or_a_loss_is_one_line(pick, results):
    (results / "tasks/toy/task.json").write_text('{"task": "toy", "metric": "acc", "higher_is_better": false}')
    assert "of which less is better" in pick("--min-accuracy 0.5", code=2)
    (results / "search/toy/front.csv").unlink()
    assert "front.csv: not found" in pick("", code=2)


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
