"""studies/search/search.py searches as the workflow does, measures what it says, and its tables are of their spaces."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.support.search import SPACE, Run, SyntheticTask

from llama_nas.core.artifacts import read_json, read_table
from llama_nas.core.pareto import hypervolume
from llama_nas.search import encoding
from llama_nas.search.algorithms import sampling

STUDY = Path(__file__).resolve().parents[3] / "studies/search"


@pytest.fixture
def study(monkeypatch):
    """The script as a module, cut down to three rounds of 12 networks."""
    spec = importlib.util.spec_from_file_location("search_study", STUDY / "search.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "search_study", module)
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
    columns = {"subnet_id": ids, "parameters": encoding.parameters(SPACE, genotypes)}
    pd.DataFrame(columns).assign(acc=SyntheticTask().accuracy(ids)).to_csv(tmp_path / "truth.csv.gz", index=False)
    SPACE.write(tmp_path / "space.json")
    about = {"task": "toy", "metric": "acc", "higher_is_better": True, "space": read_json(tmp_path / "space.json")}
    (tmp_path / "truth.json").write_text(json.dumps(about))
    return tmp_path / "truth.csv.gz"


@pytest.mark.parametrize("name", ["linas, strict", "linas, default", "nsga2", "random", "additive"])
def test_it_evaluates_what_the_stages_evaluate(study, table, tmp_path, name):
    algorithm, variant, *_ = study.ALGORITHMS[name]
    predictor = "auto" if algorithm == "linas" else "ridge"  # others do not read it
    evaluations = Run(tmp_path / "run", algorithm=algorithm, variant=variant, predictor=predictor).all(3)
    rounds = study.search(study.read(table), name, 1)
    ids = [encoding.subnet_ids(SPACE, genotypes) for genotypes in rounds]
    assert ids == [rows["subnet_id"].tolist() for _, rows in evaluations.groupby("round")]


def test_it_measures_hypervolume_as_a_share_of_the_true_fronts(study, table):
    rows = study.measure(table, "random", 3)
    assert [row["evaluations"] for row in rows] == [5, 10, 15, 20, 25, 30, 35]
    everything = read_table(table)
    best, worst = everything["acc"].max(), everything["acc"].min()
    smallest, largest = everything["parameters"].min(), everything["parameters"].max()

    def volume(ids) -> float:
        own = everything.set_index("subnet_id").loc[ids]
        sizes, errors = (own["parameters"] - smallest) / (largest - smallest), (best - own["acc"]) / (best - worst)
        return hypervolume(np.column_stack([sizes, errors]), np.array([1.0, 1.0]))

    drawn = np.concatenate(list(study.search(study.read(table), "random", 3)))
    ids = encoding.subnet_ids(SPACE, drawn)
    for row in rows:
        expected = volume(ids[: row["evaluations"]]) / volume(everything["subnet_id"])
        assert row["hypervolume"] == pytest.approx(expected, rel=1e-6)
    assert study.read(table).share(np.array(list(study.read(table).front))) == 1


@pytest.mark.parametrize("path", sorted((STUDY / "data").glob("*.csv.gz")), ids=lambda path: path.name)
def test_a_kept_table_has_every_network_of_its_space_with_its_size(study, path):
    kept, rows = study.read(path), read_table(path)
    assert sorted(rows["subnet_id"]) == sorted(encoding.subnet_ids(kept.space, sampling.every_network(kept.space)))
    genotypes = encoding.genotypes_of(kept.space, rows["subnet_id"])
    assert rows["parameters"].tolist() == encoding.parameters(kept.space, genotypes).tolist()
