"""Search space: ids, genotypes, depth selections, its file, and what is refused."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snakemake.io import PeriodicityDetector
from tests.support.spaces import LLAMA2_7B, PAPER_SPACE, small_space

from llama_nas.core.artifacts import read_json, write_json
from llama_nas.core.errors import UserError
from llama_nas.core.shape import ModelShape, Subnet
from llama_nas.core.space import SearchSpace, declare_space, full_id, grouped, kept_layers, ungrouped

# ------------------------------------------------------------------ ids and genotypes

SPACES = {
    "paper": PAPER_SPACE,
    "three widths": small_space([2, 4, 6], [8, 4, 2]),
    "one depth": small_space([5], [8, 4]),
    "35 widths": small_space([1, 3], range(100, 65, -1)),
    "two groups": small_space([5, 9, 12], [8, 4, 2]),
}
space_names = st.sampled_from(sorted(SPACES))


@st.composite
def genotypes(draw):
    space = SPACES[draw(space_names)]
    return space, tuple(draw(st.integers(0, int(bound) - 1)) for bound in space.bounds)


@given(genotypes())
@settings(max_examples=200, deadline=None)
def test_genotype_network_and_id_round_trip(case):
    space, genotype = case
    subnet = space.subnet(genotype)
    subnet_id = space.id(subnet)
    assert len(ungrouped(subnet_id)) == space.num_layers
    assert space.parse(subnet_id) == subnet
    assert space.genotype(subnet) == space.canonical(genotype)
    assert subnet.layers == space.depths[genotype[0]] == space.num_layers - subnet_id.count("x")


@given(genotypes(), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_canonical_form_is_equal_exactly_where_the_network_is(case, random):
    space, genotype = case
    canonical = space.canonical(genotype)
    assert space.canonical(canonical) == canonical
    assert space.subnet(canonical) == space.subnet(genotype)
    other = list(genotype)
    gene = random.randrange(1, len(other))
    other[gene] = (other[gene] + 1) % int(space.bounds[gene])
    same_network = space.subnet(other) == space.subnet(genotype)
    assert (space.canonical(other) == canonical) == same_network
    assert same_network == (gene - 1 not in space.kept[genotype[0]])


def test_all_canonical_genotypes_of_a_small_space_are_different_networks():
    space = small_space([2, 3, 4], [8, 4])
    everything = list(itertools.product(range(3), *[range(2)] * 4))
    ids = {space.id(space.subnet(genotype)) for genotype in everything}
    assert len(ids) == len({space.canonical(genotype) for genotype in everything}) == space.num_networks == 28


def test_random_genotypes_are_uniform_per_gene():
    space = small_space([1, 2], [9, 6, 3])
    rng = np.random.default_rng(1)
    drawn = np.array([space.random(rng) for _ in range(3000)])
    for gene, bound in enumerate(space.bounds):
        shares = np.bincount(drawn[:, gene], minlength=bound) / 3000
        assert np.abs(shares - 1 / bound).max() < 5 * np.sqrt(0.25 / 3000)


def test_an_id_outside_the_spaces_depths_can_be_parsed_but_has_no_genotype():
    space = small_space([2, 4], [8, 4])
    subnet = space.parse("0x1x")
    assert subnet.kept == (0, 2) and subnet.widths == (8, 4)
    with pytest.raises(UserError, match="keeps layers"):
        space.genotype(subnet)


@pytest.mark.parametrize("subnet_id", ["000", "00000", "0020", "00X0", "xxxx", ""])
def test_bad_ids_are_refused_in_one_line(subnet_id):
    with pytest.raises(UserError) as raised:
        small_space([4], [8, 4]).parse(subnet_id)
    assert repr(subnet_id) in str(raised.value) and "\n" not in str(raised.value)


def test_x_is_never_the_code_of_a_width():
    space = SPACES["35 widths"]
    ids = {space.id(Subnet((block,) * 3)) for block in space.blocks}
    assert len(ids) == 35 and not any("x" in subnet_id for subnet_id in ids)


# ------------------------------------------------------------------ ids in groups of eight

LAYERS = [6, 8, 9, 12, 32, 80, 128]


def notable(space: SearchSpace) -> dict[str, Subnet]:
    """The networks whose ids are most regular, and random ones."""
    rng = np.random.default_rng(space.num_layers)
    narrow = space.blocks[space.blocks_by_size[0]]
    alternating = (space.blocks[0], narrow) * space.num_layers
    return {
        "full": space.full,
        "smallest": space.smallest,
        "all narrow": Subnet((narrow,) * space.num_layers),
        "alternating": Subnet(alternating[: space.num_layers]),
        "alternating, narrow first": Subnet(alternating[1 : space.num_layers + 1]),
        **{f"random {i}": space.subnet(space.random(rng)) for i in range(20)},
    }


@pytest.mark.parametrize("layers", LAYERS)
def test_an_id_has_a_dash_after_every_eighth_layer_and_is_reversible(layers):
    space = small_space([max(1, layers // 3), layers], [8, 4, 2])
    for subnet in notable(space).values():
        subnet_id = space.id(subnet)
        groups = subnet_id.split("-")
        assert [len(group) for group in groups[:-1]] == [8] * ((layers - 1) // 8)
        assert len(groups[-1]) == (layers - 1) % 8 + 1
        assert space.parse(subnet_id) == subnet
        assert grouped(ungrouped(subnet_id)) == subnet_id


@pytest.mark.parametrize("layers", LAYERS)
def test_snakemake_takes_no_id_for_an_endless_wildcard(layers):
    """It refuses a value whose end repeats 20 times or more, as a rule that feeds itself would make."""
    refuses = PeriodicityDetector().is_periodic
    space = small_space([max(1, layers // 3), layers], [8, 4, 2])
    for name, subnet in notable(space).items():
        subnet_id = space.id(subnet)
        assert refuses(subnet_id) is None, name
        assert refuses(f"networks/{subnet_id}/hf") is None, name
    assert (refuses("0" * layers) is not None) == (layers >= 20)  # what ids without groups would meet


def test_an_id_of_at_most_eight_layers_is_one_group():
    assert grouped("01x") == "01x" and grouped("0" * 8) == "0" * 8
    assert grouped("000011110xxx") == "00001111-0xxx"


@pytest.mark.parametrize(
    "wrong", ["000011110xxx", "0000-11110xxx", "00001111-0-xxx", "00001111-0xxx-", "-000011110xxx"]
)
def test_an_id_that_is_grouped_otherwise_is_refused_with_the_right_spelling(wrong):
    with pytest.raises(UserError, match=rf"^subnet id '{wrong}' must be written 00001111-0xxx, in groups of 8$"):
        small_space([12], [8, 4]).parse(wrong)


def test_an_id_of_another_model_is_refused_with_one_of_this_model():
    with pytest.raises(UserError, match=r"expected 12 characters in groups of 8, as 00000000-0000, each 'x'"):
        small_space([12], [8, 4]).parse("00001111")


def test_the_full_networks_id_follows_from_any_id():
    assert full_id("01x10") == "00000"
    assert full_id("00001111-0xxx") == "00000000-0000" == small_space([12], [8, 4]).id(small_space([12], [8, 4]).full)


# ------------------------------------------------------------------ the largest and the smallest network


def test_the_smallest_network_is_the_smallest_whatever_the_order_of_the_widths():
    space = small_space([2, 4], [8, 2, 4])
    assert space.blocks_by_size == (1, 2, 0)
    assert space.id(space.smallest) == "11xx"
    sizes = [
        space.shape.parameters(space.subnet(genotype))
        for genotype in itertools.product(range(2), *[range(3)] * space.num_layers)
    ]
    assert min(sizes) == space.shape.parameters(space.smallest)
    assert max(sizes) == space.shape.parameters(space.full)


def test_the_full_network_is_the_base_model_even_where_the_space_does_not_list_its_depth():
    space = small_space([2, 3], [8, 4], layers=4)
    assert space.id(space.full) == "0000" and space.full == space.shape.full
    with pytest.raises(UserError, match="keeps layers"):
        space.genotype(space.full)


# ------------------------------------------------------------------ space.json


@pytest.fixture
def model(tmp_path) -> Path:
    """A folder with the config.json of a Llama of six layers."""
    folder = tmp_path / "model"
    folder.mkdir()
    shape = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 6}
    write_json(folder / "config.json", shape | {"num_attention_heads": 4, "vocab_size": 100})
    return folder


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_a_space_reads_back_as_it_was_written(tmp_path, space):
    space.write(tmp_path / "space.json")
    assert SearchSpace.read(tmp_path / "space.json") == space


def test_the_file_says_which_layers_each_depth_keeps_and_what_a_layer_can_be(tmp_path, model):
    declare_space(tmp_path / "space.json", model=model, depths=[4, 6], widths=[96, 48], depth_selection="4,1")
    written = read_json(tmp_path / "space.json")
    assert written["blocks"] == [{"mlp_width": 96}, {"mlp_width": 48}]
    assert written["depths"] == [
        {"layers": 4, "kept_layers": [0, 2, 3, 5]},
        {"layers": 6, "kept_layers": [0, 1, 2, 3, 4, 5]},
    ]
    assert written["shape"]["intermediate_size"] == 96


def test_depth_selection_importance_is_read_from_the_measured_order(tmp_path, model):
    write_json(tmp_path / "order.json", {"layer_order": [3, 0, 1], "losses": [1, 2, 3, 4]})
    declared = {"model": model, "depths": [4, 6], "widths": [96, 48]}
    declare_space(
        tmp_path / "measured.json", **declared, depth_selection="importance", layer_order=tmp_path / "order.json"
    )
    declare_space(tmp_path / "listed.json", **declared, depth_selection="3,0,1")
    assert SearchSpace.read(tmp_path / "measured.json").kept == ((1, 2, 4, 5), (0, 1, 2, 3, 4, 5))
    assert (tmp_path / "measured.json").read_bytes() == (tmp_path / "listed.json").read_bytes()


def test_depth_selection_importance_without_a_measured_order_is_refused(tmp_path, model):
    with pytest.raises(UserError, match=r"^--layer-order: is missing; depth selection importance is read from it$"):
        declare_space(tmp_path / "s.json", model=model, depths=[4], widths=[96], depth_selection="importance")
    assert not (tmp_path / "s.json").exists()


def test_a_space_that_does_not_fit_the_model_is_not_written(tmp_path, model):
    with pytest.raises(UserError, match=r"must lie in 1\.\.6, the model's layer count"):
        declare_space(tmp_path / "s.json", model=model, depths=[7], widths=[96])
    assert not (tmp_path / "s.json").exists()


def test_another_model_than_the_spaces_is_refused(tmp_path, model):
    declare_space(tmp_path / "space.json", model=model, depths=[4, 6], widths=[96, 48])
    space = SearchSpace.read(tmp_path / "space.json")
    space.check_model(model)
    write_json(model / "config.json", read_json(model / "config.json") | {"vocab_size": 101})
    with pytest.raises(UserError, match=r"model: its config\.json has another shape than the space was declared on$"):
        space.check_model(model)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"depths": []}, "'blocks'"),
        ({"blocks": [{"width": 8}], "depths": [], "shape": {}}, "'width'"),
        ({"blocks": [], "depths": [], "shape": {"layers": 8}}, "'layers'"),
        ([], "list indices"),
    ],
)
def test_a_file_that_is_no_space_is_refused_in_one_line(tmp_path, content, message):
    write_json(tmp_path / "space.json", content)
    with pytest.raises(UserError, match=r"space\.json: not a file written by `llama-nas declare-space`") as raised:
        SearchSpace.read(tmp_path / "space.json")
    assert message in str(raised.value)


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("depths", "widths", "message"),
    [
        ([], [11008], "space.depths"),
        ([28, 24], [11008], "distinct and ascending"),
        ([24, 24], [11008], "distinct and ascending"),
        ([0, 24], [11008], "1..32"),
        ([24, 33], [11008], "1..32"),
        ([24], [], "space.widths"),
        ([24], [11008, 11008], "distinct widths"),
        ([24], [5504, 11008], "full MLP width 11008"),
        ([24], [5504], "full MLP width 11008"),
        ([24], [11008, 11009], "1..11008"),
        ([24], [11008, 0], "1..11008"),
        ([24], [11008, *range(1, 36)], "1 to 35"),
    ],
)
def test_impossible_spaces_are_refused_with_the_config_key(depths, widths, message):
    with pytest.raises(UserError, match=r"config\.yaml: space") as raised:
        SearchSpace.declare(LLAMA2_7B, depths, widths)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ("last", "'last' is not known; known: first, even, importance, or a list"),
        ("3,3", "must be distinct layers in 0..3"),
        ("4", "must be distinct layers in 0..3"),
        ("1", "lists 1 layers, but a network of 2 layers drops 2"),
    ],
)
def test_impossible_depth_selections_are_refused(selection, message):
    with pytest.raises(UserError, match=r"config\.yaml: space\.depth_selection") as raised:
        kept_layers(selection, 2, 4)
    assert message in str(raised.value)


def test_depth_selections_drop_what_they_say():
    assert kept_layers("first", 9, 12) == tuple(range(9))
    assert kept_layers("even", 9, 12) == (0, 1, 3, 4, 6, 7, 9, 10, 11)
    assert set(range(32)) - set(kept_layers("even", 24, 32)) == {3, 7, 11, 15, 19, 23, 27, 5}
    assert kept_layers("25,27,21", 30, 32) == tuple(layer for layer in range(32) if layer not in (25, 27))


@pytest.mark.parametrize("layers", [2, 3, 6, 12, 32])
def test_even_never_drops_the_first_layer_and_the_last_one_last(layers):
    """Nothing else reads the embedding, or writes for the head."""
    for depth in range(1, layers + 1):
        kept = kept_layers("even", depth, layers)
        assert kept[0] == 0
        assert (kept[-1] == layers - 1) == (depth > 1)


@pytest.mark.parametrize(
    ("selection", "layers"),
    [*((selection, layers) for selection in ("first", "even") for layers in (1, 2, 3, 7, 32)), ("5,1,3,0,2,4", 6)],
)
def test_shallower_networks_keep_a_subset(selection, layers):
    kept = [set(kept_layers(selection, depth, layers)) for depth in range(1, layers + 1)]
    assert [len(own) for own in kept] == list(range(1, layers + 1))
    assert all(fewer < more for fewer, more in itertools.pairwise(kept))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "not found"),
        ("{", "not valid JSON"),
        (json.dumps({"model_type": "gpt2"}), "model_type 'gpt2' is not supported"),
        (json.dumps({"model_type": "llama", "num_attention_heads": 4}), "'hidden_size' is missing"),
        (json.dumps({}), "model_type '<missing>'"),
    ],
)
def test_bad_model_folders_are_refused_in_one_line(tmp_path, text, message):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError) as raised:
        ModelShape.from_folder(tmp_path)
    assert "config.json" in str(raised.value) and message in str(raised.value)
