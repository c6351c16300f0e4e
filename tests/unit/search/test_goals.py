"""Objectives and constraints, against enumeration and pymoo."""

import dataclasses
import json
import logging

import numpy as np
import pytest
from search_cases import (
    OPERATORS,
    SHAPE,
    SPACE,
    TASK,
    THREE_WIDTHS,
    Run,
    SyntheticTask,
    goals,
    kept_one_hot,
    stock_nsga2,
)

from llama_nas.core.artifacts import read_json, read_table, write_json
from llama_nas.core.errors import UserError
from llama_nas.core.space import PRECISIONS, ModelShape, SearchSpace
from llama_nas.search import additive, encoding, nsga, sampling
from llama_nas.search.algorithms import algorithm
from llama_nas.search.algorithms.interface import Known
from llama_nas.search.goals import Declared
from llama_nas.search.tables import Task


@pytest.fixture
def costs(tmp_path):
    """A table of layer costs in which narrow layers are no faster in a prefill, and layers alone cost in a decode."""
    table = {
        "shape": dataclasses.asdict(SHAPE),
        "phases": {
            "prefill": {"overhead_seconds": 0.5, "layer_seconds": {"256": 0.125, "128": 0.125, "64": 0.25}},
            "decode": {"overhead_seconds": 0.25, "layer_seconds": {"256": 0.03125, "128": 0.015625, "64": 0.0078125}},
        },
    }
    (tmp_path / "layers.json").write_text(json.dumps(table))
    return tmp_path / "layers.json"


def worse(genotypes: np.ndarray, space: SearchSpace = THREE_WIDTHS) -> np.ndarray:
    """A minimised metric without ties that no cost determines."""
    features = kept_one_hot(space, genotypes)
    return -features @ np.random.default_rng(4).exponential(size=features.shape[1])


def dominated(row: np.ndarray, rows: np.ndarray) -> bool:
    return bool(((rows <= row).all(axis=1) & (rows < row).any(axis=1)).any())


