"""A second elastic axis reaches the search, the sharing of layers and the analysis with no edit of them.

The axis is a toy: how many attention heads a layer keeps. In the package an axis is a field of `Block` and what
`ModelShape.linears` makes of the field; here two subclasses have both. Everything else is the package's own.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from tests.support import search as support
from tests.support.search import Run, goals

from llama_nas.analysis.patterns import PERCENTILES, TOP, block_maps, find_patterns, layer_counts
from llama_nas.core import space as space_module
from llama_nas.core.artifacts import read_json, read_table, write_json
from llama_nas.core.costs import LayerCosts
from llama_nas.core.errors import UserError
from llama_nas.core.judgement import Metric
from llama_nas.core.pareto import non_dominated
from llama_nas.core.precisions import PRECISIONS
from llama_nas.core.shape import Block, ModelShape, Subnet
from llama_nas.core.space import SearchSpace, grouped, kept_layers
from llama_nas.scoring.sharing import layer_passes, path, plan
from llama_nas.search import encoding
from llama_nas.search.algorithms import ALGORITHMS, additive, sampling
from llama_nas.search.exhaustive import enumerate_space
from llama_nas.search.front import choose_finalists
from llama_nas.search.heuristics import find_heuristics, likeliest_blocks
from llama_nas.search.settings import GoalSettings


@dataclass(frozen=True, order=True)
class HeadsBlock(Block):
    """A layer that keeps some of its attention heads."""

    heads: int


@dataclass(frozen=True)
class HeadsShape(ModelShape):
    """A model whose attention is as wide as a block's heads."""

    def linears(self, block: Block) -> list[tuple[int, int, int]]:
        _, keys, values, _, *mlp = super().linears(block)
        width = block.heads * self.head_dim
        return [(width, self.hidden_size, 0), keys, values, (self.hidden_size, width, 0), *mlp]


def space_of(layers: int, depths: list[int]) -> SearchSpace:
    """Two widths by two head counts, the base model's first, and no order of size among the others."""
    shape = HeadsShape(**dataclasses.asdict(support.SHAPE) | {"num_hidden_layers": layers})
    blocks = (HeadsBlock(256, heads=4), HeadsBlock(128, heads=2), HeadsBlock(256, heads=2), HeadsBlock(128, heads=4))
    return SearchSpace(shape, blocks, tuple(kept_layers("even", depth, layers) for depth in depths))


SPACE = space_of(6, [4, 5, 6])
SMALL = space_of(3, [2, 3])


class Sums:
    """A synthetic accuracy: what every block is worth in every layer that is kept, summed. Larger is mostly better."""

    higher_is_better = True

    def __init__(self, space: SearchSpace, worth: np.ndarray | None = None):
        drawn = np.random.default_rng(0).random((space.num_layers, len(space.blocks)))
        drawn += np.argsort(space.blocks_by_size) / 2  # the rank of each block among the sizes
        self.space, self.worth = space, drawn if worth is None else worth

    def accuracy(self, ids: list[str]) -> np.ndarray:
        networks = [self.space.parse(subnet_id) for subnet_id in ids]
        return np.array([sum(self._worth(layer, block) for layer, block in path(network)) for network in networks])

    def _worth(self, layer: int, block: Block) -> float:
        return self.worth[layer, self.space.blocks.index(block)]


def dominated(row: np.ndarray, rows: np.ndarray) -> bool:
    return bool(((rows <= row).all(axis=1) & (rows < row).any(axis=1)).any())


@pytest.fixture
def from_file(monkeypatch) -> None:
    """The stages read space.json with the axis, as they do where `Block` itself has the field."""
    monkeypatch.setattr(space_module, "Block", HeadsBlock)
    monkeypatch.setattr(space_module, "ModelShape", HeadsShape)


def test_the_space_and_its_file_have_every_block(tmp_path, from_file):
    SPACE.write(tmp_path / "space.json")
    assert SearchSpace.read(tmp_path / "space.json") == SPACE
    assert SPACE.num_networks == 4**4 + 4**5 + 4**6
    assert SPACE.full == Subnet((HeadsBlock(256, 4),) * 6)
    assert SPACE.smallest.kept_blocks == (HeadsBlock(128, 2),) * 4
    sizes = [SPACE.shape.parameters(Subnet((SPACE.blocks[i],))) for i in SPACE.blocks_by_size]
    assert len(set(sizes)) == 4 and sizes == sorted(sizes)


