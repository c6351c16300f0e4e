"""A whole search at the paper's shape, 32 layers of two widths, and at that of an 80-layer model."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.support.search import Run
from tests.support.spaces import LLAMA2_7B, PAPER_SPACE

from llama_nas.core.artifacts import read_table
from llama_nas.core.shape import ModelShape
from llama_nas.core.space import SearchSpace, full_id
from llama_nas.search import encoding
from llama_nas.search.algorithms import ALGORITHMS
from llama_nas.search.exhaustive import enumerate_space
from llama_nas.search.front import choose_finalists
from llama_nas.search.heuristics import find_heuristics

LLAMA2_70B = ModelShape(
    model_type="llama",
    hidden_size=8192,
    intermediate_size=28672,
    num_hidden_layers=80,
    num_attention_heads=64,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=32000,
)
SPACES = {"32 layers": PAPER_SPACE, "80 layers": SearchSpace.declare(LLAMA2_70B, [60, 70, 80], [28672, 14336])}
ROUNDS = 3
PROCEDURES = [(name, "default") for name in ALGORITHMS] + [("linas", "strict")]


class Planted:
    """Accuracy that is a sum over layers, but for three networks that stand out at their sizes."""

    higher_is_better = True

    def __init__(self, space: SearchSpace):
        self.space = space
        narrow = space.subnet((len(space.depths) - 1, *[1] * space.num_layers))
        self.planted = {space.id(space.full): 0.9, space.id(narrow): 0.85, space.id(space.smallest): 0.8}
        self.worth = np.random.default_rng(0).exponential(size=(space.num_layers, 2))

    def accuracy(self, ids: list[str]) -> np.ndarray:
        genotypes = encoding.genotypes_of(self.space, ids)
        layers = np.where(genotypes[:, 1:] == 0, *self.worth.T)
        kept = encoding.active_genes(self.space, genotypes)[:, 1:]
        sums = 0.25 + 0.5 * np.where(kept, layers, 0).sum(axis=1) / self.worth.max(axis=1).sum()
        return np.array([self.planted.get(i, value) for i, value in zip(ids, sums, strict=True)])


def grouped_ids(layers: int) -> re.Pattern[str]:
    """How an id of this many layers is written: groups of eight, so that 32 layers are four of them."""
    return re.compile("-".join(["[01x]{8}"] * (layers // 8)))


def add_candidates(path: Path, ids: list[str]) -> None:
    """Let networks be evaluated that the algorithm has not proposed."""
    candidates = read_table(path)
    ids = [subnet_id for subnet_id in ids if subnet_id not in set(candidates["subnet_id"])]
    more = pd.DataFrame({"candidate": len(candidates) + np.arange(len(ids)), "subnet_id": ids, "origin": "named"})
    pd.concat([candidates, more]).to_csv(path, index=False)


def whole_search(run: Run) -> pd.DataFrame:
    """Every stage of a search, in order; the front. The planted networks are evaluated in the last round."""
    for round_number in range(1, ROUNDS + 1):
        if round_number == 1:
            run.sample()
        else:
            run.propose(round_number)
        if round_number == ROUNDS:
            add_candidates(run.path(ROUNDS, "candidates.csv"), list(run.task.planted))
        run.gather(round_number, run.evaluate(round_number))
    evaluations = run.path(ROUNDS, "evaluations.csv")
    choose_finalists(run.folder / "finalists.csv", **run.inputs, evaluations=evaluations, goals=run.goals)
    find_heuristics(run.folder / "heuristics.csv", **run.inputs, evaluations=evaluations)
    return run.front(ROUNDS)


@pytest.mark.parametrize("layers", SPACES)
@pytest.mark.parametrize(("algorithm", "variant"), PROCEDURES)
def test_every_algorithm_goes_from_the_first_candidates_to_the_front(tmp_path, algorithm, variant, layers):
    space = SPACES[layers]
    population = 24 if space.num_layers == 32 else 48  # the additive changes fit into two rounds: 35, and 83
    task = Planted(space)
    run = Run(tmp_path, task, algorithm=algorithm, variant=variant, population=population)
    front = whole_search(run)
    full, narrow, smallest = task.planted
    assert full == full_id(smallest) and set(narrow) == {"1", "-"}
    assert (front["subnet_id"].iloc[0], front["subnet_id"].iloc[-1]) == (smallest, full)
    assert narrow in front["subnet_id"].tolist()
    for row in front.itertuples():
        subnet = space.parse(row.subnet_id)
        assert (row.layers, row.parameters) == (subnet.layers, space.shape.parameters(subnet))

    tables = [path for path in tmp_path.rglob("*.csv") if "subnet_id" in read_table(path).columns]
    names = {path.name for path in tables}
    assert {"candidates.csv", "evaluations.csv", "front.csv", "finalists.csv", "heuristics.csv"} <= names
    assert any(name.startswith("shard_") for name in names)
    written = {path: read_table(path)["subnet_id"] for path in tables}
    assert all(ids.map(grouped_ids(space.num_layers).fullmatch).all() for ids in written.values())
    inner = written[run.path(ROUNDS, "generations.csv")]
    assert len(inner) == (10 * population if algorithm == "linas" else 0)

    evaluations = read_table(run.path(ROUNDS, "evaluations.csv"))
    proposed = evaluations[evaluations["origin"] != "named"]
    assert len(proposed) == ROUNDS * population
    assert proposed["subnet_id"].is_unique or variant == "strict"
    assert ("sum" in set(proposed["origin"])) == (algorithm == "additive")


def test_the_enumeration_of_a_space_has_grouped_ids(tmp_path):
    """Ten layers: a group of eight and one of two."""
    shape = dataclasses.replace(LLAMA2_7B, num_hidden_layers=10)
    SearchSpace.declare(shape, [9], [11008, 5504]).write(tmp_path / "space.json")
    enumerate_space(tmp_path / "candidates.csv", space=tmp_path / "space.json")
    ids = read_table(tmp_path / "candidates.csv")["subnet_id"]
    assert len(set(ids)) == 2**9 and ids.str.fullmatch("[01]{8}-[01]x").all()