@pytest.mark.parametrize("space", [SPACE, THREE_WIDTHS], ids=["two widths", "three widths"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_sizes_are_exact_in_every_precision(space, precision):
    genotypes = sampling.uniform(space, 200, np.random.default_rng(0))
    size = encoding.size_costs(space, SHAPE, precision)
    expected = [SHAPE.size_bytes(space.subnet(row), precision) for row in genotypes]
    assert size.of(space, genotypes).tolist() == expected
    smallest = SHAPE.size_bytes(space.subnet((0, *[int(np.argmin(space.widths))] * 12)), precision)
    assert size.smallest(space) == smallest


def test_latency_is_the_sum_of_the_tables_layers(costs):
    genotypes = sampling.uniform(THREE_WIDTHS, 50, np.random.default_rng(0))
    table = json.loads(costs.read_text())["phases"]
    for phase in ("prefill", "decode"):
        resolved = goals(THREE_WIDTHS, objectives=["latency", "metric"], phase=phase, costs=costs)
        seconds = resolved.objectives(THREE_WIDTHS, genotypes, np.zeros(50))
        assert seconds.shape == (50, 2)  # the metric comes last, wherever it is declared
        for row, latency in zip(genotypes, seconds[:, 0], strict=True):
            layers = [table[phase]["layer_seconds"][str(w)] for w in THREE_WIDTHS.subnet(row).kept_widths]
            assert latency == table[phase]["overhead_seconds"] + sum(layers)  # exact: powers of two


# ------------------------------------------------------------------ against enumeration and pymoo


@pytest.mark.parametrize("constrained", [False, True])
def test_a_front_of_three_objectives_is_that_of_enumeration(costs, constrained):
    space = SearchSpace.for_model(SHAPE, [3, 4, 5], [256, 64, 128])
    everything = sampling.every_network(space)
    metric = worse(everything, space)
    limits = (
        {"max_size": "360kB", "precision": "int8", "min_accuracy": float(np.median(-metric))} if constrained else {}
    )
    resolved = goals(space, objectives=["metric", "parameters", "latency"], phase="prefill", costs=costs, **limits)
    rows = resolved.objectives(space, everything, metric)
    subnets = [space.subnet(row) for row in everything]
    assert rows[:, 0].tolist() == [SHAPE.parameters(subnet) for subnet in subnets]
    allowed = np.ones(len(rows), dtype=bool)
    if constrained:
        allowed = np.array([SHAPE.size_bytes(subnet, "int8") <= 360_000 for subnet in subnets])
        allowed &= metric <= np.median(metric)
        assert 10 < allowed.sum() < len(rows) - 10
    assert np.array_equal(resolved.violation(space, everything, metric) == 0, allowed)
    expected = [ok and not dominated(row, rows[allowed]) for ok, row in zip(allowed, rows, strict=True)]
    assert resolved.front(space, everything, metric).tolist() == expected and sum(expected) > 10


def test_what_no_network_meets_leaves_those_nearest_to_it():
    everything = sampling.every_network(SPACE)[::7]
    metric = np.random.default_rng(0).random(len(everything))
    resolved = goals(min_accuracy=2.0)
    mask = resolved.front(SPACE, everything, metric)
    assert np.flatnonzero(mask).tolist() == [np.argmin(metric)]
    assert not resolved.front(SPACE, everything[:0], metric[:0]).any()


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0], ids=["none allowed", "half", "all"])
def test_constraints_and_three_objectives_are_pymoos_bit_by_bit(share):
    space, operators = THREE_WIDTHS, nsga.Operators(0.8, 5.0, 0.5, 3.0)
    start = sampling.uniform(space, 30, np.random.default_rng(1))
    limit = {0.0: -100.0, 0.5: np.median(worse(start)), 1.0: 100.0}[share]

    def objectives(genotypes):
        layers = (genotypes[:, 1:] == 1).sum(axis=1)
        return np.column_stack([encoding.parameters(space, SHAPE, genotypes), layers, worse(genotypes)])

    stock = stock_nsga2(space, objectives, start, 15, operators, lambda genotypes: worse(genotypes) - limit)
    violation = lambda genotypes, values: np.maximum(values[:, -1] - limit, 0)  # noqa: E731
    ours = nsga.nsga2(space, objectives, start, 30, 15, operators, "strict", 7, violation)
    for generation in ours:
        stock.next()
        assert np.array_equal(generation.genotypes, stock.pop.get("X"))
        assert np.array_equal(generation.objectives, stock.pop.get("F"))
        assert generation.violation == pytest.approx(stock.pop.get("CV")[:, 0])
    within = [(generation.violation == 0).mean() for generation in ours]
    assert within[-1] == min(1, share * 2) and within[0] == pytest.approx(share, abs=0.04)


def test_the_inner_search_finds_a_constrained_front_of_three_objectives(costs):
    """With the true metric for a predictor; hypervolume of three objectives by pymoo."""
    from pymoo.indicators.hv import HV

    space = SearchSpace.for_model(SHAPE, [3, 5], [256, 64, 128])
    everything = sampling.every_network(space)
    metric = worse(everything, space)
    resolved = goals(
        space,
        objectives=["metric", "parameters", "latency"],
        phase="prefill",
        costs=costs,
        max_size="370kB",
        precision="int8",
        min_accuracy=float(np.median(-metric)),
    )
    rows = resolved.objectives(space, everything, metric)
    low, high = rows.min(axis=0), rows.max(axis=0)
    volume = HV(ref_point=np.full(3, 1.01))
    truth = volume((rows[resolved.front(space, everything, metric)] - low) / (high - low))
    last = nsga.nsga2(
        space,
        lambda genotypes: resolved.objectives(space, genotypes, worse(genotypes, space)),
        sampling.uniform(space, 40, np.random.default_rng(1)),
        40,
        25,
        OPERATORS,
        "default",
        2,
        lambda genotypes, values: resolved.violation(space, genotypes, values[:, -1]),
    )[-1]
    assert (last.violation == 0).all()
    assert 0.97 * truth < volume((last.objectives - low) / (high - low)) <= truth * (1 + 1e-12)


# ------------------------------------------------------------------ what is proposed


LIMITS = {"max_size": "650kB", "precision": "int8"}