# ------------------------------------------------------------------ drawing


def _uniform(rng: np.random.Generator) -> np.ndarray:
    return sampling.uniform(SPACE, 100, rng)


def _unseen(rng: np.random.Generator) -> np.ndarray:
    return sampling.unseen(SPACE, 100, [], rng, goals(SPACE))


def _spread(rng: np.random.Generator) -> np.ndarray:
    return sampling.spread(SPACE, goals(SPACE), 100, rng)[0]


@pytest.mark.parametrize("enumerable", [0, sampling.ENUMERABLE], ids=["by chance", "enumerated"])
@pytest.mark.parametrize("draw", [_uniform, _unseen, _spread])
def test_every_draw_has_every_block_in_every_layer(monkeypatch, enumerable, draw: Callable):
    monkeypatch.setattr(sampling, "ENUMERABLE", enumerable)
    networks = [SPACE.subnet(row) for row in draw(np.random.default_rng(0))]
    assert len(networks) == 100
    for of_layer in zip(*(network.blocks for network in networks), strict=True):
        assert set(of_layer) - {None} == set(SPACE.blocks)


def test_a_first_round_is_spread_over_the_sizes_of_both_axes():
    genotypes, origins = sampling.spread(SPACE, goals(SPACE), 40, np.random.default_rng(1))
    assert origins.count("stratified") > 35
    sizes = np.sort(encoding.parameters(SPACE, genotypes))
    low, high = SPACE.shape.parameters(SPACE.smallest), SPACE.shape.parameters(SPACE.full)
    assert np.diff([low, *sizes, high]).max() < 0.15 * (high - low)


@pytest.mark.parametrize("enumerable", [0, sampling.ENUMERABLE], ids=["by chance", "enumerated"])
def test_a_limit_of_size_that_only_fewer_heads_meet_is_kept_to(monkeypatch, enumerable):
    monkeypatch.setattr(sampling, "ENUMERABLE", enumerable)
    narrow = Subnet((*[HeadsBlock(128, 4)] * 4, None, None))
    limit = SPACE.shape.size_bytes(narrow, "int8") - 1
    resolved = goals(SPACE, max_size=str(limit), precision="int8")
    drawn = sampling.unseen(SPACE, 10, [], np.random.default_rng(0), resolved)
    networks = [SPACE.subnet(row) for row in drawn]
    assert len(set(networks)) == 10
    assert all(SPACE.shape.size_bytes(network, "int8") <= limit for network in networks)
    assert all(min(block.heads for block in network.kept_blocks) == 2 for network in networks)


# ------------------------------------------------------------------ ids, encoding, costs


def test_ids_are_reversible_and_use_one_character_per_block():
    genotypes = sampling.uniform(SPACE, 200, np.random.default_rng(0))
    ids = encoding.subnet_ids(SPACE, genotypes)
    assert set("".join(ids)) == {"0", "1", "2", "3", "x"}
    for subnet_id, row in zip(ids, genotypes, strict=True):
        assert SPACE.parse(subnet_id) == SPACE.subnet(row) and SPACE.id(SPACE.parse(subnet_id)) == subnet_id
    assert np.array_equal(encoding.genotypes_of(SPACE, ids), encoding.canonical(SPACE, genotypes))


def test_a_predictor_reads_a_column_per_block_and_layer():
    genotypes = encoding.canonical(SPACE, sampling.uniform(SPACE, 200, np.random.default_rng(0)))
    encoded = encoding.one_hot(SPACE, genotypes)
    assert encoded.shape == (200, 3 + 6 * 4) and (encoded.sum(axis=0) > 0).all()
    by_layer = encoded[:, 3:].reshape(200, 6, 4)
    assert (by_layer.sum(axis=2) == 1).all() and np.array_equal(by_layer.argmax(axis=2), genotypes[:, 1:])


@pytest.mark.parametrize("space", [SPACE, space_of(32, [24, 28, 32])], ids=["6 layers", "32 layers"])
def test_costs_of_random_networks_are_the_shapes_own_arithmetic(space):
    genotypes = sampling.uniform(space, 100, np.random.default_rng(2))
    networks = [space.subnet(row) for row in genotypes]
    assert encoding.parameters(space, genotypes).tolist() == [space.shape.parameters(network) for network in networks]
    for precision in PRECISIONS:
        size = encoding.size_costs(space, precision)
        expected = [space.shape.size_bytes(network, precision) for network in networks]
        assert encoding.cost_of(size, space, genotypes).tolist() == expected
        assert encoding.least_cost(size, space) == space.shape.size_bytes(space.smallest, precision)
        assert encoding.greatest_cost(size, space) == space.shape.size_bytes(space.full, precision)


