"""A random Llama with the paper's 32 layers and search space through the real workflow, from nothing to the page.

What only happens at the real shape shows here: ids of 32 characters as file names, orders of 32 layers, a front with
the full, the smallest and an all-narrow network. The items of the task are chosen so that these three are on the front.
"""

import json
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from tests.support.models import write_supernet

from llama_nas.core.artifacts import read_table, write_table
from llama_nas.core.shape import Subnet
from llama_nas.core.space import SearchSpace
from llama_nas.models.elastic import load_elastic
from llama_nas.scoring.forward import score_task
from llama_nas.scoring.metrics import choice_scores
from llama_nas.tasks.format import CompiledTask

REPOSITORY = Path(__file__).resolve().parents[2]
WORDS = 61  # that the tokenizer knows: 0 to 60
CONFIG = {
    "base": {"source": "path", "path": "model"},
    "instructions": {"path": "instructions.json"},
    "space": {  # paper, Table 1, with the orders that the run measures itself
        "depths": [24, 28, 32],
        "widths": [64, 32],
        "depth_selection": "importance",
        "width_selection": "importance",
    },
    "training": {"epochs": 2, "global_batch": 4, "micro_batch": 2, "learning_rate": 0.001, "max_length": 128},
    "tasks": {"mine": {"metric": "acc", "lm_eval_task": "mine.yaml"}},
    "search": {"population": 4, "evaluations": 8, "generations": 20},
    "export": {"members": "all"},
    "throughput": {"batch_size": 1, "sequence_length": 16, "new_tokens": 2, "max_batch": 1, "repeats": 1},
}
TASK = {
    "task": "mine",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": "questions.jsonl"},
    "test_split": "train",
    "output_type": "multiple_choice",
    "doc_to_text": "{{q}}",
    "doc_to_choice": "{{c}}",
    "doc_to_target": "y",
}


