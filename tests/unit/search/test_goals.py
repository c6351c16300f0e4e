"""Objectives and constraints, against enumeration and pymoo."""

import dataclasses
import logging

import numpy as np
import pytest
from tests.support.search import (
    SHAPE,
    SPACE,
    THREE_WIDTHS,
    Run,
    SyntheticTask,
    algorithm,
    evolution,
    goals,
    kept_one_hot,
)

from llama_nas.core.artifacts import read_json, read_table, write_json
from llama_nas.core.errors import UserError
from llama_nas.core.space import SearchSpace
from llama_nas.search import encoding
from llama_nas.search.algorithms import additive, nsga2, sampling
from llama_nas.search.algorithms.interface import Known, State
from llama_nas.search.settings import Evolution, GoalSettings


def worse(genotypes: np.ndarray, space: SearchSpace = THREE_WIDTHS) -> np.ndarray:
    """A minimised metric without ties that no cost determines."""
    features = kept_one_hot(space, genotypes)
    return -features @ np.random.default_rng(4).exponential(size=features.shape[1])


def dominated(row: np.ndarray, rows: np.ndarray) -> bool:
    return bool(((rows <= row).all(axis=1) & (rows < row).any(axis=1)).any())


@pytest.mark.parametrize(
    ("phase", "without", "seconds"),
    [
        ("prefill", 0.5, {256: 0.125, 64: 0.25, 128: 0.125}),
        ("decode", 0.25, {256: 0.03125, 64: 0.0078125, 128: 0.015625}),
    ],
)
def test_latency_is_the_sum_of_the_tables_layers(latency_table, phase, without, seconds):
    genotypes = sampling.uniform(THREE_WIDTHS, 50, np.random.default_rng(0))
    measured = [f"latency={latency_table(THREE_WIDTHS, phase)}"]
    resolved = goals(THREE_WIDTHS, objectives=["latency", "metric"], measured=measured)
    objectives = resolved.objectives(THREE_WIDTHS, genotypes, np.zeros(50))
    assert objectives.shape == (50, 2)  # the metric comes last, wherever it is declared
    for row, latency in zip(genotypes, objectives[:, 0], strict=True):
        layers = [seconds[width] for width in THREE_WIDTHS.subnet(row).widths]
        assert latency == without + sum(layers)  # exact: powers of two


def test_size_as_an_objective_is_that_of_the_precision():
    genotypes = sampling.uniform(SPACE, 20, np.random.default_rng(0))
    for precision in ("fp16", "nf4"):
        resolved = goals(objectives=["metric", "size"], precision=precision)
        sizes = resolved.objectives(SPACE, genotypes, np.zeros(20))[:, 0]
        assert sizes.tolist() == [SHAPE.size_bytes(SPACE.subnet(row), precision) for row in genotypes]


# ------------------------------------------------------------------ against enumeration and pymoo


@pytest.mark.parametrize("constrained", [False, True])
def test_a_front_of_three_objectives_is_that_of_enumeration(latency_table, constrained):
    space = SearchSpace.declare(SHAPE, [3, 4, 5], [256, 64, 128])
    everything = sampling.every_network(space)
    metric = worse(everything, space)
    limits = (
        {"max_size": "360kB", "precision": "int8", "min_accuracy": float(np.median(-metric))} if constrained else {}
    )
    measured = [f"latency={latency_table(space)}"]
    resolved = goals(space, objectives=["metric", "parameters", "latency"], measured=measured, **limits)
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
def test_constraints_and_three_objectives_are_pymoos_bit_by_bit(stock_nsga2, share):
    space, settings = THREE_WIDTHS, Evolution(15, 0.8, 5.0, 0.5, 3.0)
    start = sampling.uniform(space, 30, np.random.default_rng(1))
    limit = {0.0: -100.0, 0.5: np.median(worse(start)), 1.0: 100.0}[share]

    def objectives(genotypes):
        layers = (genotypes[:, 1:] == 1).sum(axis=1)
        return np.column_stack([encoding.parameters(space, genotypes), layers, worse(genotypes)])

    stock = stock_nsga2(space, objectives, start, settings, lambda genotypes: worse(genotypes) - limit)
    violation = lambda genotypes, values: np.maximum(values[:, -1] - limit, 0)  # noqa: E731
    ours = nsga2.nsga2(space, objectives, start, 30, settings, "strict", 7, violation)
    for generation in ours:
        stock.next()
        assert np.array_equal(generation.genotypes, stock.pop.get("X"))
        assert np.array_equal(generation.objectives, stock.pop.get("F"))
        assert generation.violation == pytest.approx(stock.pop.get("CV")[:, 0])
    within = [(generation.violation == 0).mean() for generation in ours]
    assert within[-1] == min(1, share * 2) and within[0] == pytest.approx(share, abs=0.04)