def test_a_measured_cost_is_of_blocks_of_both_axes(tmp_path):
    LayerCosts("latency", 0.5, (0.5, 0.125, 0.25, 0.375)).write(tmp_path / "latency.json", SPACE, {})
    declared = {"objectives": ["metric", "latency"], "measured": [f"latency={tmp_path / 'latency.json'}"]}
    genotypes = encoding.genotypes_of(SPACE, ["0xx123", "333333"])
    assert goals(SPACE, **declared).objectives(SPACE, genotypes, np.zeros(2))[:, 0].tolist() == [1.75, 2.75]
    table = read_json(tmp_path / "latency.json")
    write_json(tmp_path / "latency.json", table | {"blocks": [{"mlp_width": width} for width in (256, 128, 256, 128)]})
    with pytest.raises(UserError, match="on other blocks"):
        goals(SPACE, **declared)


# ------------------------------------------------------------------ enumeration


def test_a_small_space_is_listed_in_full(tmp_path, from_file):
    everything = sampling.every_network(SMALL)
    ids = encoding.subnet_ids(SMALL, everything)
    assert len(ids) == len(set(ids)) == SMALL.num_networks == 4**2 + 4**3
    SMALL.write(tmp_path / "space.json")
    enumerate_space(tmp_path / "candidates.csv", space=tmp_path / "space.json")
    assert read_table(tmp_path / "candidates.csv")["subnet_id"].tolist() == ids


@pytest.mark.parametrize("keep", [1, 3])
def test_best_sums_are_those_of_enumeration(keep):
    everything = sampling.every_network(SMALL)
    ids = np.array(encoding.subnet_ids(SMALL, everything))
    costs = np.random.default_rng(3).normal(size=(4, 4))
    sums = additive.sum_of_costs(SMALL, costs, everything)
    values = np.column_stack([encoding.parameters(SMALL, everything), sums])
    found = additive.best_sums(SMALL, encoding.parameter_costs(SMALL), costs, keep)
    expected = set()
    for depth in (0, 1):
        own = everything[:, 0] == depth
        beaten = [((values[own] <= row).all(axis=1) & (values[own] < row).any(axis=1)).sum() for row in values[own]]
        expected |= set(ids[own][np.array(beaten) < keep])
    assert set(encoding.subnet_ids(SMALL, found)) == expected and set(ids[non_dominated(values)]) <= expected


def test_one_gene_changes_try_every_other_block_of_every_layer():
    changes = [SPACE.subnet(row) for row in additive.one_gene_changes(SPACE)]
    shallower = [SPACE.subnet((depth, *[0] * 6)) for depth in (1, 0)]
    replaced = [
        Subnet((*SPACE.full.blocks[:layer], block, *SPACE.full.blocks[layer + 1 :]))
        for layer in range(6)
        for block in SPACE.blocks[1:]
    ]
    assert changes[0] == SPACE.full and set(changes[1:]) == {*shallower, *replaced} and len(changes) == 1 + 2 + 18


def test_a_front_is_that_of_enumeration():
    everything = sampling.every_network(SMALL)
    error = -Sums(SMALL).accuracy(encoding.subnet_ids(SMALL, everything))
    sizes = [SMALL.shape.parameters(SMALL.subnet(row)) for row in everything]
    rows = np.column_stack([sizes, error])
    expected = [not dominated(row, rows) for row in rows]
    assert goals(SMALL).front(SMALL, everything, error).tolist() == expected and sum(expected) > 5


# ------------------------------------------------------------------ layers that networks share


def test_networks_share_a_layer_only_where_they_agree_on_both_axes():
    full, fewer_heads = SPACE.full, Subnet((*SPACE.full.blocks[:3], HeadsBlock(256, 2), *SPACE.full.blocks[4:]))
    steps = plan([full, fewer_heads, full])
    assert layer_passes(steps) == 6 + 3  # the third network is the first, the second leaves it after three layers
    assert sorted(step.start for step in steps) == [0, 3, 6]