@pytest.mark.parametrize("enumerable", [0, sampling.ENUMERABLE], ids=["by chance", "enumerated"])
@pytest.mark.parametrize("name", ["linas", "nsga2", "random"])
def test_nothing_beyond_max_size_is_proposed(monkeypatch, name, enumerable):
    monkeypatch.setattr(sampling, "ENUMERABLE", enumerable)
    resolved, chosen = goals(THREE_WIDTHS, **LIMITS), algorithm(name, "default", 20, 5)
    genotypes = chosen.first(THREE_WIDTHS, resolved, 20, np.random.default_rng(1)).genotypes
    assert len(genotypes) == 20
    for round_number in (2, 3):
        values = resolved.objectives(THREE_WIDTHS, genotypes, worse(genotypes))
        rounds = np.repeat(np.arange(1, round_number), 20)
        known = Known(genotypes, values, rounds)
        more = chosen.next(
            THREE_WIDTHS, resolved, known, 20, worse if chosen.uses_predictor else None, np.random.default_rng(2)
        )
        genotypes = np.concatenate([genotypes, more.genotypes])
    ids = encoding.subnet_ids(THREE_WIDTHS, genotypes)
    sizes = [SHAPE.size_bytes(THREE_WIDTHS.parse(subnet_id), "int8") for subnet_id in ids]
    assert max(sizes) <= 650_000 and len(set(ids)) == 60


def test_a_first_round_is_spread_up_to_max_size():
    resolved = goals(THREE_WIDTHS, **LIMITS)
    genotypes, origins = sampling.spread(THREE_WIDTHS, resolved, 40, np.random.default_rng(0))
    assert origins.count("stratified") > 30
    sizes = np.sort(resolved.size.of(THREE_WIDTHS, genotypes))
    smallest = resolved.size.smallest(THREE_WIDTHS)
    assert sizes[-1] <= 650_000
    assert np.diff([smallest, *sizes, 650_000]).max() < 0.15 * (650_000 - smallest)


def test_a_limit_that_few_networks_meet_ends_the_search_early(monkeypatch):
    """Just above the smallest network, in a space that is not listed: no endless draws."""
    monkeypatch.setattr(sampling, "ENUMERABLE", 0)
    size = encoding.size_costs(SPACE, SHAPE, "fp16")
    resolved = goals(max_size=str(int(size.smallest(SPACE) + size.of_width[0] - size.of_width[1])))
    found = sampling.unseen(SPACE, 50, [], np.random.default_rng(0), resolved)
    everything = sampling.every_network(SPACE)
    fitting = encoding.subnet_ids(SPACE, everything[resolved.fits(SPACE, everything)])
    assert len(fitting) == 10 and sorted(encoding.subnet_ids(SPACE, found)) == sorted(fitting)


def test_evaluations_go_to_networks_predicted_within_min_accuracy():
    """All of a round, once the predictor is right; without the constraint most would be elsewhere."""
    genotypes = sampling.uniform(SPACE, 60, np.random.default_rng(0))
    metric = lambda rows: -kept_one_hot(SPACE, rows)[:, 3::2].sum(axis=1)  # noqa: E731
    known = Known(genotypes, goals().objectives(SPACE, genotypes, metric(genotypes)), np.ones(60, dtype=int))
    within = {}
    for declared in ({}, {"min_accuracy": 9.0}):
        linas = algorithm("linas", "default", 30, 25)
        proposal = linas.next(SPACE, goals(**declared), known, 30, metric, np.random.default_rng(3))
        within[bool(declared)] = (proposal.predicted <= -9).mean()
    assert within[True] == 1 and within[False] < 0.7


def test_additive_solves_for_any_cost(costs):
    """Sums of the metric against seconds instead of sizes, against enumeration."""
    space = SearchSpace.for_model(SHAPE, [4, 6], [256, 64, 128])
    resolved = goals(space, objectives=["metric", "latency"], phase="prefill", costs=costs)
    everything = sampling.every_network(space)
    worth = np.random.default_rng(3).normal(size=(13, 3))
    rows = resolved.objectives(space, everything, additive.sum_of_costs(space, worth, everything))
    found = set(encoding.subnet_ids(space, additive.best_sums(space, resolved.costs[0], worth, 1)))
    best = [not dominated(row, rows) for row in rows]
    assert (
        set(np.array(encoding.subnet_ids(space, everything))[best])
        <= found
        < set(encoding.subnet_ids(space, everything))
    )