def test_the_inner_search_finds_a_constrained_front_of_three_objectives(latency_table):
    """With the true metric for a predictor; hypervolume of three objectives by pymoo."""
    from pymoo.indicators.hv import HV

    space = SearchSpace.declare(SHAPE, [3, 5], [256, 64, 128])
    everything = sampling.every_network(space)
    metric = worse(everything, space)
    resolved = goals(
        space,
        objectives=["metric", "parameters", "latency"],
        measured=[f"latency={latency_table(space)}"],
        max_size="370kB",
        precision="int8",
        min_accuracy=float(np.median(-metric)),
    )
    rows = resolved.objectives(space, everything, metric)
    low, high = rows.min(axis=0), rows.max(axis=0)
    volume = HV(ref_point=np.full(3, 1.01))
    truth = volume((rows[resolved.front(space, everything, metric)] - low) / (high - low))
    last = nsga2.nsga2(
        space,
        lambda genotypes: resolved.objectives(space, genotypes, worse(genotypes, space)),
        sampling.uniform(space, 40, np.random.default_rng(1)),
        40,
        evolution(25),
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
    resolved, chosen = goals(THREE_WIDTHS, **LIMITS), algorithm(name)
    predict = worse if chosen.uses_predictor else None
    nothing = Known.nothing(THREE_WIDTHS, resolved)
    genotypes = chosen.first(State(THREE_WIDTHS, resolved, nothing, 20, np.random.default_rng(1))).genotypes
    assert len(genotypes) == 20
    for round_number in (2, 3):
        values = resolved.objectives(THREE_WIDTHS, genotypes, worse(genotypes))
        rounds = np.repeat(np.arange(1, round_number), 20)
        known = Known(genotypes, values, rounds)
        more = chosen.next(State(THREE_WIDTHS, resolved, known, 20, np.random.default_rng(2), predict))
        genotypes = np.concatenate([genotypes, more.genotypes])
    ids = encoding.subnet_ids(THREE_WIDTHS, genotypes)
    sizes = [SHAPE.size_bytes(THREE_WIDTHS.parse(subnet_id), "int8") for subnet_id in ids]
    assert max(sizes) <= 650_000 and len(set(ids)) == 60


def test_a_first_round_is_spread_up_to_max_size():
    resolved = goals(THREE_WIDTHS, **LIMITS)
    genotypes, origins = sampling.spread(THREE_WIDTHS, resolved, 40, np.random.default_rng(0))
    assert origins.count("stratified") > 30
    sizes = np.sort(encoding.cost_of(resolved.size, THREE_WIDTHS, genotypes))
    smallest = encoding.least_cost(resolved.size, THREE_WIDTHS)
    assert sizes[-1] <= 650_000
    assert np.diff([smallest, *sizes, 650_000]).max() < 0.15 * (650_000 - smallest)


def test_a_limit_that_few_networks_meet_ends_the_search_early(monkeypatch):
    """Just above the smallest network, in a space that is not listed: no endless draws."""
    monkeypatch.setattr(sampling, "ENUMERABLE", 0)
    size = encoding.size_costs(SPACE, "fp16")
    resolved = goals(max_size=str(int(encoding.least_cost(size, SPACE) + size.of_block[0] - size.of_block[1])))
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
        linas = algorithm("linas", 30, generations=25)
        proposal = linas.next(State(SPACE, goals(**declared), known, 30, np.random.default_rng(3), metric))
        within[bool(declared)] = (proposal.predicted <= -9).mean()
    assert within[True] == 1 and within[False] < 0.7


def test_additive_solves_for_any_cost(latency_table):
    """Sums of the metric against seconds instead of sizes, against enumeration."""
    space = SearchSpace.declare(SHAPE, [4, 6], [256, 64, 128])
    resolved = goals(space, objectives=["metric", "latency"], measured=[f"latency={latency_table(space)}"])
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


def test_a_run_within_constraints(tmp_path, latency_table):
    """Nothing beyond max_size is evaluated, and the front is what brute force finds in all objectives."""
    measured = [f"latency={latency_table(SPACE)}"]
    declared = GoalSettings(["metric", "parameters", "latency"], "int8", "700kB", 0.55, measured)
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
    run = Run(tmp_path, goals=GoalSettings(min_accuracy=0.99))
    with caplog.at_level(logging.WARNING):
        evaluations = run.all(2)
    best = evaluations.loc[evaluations["acc"].idxmax(), "subnet_id"]
    assert read_table(tmp_path / "front.csv")["subnet_id"].tolist() == [best]
    assert "toy: no network meets the constraints" in caplog.text


# ------------------------------------------------------------------ refusals


def test_constraints_that_cannot_be_met_are_refused_at_the_start(tmp_path):
    with pytest.raises(UserError, match=r"search\.max_size 100kB: the smallest network of the space has .* in int8"):
        Run(tmp_path / "a", goals=GoalSettings(max_size="100kB", precision="int8")).sample()
    with pytest.raises(
        UserError, match=r"tasks\.toy\.min_accuracy: the task is judged by acc, of which less is better"
    ):
        Run(tmp_path / "b", SyntheticTask(higher_is_better=False), goals=GoalSettings(min_accuracy=0.5)).sample()
    with pytest.raises(UserError, match=r"search\.max_size '9XB': expected"):
        Run(tmp_path / "c", goals=GoalSettings(max_size="9XB")).sample()


def test_a_table_of_layer_costs_must_be_of_this_cost_model_and_blocks(latency_table, tmp_path):
    table = latency_table(SPACE)

    def refused(message: str, *measured: str, space: SearchSpace = SPACE) -> None:
        with pytest.raises(UserError, match=message):
            goals(space, objectives=["metric", "latency"], measured=measured)

    refused("--measured: latency=FILE is missing")
    refused("--measured: latency=FILE is missing", f"parameters={table}")
    refused("--measured 'latency': expected NAME=FILE", "latency")
    refused(r"nowhere\.json: not found", f"latency={tmp_path / 'nowhere.json'}")
    other = SearchSpace.declare(dataclasses.replace(SHAPE, vocab_size=1000), [9, 10, 12], [256, 128])
    refused("on a model of another shape", f"latency={table}", space=other)
    refused("on other blocks", f"latency={table}", space=SearchSpace.declare(SHAPE, [4], [256, 32]))
    write_json(tmp_path / "energy.json", read_json(table) | {"cost": "energy"})
    refused("is a table of energy, not of latency", f"latency={tmp_path / 'energy.json'}")
    write_json(tmp_path / "other.json", {"cost": "latency"})
    refused("not a table of layer costs", f"latency={tmp_path / 'other.json'}")


def test_an_unknown_objective_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="--objectives energy: is not one of metric, parameters, size, latency"):
        goals(objectives=["metric", "energy"])


def test_layers_that_take_no_time_are_refused(latency_table, tmp_path):
    """A busy machine measures such layers of a small model."""
    table = read_json(latency_table(SPACE, "decode"))
    write_json(tmp_path / "noise.json", table | {"of_block": [table["of_block"][0], -1e-5]})
    with pytest.raises(UserError, match=r"takes -1\.0e-05 s is noise; .*costs\.repeats"):
        goals(objectives=["metric", "latency"], measured=[f"latency={tmp_path / 'noise.json'}"])