def test_each_distinct_beginning_of_a_population_is_computed_once():
    networks = [SPACE.subnet(row) for row in sampling.uniform(SPACE, 60, np.random.default_rng(0))]
    steps = plan(networks)
    assert sorted(step.network for step in steps) == list(range(60))
    beginnings = {path(network)[:k] for network in networks for k in range(1, network.layers + 1)}
    assert layer_passes(steps) == len(beginnings) < sum(network.layers for network in networks)
    before: tuple = ()
    for step in steps:
        assert step.edges == path(networks[step.network]) and step.edges[: step.start] == before[: step.start]
        before = step.edges


# ------------------------------------------------------------------ whole searches


@pytest.mark.parametrize(("algorithm", "variant"), [*((name, "default") for name in ALGORITHMS), ("linas", "strict")])
def test_a_search_of_two_rounds_goes_through_its_stages(tmp_path, from_file, algorithm, variant):
    task = Sums(SPACE)
    run = Run(tmp_path, task, algorithm=algorithm, variant=variant, population=30)
    evaluations, front = run.all(2), run.front(2)
    ids = evaluations["subnet_id"].tolist()
    assert set("".join(ids)) == {"0", "1", "2", "3", "x"} and len(ids) == 60
    assert len(set(ids)) == 60 or variant == "strict"
    networks = [SPACE.parse(subnet_id) for subnet_id in ids]
    assert evaluations["parameters"].tolist() == [SPACE.shape.parameters(network) for network in networks]
    assert evaluations["size_bytes"].tolist() == [SPACE.shape.size_bytes(network) for network in networks]
    rows = np.column_stack([evaluations["parameters"], -task.accuracy(ids)])
    assert set(front["subnet_id"]) == {i for i, row in zip(ids, rows, strict=True) if not dominated(row, rows)}
    int8 = [SPACE.shape.size_bytes(SPACE.parse(subnet_id), "int8") for subnet_id in front["subnet_id"]]
    assert front["int8_bytes"].tolist() == int8

    proposed = read_table(run.path(2, "candidates.csv"))
    sums = proposed[proposed["origin"] == "sum"]  # a sum over layers is predicted exactly
    assert sums["predicted"].to_numpy() == pytest.approx(task.accuracy(sums["subnet_id"].tolist()))
    assert len(sums) == (39 if algorithm == "additive" else 0)  # after 21 changes
    inputs = {**run.inputs, "evaluations": run.path(2, "evaluations.csv"), "goals": run.goals}
    choose_finalists(tmp_path / "finalists.csv", **inputs)
    finalists = read_table(tmp_path / "finalists.csv")["subnet_id"].tolist()
    assert finalists[: len(front)] == front["subnet_id"].tolist() and "000000" in finalists


def test_a_search_within_constraints_and_three_objectives(tmp_path, from_file):
    LayerCosts("latency", 0.5, (0.5, 0.125, 0.25, 0.375)).write(tmp_path / "latency.json", SPACE, {})
    settings = GoalSettings(
        objectives=["metric", "parameters", "latency"],
        precision="nf4",
        max_size=str(int(0.95 * SPACE.shape.size_bytes(SPACE.full, "nf4"))),
        min_accuracy=8.0,
        measured=[f"latency={tmp_path / 'latency.json'}"],
    )
    run = Run(tmp_path / "run", Sums(SPACE), population=30, goals=settings)
    evaluations, front = run.all(3), run.front(3)
    networks = [SPACE.parse(subnet_id) for subnet_id in evaluations["subnet_id"]]
    limit = int(settings.max_size)
    assert all(SPACE.shape.size_bytes(network, "nf4") <= limit for network in networks)
    seconds = dict(zip(SPACE.blocks, (0.5, 0.125, 0.25, 0.375), strict=True))
    latency = np.array([0.5 + sum(seconds[block] for block in network.kept_blocks) for network in networks])
    rows = np.column_stack([evaluations["parameters"], latency, -evaluations["acc"]])
    allowed = (evaluations["acc"] >= 8.0).to_numpy()
    assert 5 < allowed.sum() < len(allowed)
    expected = [ok and not dominated(row, rows[allowed]) for ok, row in zip(allowed, rows, strict=True)]
    assert set(front["subnet_id"]) == set(evaluations["subnet_id"][expected])


# ------------------------------------------------------------------ what good networks have in common


BEST = [2, 1, 3]  # the planted block of each layer of SMALL
KEPT = {2: SMALL.kept[0], 3: SMALL.kept[1]}