# ------------------------------------------------------------------ a run


def test_a_run_within_constraints(tmp_path, costs):
    """Nothing beyond max_size is evaluated, and the front is what brute force finds in all objectives."""
    declared = Declared(["metric", "parameters", "latency"], "int8", "700kB", 0.55, "prefill", costs)
    run = Run(tmp_path / "run", goals=declared, population=16)
    evaluations = run.all(3)
    front = run.front(3)
    sizes = [SHAPE.size_bytes(SPACE.parse(subnet_id), "int8") for subnet_id in evaluations["subnet_id"]]
    assert max(sizes) <= 700_000 and len(evaluations) == 48
    seconds = 0.5 + 0.125 * evaluations["layers"]
    rows = np.column_stack([evaluations["parameters"], seconds, -evaluations["acc"]])
    allowed = (evaluations["acc"] >= 0.55).to_numpy()
    assert 0 < allowed.sum() < 48
    expected = [ok and not dominated(row, rows[allowed]) for ok, row in zip(allowed, rows, strict=True)]
    assert set(front["subnet_id"]) == set(evaluations["subnet_id"][expected])
    assert front["latency"].tolist() == (0.5 + 0.125 * front["layers"]).tolist()
    assert list(front.columns)[-1] == "latency" and front["parameters"].is_monotonic_increasing


def test_a_constraint_that_the_search_has_not_met_is_said(tmp_path, caplog):
    run = Run(tmp_path, goals=Declared(min_accuracy=0.99))
    with caplog.at_level(logging.WARNING):
        evaluations = run.all(2)
    best = evaluations.loc[evaluations["acc"].idxmax(), "subnet_id"]
    assert read_table(tmp_path / "front.csv")["subnet_id"].tolist() == [best]
    assert "toy: no network meets the constraints" in caplog.text


# ------------------------------------------------------------------ refusals


def test_constraints_that_cannot_be_met_are_refused_at_the_start(tmp_path):
    with pytest.raises(UserError, match=r"search\.max_size 100kB: the smallest network of the space has .* in int8"):
        Run(tmp_path / "a", goals=Declared(max_size="100kB", precision="int8")).sample()
    with pytest.raises(
        UserError, match=r"tasks\.toy\.min_accuracy: the task is judged by acc, of which less is better"
    ):
        Run(tmp_path / "b", SyntheticTask(higher_is_better=False), goals=Declared(min_accuracy=0.5)).sample()
    with pytest.raises(UserError, match=r"search\.max_size '9XB': expected"):
        Run(tmp_path / "c", goals=Declared(max_size="9XB")).sample()


def test_a_table_of_layer_costs_must_be_of_this_model_and_these_widths(costs):
    def refused(message: str, shape: ModelShape = SHAPE, space: SearchSpace = SPACE, **declared) -> None:
        with pytest.raises(UserError, match=message):
            Declared(["metric", "latency"], **declared).on(space, shape, Task(*dataclasses.astuple(TASK)))

    refused("--costs: is missing")
    refused("nowhere.json", costs=costs.with_name("nowhere.json"))
    refused("another shape", dataclasses.replace(SHAPE, vocab_size=1000), costs=costs)
    refused(r"widths \[256, 32\]", space=SearchSpace.for_model(SHAPE, [4], [256, 32]), costs=costs)


def test_layers_that_take_no_time_are_refused(costs, tmp_path):
    """What a busy machine measures of a small model."""
    table = read_json(costs)
    width = str(SPACE.widths[-1])
    table["phases"]["decode"]["layer_seconds"][width] = -1e-5
    write_json(tmp_path / "layers.json", table)
    with pytest.raises(UserError, match=r"takes -1\.0e-05 s in decode is noise; .*costs\.repeats"):
        Declared(["metric", "latency"], costs=tmp_path / "layers.json").on(
            SPACE, SHAPE, Task(*dataclasses.astuple(TASK))
        )
    Declared(["metric", "latency"], phase="prefill", costs=tmp_path / "layers.json").on(
        SPACE, SHAPE, Task(*dataclasses.astuple(TASK))
    )