class Folder:
    """A folder with a config in which Snakemake runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
        (path / "mine.yaml").write_text(yaml.safe_dump(TASK))

    def snakemake(self, *targets: str) -> None:
        command = ["snakemake", "--snakefile", REPOSITORY / "Snakefile", "--configfile", "config.yaml", "--cores", "2"]
        result = subprocess.run([*command, *targets], cwd=self.path, text=True, capture_output=True)
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]

    @property
    def results(self) -> Path:
        return self.path / "results"

    @property
    def space(self) -> SearchSpace:
        return SearchSpace.read(self.results / "space.json")


def draw_questions(count: int, rng: np.random.Generator) -> list[dict]:
    def words(size: int) -> list[str]:
        return list(map(str, rng.choice(WORDS, size, replace=False)))

    return [{"q": " ".join(words(4)), "c": words(4), "y": 0} for _ in range(count)]


def write_questions(path: Path, questions: list[dict]) -> None:
    path.write_text("".join(json.dumps(question) + "\n" for question in questions))


def three_networks(space: SearchSpace) -> list[Subnet]:
    """The full network, all 32 layers narrow, and the smallest network."""
    return [space.full, Subnet((space.blocks[1],) * space.num_layers), space.smallest]


def answers(folder: Folder) -> np.ndarray:
    """What each of the three networks answers to every question, int [3, questions]."""
    folder.snakemake("results/tasks/mine")
    task = CompiledTask.load(folder.results / "tasks/mine")
    model = load_elastic(folder.results / "supernet")
    scores = score_task(model, task, three_networks(folder.space)).log_likelihoods
    return np.array([choice_scores(task, "acc", values).argmax(axis=1) for values in scores])


def select(questions: list[dict], full: np.ndarray, narrow: np.ndarray, smallest: np.ndarray) -> list[dict]:
    """Questions that the full network answers all rightly, the narrow one nearly all, the smallest one none."""
    both = np.flatnonzero((full == narrow) & (full != smallest))[:30]
    full_alone = np.flatnonzero((full != narrow) & (full != smallest))[:4]
    assert len(both) == 30 and len(full_alone) == 4
    return [questions[i] | {"y": int(full[i])} for i in [*both, *full_alone]]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Folder:
    folder, rng = Folder(tmp_path_factory.mktemp("paper-shape")), np.random.default_rng(0)
    settings = {"num_hidden_layers": 32, "intermediate_size": 64, "hidden_size": 32, "num_attention_heads": 4}
    write_supernet(folder.path / "model", **settings, num_key_value_heads=2, max_position_embeddings=128)
    rows = [{"instruction": f"{i} {i + 1}", "input": "", "output": f"{i + 2} {i + 3}"} for i in range(8)]
    (folder.path / "instructions.json").write_text(json.dumps(rows))
    questions = draw_questions(600, rng)
    write_questions(folder.path / "questions.jsonl", questions)
    folder.snakemake("results/supernet")
    write_questions(folder.path / "questions.jsonl", select(questions, *answers(folder)))

    first = folder.results / "search/mine/round_1/candidates.csv"
    folder.snakemake(str(first.relative_to(folder.path)))
    candidates = read_table(first)
    candidates.loc[:2, "subnet_id"] = [folder.space.id(network) for network in three_networks(folder.space)]
    write_table(first, candidates)
    folder.snakemake()
    return folder


def test_the_front_holds_the_full_the_smallest_and_an_all_narrow_network(run):
    front = read_table(run.results / "search/mine/front.csv").set_index("subnet_id")
    full, narrow, smallest = map(run.space.id, three_networks(run.space))
    assert full == "-".join(["0" * 8] * 4) and narrow == "-".join(["1" * 8] * 4)
    assert {full, narrow, smallest} <= set(front.index)
    assert front.loc[full, "acc"] == 1 and front.loc[smallest, "acc"] == 0
    assert front.loc[smallest, "layers"] == 24


def test_the_run_measured_its_order_of_layers_and_every_stage_read_it(run):
    order = json.loads((run.results / "layer_order.json").read_text())["layer_order"]
    assert len(order) == 8 and len(set(order)) == 8
    kept = run.space.kept
    assert [len(layers) for layers in kept] == [24, 28, 32]
    assert set(range(32)) - set(kept[0]) == set(order) and set(range(32)) - set(kept[1]) == set(order[:4])
    evaluated = read_table(run.results / "search/mine/round_2/evaluations.csv")
    assert all(run.space.parse(subnet_id).kept in kept for subnet_id in evaluated["subnet_id"])


def test_every_member_is_exported_and_benchmarked_and_on_the_page_and_the_recommended_one_is_quantized(run):
    front = read_table(run.results / "search/mine/front.csv")
    page = (run.results / "summary.html").read_text()
    summary = read_table(run.results / "summary/mine.csv")
    judged = read_table(run.results / "search/mine/judgement.csv").set_index("subnet_id")
    (recommended,) = judged.index[judged["recommended"]]
    assert (run.results / f"networks/{recommended}/int8/config.json").is_file()
    assert (run.results / f"cards/{recommended}-int8.md").is_file()
    for subnet_id, parameters in zip(front["subnet_id"], front["parameters"], strict=True):
        assert (run.results / f"networks/{subnet_id}/hf/config.json").is_file()
        assert subnet_id in page or subnet_id == "-".join(["0" * 8] * 4)
        rows = summary[summary["model"] == subnet_id]
        assert set(rows["precision"]) == ({"fp16", "int8"} if subnet_id == recommended else {"fp16"})
        assert set(rows["parameters"]) == {parameters}
    assert json.loads((run.results / "agreement/mine.json").read_text())["agrees"]


def test_other_forms_of_the_all_narrow_network_are_targets(run):
    narrow = run.space.id(three_networks(run.space)[1])
    run.snakemake(*(f"results/networks/{narrow}/{form}" for form in ("padded", "deci")))
    for form, width in (("padded", 32), ("deci", 256)):
        config = json.loads((run.results / f"networks/{narrow}/{form}/config.json").read_text())
        assert config["num_hidden_layers"] == 32 and config["intermediate_size"] == width


def test_figures_are_drawn_for_32_layers(run):
    for name in ("front", "quantized", "speed", "progress", "depths", "blocks"):
        assert (run.results / f"figures/mine_{name}.svg").stat().st_size > 1000
    blocks = pd.read_csv(run.results / "patterns/mine_blocks.csv")
    assert blocks["layer"].max() == 32 and set(blocks["block"]) == {"mlp width 64", "mlp width 32"}