def planted() -> Sums:
    """A task in which one block is by far the best in each layer."""
    worth = np.random.default_rng(1).uniform(0, 0.1, size=(3, 4))
    worth[np.arange(3), BEST] = 1.0
    return Sums(SMALL, worth)


def best_network(layers: int) -> Subnet:
    """The best network of a layer count."""
    return Subnet(tuple(SMALL.blocks[BEST[i]] if i in KEPT[layers] else None for i in range(3)))


def everything_evaluated() -> pd.DataFrame:
    """All networks of SMALL as the analysis reads them."""
    ids = encoding.subnet_ids(SMALL, sampling.every_network(SMALL))
    networks = [SMALL.parse(subnet_id) for subnet_id in ids]
    table = pd.DataFrame({"subnet_id": ids, "layers": [network.layers for network in networks]})
    table["gain"] = planted().accuracy(ids)
    table["blocks"] = pd.Series([network.blocks for network in networks], dtype=object)
    return table


def test_layer_counts_and_block_maps_are_of_every_block():
    table, metric = everything_evaluated(), Metric("acc", True)
    counts = layer_counts(table, metric)
    assert counts[counts["percentile"] == 0].set_index("layers")["count"].to_dict() == {2: 16, 3: 64}
    maps = block_maps(table, metric, SMALL.blocks)
    assert list(maps["block"].unique()) == [
        *("mlp width 256, heads 4", "mlp width 128, heads 2", "mlp width 256, heads 2", "mlp width 128, heads 4")
    ]
    assert len(maps) == len(PERCENTILES) * (len(KEPT[2]) + len(KEPT[3])) * 4
    for row in maps.itertuples():
        own = table[(table["layers"] == row.layers) & (table["gain"] >= row.threshold)]
        count = sum(str(blocks[row.layer - 1]) == row.block for blocks in own["blocks"])
        assert (row.count, row.networks) == (count, len(own))
    everyone = maps[maps["percentile"] == 0]
    assert (everyone["probability"] == 0.25).all()
    top = maps[maps["percentile"] == TOP].sort_values("probability").drop_duplicates(["layers", "layer"], keep="last")
    assert {(row.layers, row.layer, row.block) for row in top.itertuples()} == {
        (layers, i + 1, str(SMALL.blocks[BEST[i]])) for layers, kept in KEPT.items() for i in kept
    }


def test_likeliest_blocks_tell_blocks_apart_that_differ_in_one_axis():
    wide, fewer, narrow, both = SMALL.blocks[0], SMALL.blocks[2], SMALL.blocks[3], SMALL.blocks[1]
    networks = [Subnet((fewer, narrow, None)), Subnet((fewer, narrow, both)), Subnet((wide, both, both))]
    assert likeliest_blocks(networks, SMALL) == Subnet((fewer, narrow, both))
    assert likeliest_blocks([Subnet((wide, fewer, narrow)), Subnet((both, narrow, both))], SMALL) == Subnet(
        (wide, fewer, narrow)  # of equally many the largest
    )


def test_the_stages_find_the_planted_pattern(tmp_path, from_file):
    run = Run(tmp_path, planted(), algorithm="random", population=80)
    assert len(run.all(1)) == 80
    evaluations = run.path(1, "evaluations.csv")
    find_heuristics(tmp_path / "heuristics.csv", **run.inputs, evaluations=evaluations)
    heuristics = read_table(tmp_path / "heuristics.csv")
    found = {SMALL.parse(i) for i in heuristics.loc[heuristics["origin"] == "heuristic", "subnet_id"]}
    assert found == {best_network(2), best_network(3)}

    names = {"layers": "layers.csv", "layers_figure": "layers.svg", "maps": "maps.csv", "maps_figure": "maps.svg"}
    outputs = {key: tmp_path / name for key, name in names.items()}
    find_patterns(**run.inputs, evaluations=evaluations, **outputs)
    maps, drawing = read_table(outputs["maps"]), outputs["maps_figure"].read_text()
    assert set(maps["block"]) == {str(block) for block in SMALL.blocks}
    assert all(str(block) in drawing for block in SMALL.blocks)


def test_an_id_of_the_toy_at_the_papers_depth_is_grouped():
    space = space_of(32, [24, 28, 32])
    subnet = space.subnet((2, *[0, 1, 2, 3] * 8))
    assert space.id(subnet) == grouped("0123" * 8) == "01230123-01230123-01230123-01230123"
    assert space.parse(space.id(subnet)) == subnet
