"""benchmarks/search.py searches as the workflow does, and measures what it says."""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from search_cases import SHAPE, SPACE, Run, SyntheticTask

from llama_nas.core.artifacts import read_table
from llama_nas.core.pareto import hypervolume
from llama_nas.search import encoding, sampling

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/search.py"


@pytest.fixture
def benchmark(monkeypatch):
    """The script as a module, cut down to three rounds of 12 networks."""
    spec = importlib.util.spec_from_file_location("search_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "search_benchmark", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "EVALUATIONS", 36)
    fewer = {name: (*settings[:2], 10, 12) for name, settings in module.ALGORITHMS.items()}
    monkeypatch.setattr(module, "ALGORITHMS", fewer)
    return module


@pytest.fixture
def table(tmp_path) -> Path:
    """A synthetic task as `llama-nas tabulate` writes it."""
    ids = encoding.subnet_ids(SPACE, sampling.every_network(SPACE))
    genotypes = encoding.genotypes_of(SPACE, ids)
    columns = {"subnet_id": ids, "parameters": encoding.parameters(SPACE, SHAPE, genotypes)}
    pd.DataFrame(columns).assign(acc=SyntheticTask().accuracy(ids)).to_csv(tmp_path / "truth.csv.gz", index=False)
    about = {"task": "toy", "metric": "acc", "higher_is_better": True, "shape": dataclasses.asdict(SHAPE)}
    about |= {"depths": SPACE.depths, "widths": SPACE.widths, "depth_selection": "first"}
    (tmp_path / "truth.json").write_text(json.dumps(about))
    return tmp_path / "truth.csv.gz"


@pytest.mark.parametrize("name", ["linas, strict", "linas, default", "nsga2", "random", "additive"])
def test_it_evaluates_what_the_stages_evaluate(benchmark, table, tmp_path, name):
    algorithm, variant, *_ = benchmark.ALGORITHMS[name]
    predictor = "auto" if algorithm == "linas" else "ridge"  # others do not read it
    evaluations = Run(tmp_path / "run", algorithm=algorithm, variant=variant, predictor=predictor).all(3)
    rounds = benchmark.search(benchmark.read(table), name, 1)
    ids = [encoding.subnet_ids(SPACE, genotypes) for genotypes in rounds]
    assert ids == [rows["subnet_id"].tolist() for _, rows in evaluations.groupby("round")]


def test_it_measures_hypervolume_as_a_share_of_the_true_fronts(benchmark, table):
    rows = benchmark.measure(table, "random", 3)
    assert [row["evaluations"] for row in rows] == [5, 10, 15, 20, 25, 30, 35]
    everything = read_table(table)
    best, worst = everything["acc"].max(), everything["acc"].min()
    smallest, largest = everything["parameters"].min(), everything["parameters"].max()

    def volume(ids) -> float:
        own = everything.set_index("subnet_id").loc[ids]
        sizes, errors = (own["parameters"] - smallest) / (largest - smallest), (best - own["acc"]) / (best - worst)
        return hypervolume(np.column_stack([sizes, errors]), np.array([1.0, 1.0]))

    drawn = np.concatenate(list(benchmark.search(benchmark.read(table), "random", 3)))
    ids = encoding.subnet_ids(SPACE, drawn)
    for row in rows:
        expected = volume(ids[: row["evaluations"]]) / volume(everything["subnet_id"])
        assert row["hypervolume"] == pytest.approx(expected, rel=1e-6)
    assert benchmark.read(table).share(np.array(list(benchmark.read(table).front))) == 1
