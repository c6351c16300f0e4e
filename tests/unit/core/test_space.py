"""Search space: ids, genotypes, depth selections, and what is refused."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from space_cases import LLAMA2_7B, PAPER_SPACE

from llama_nas.core.errors import UserError
from llama_nas.core.space import ModelShape, SearchSpace, Subnet, kept_layers, parse_id

# ------------------------------------------------------------------ ids and genotypes

SPACES = {
    "paper": PAPER_SPACE,
    "three widths": SearchSpace(6, (2, 4, 6), (8, 4, 2)),
    "one depth": SearchSpace(5, (5,), (8, 4)),
    "35 widths": SearchSpace(3, (1, 3), tuple(range(100, 65, -1))),
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
    assert len(subnet_id) == space.num_layers
    assert space.parse(subnet_id) == subnet
    assert space.genotype(subnet) == space.canonical(genotype)
    assert subnet.layers == space.depths[genotype[0]] == len(subnet_id) - subnet_id.count("x")


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
    from itertools import product

    space = SearchSpace(4, (2, 3, 4), (8, 4))
    everything = list(product(range(3), *[range(2)] * 4))
    ids = {space.id(space.subnet(genotype)) for genotype in everything}
    assert len(ids) == len({space.canonical(genotype) for genotype in everything}) == space.num_networks == 28


def test_random_genotypes_are_uniform_per_gene():
    space = SearchSpace(2, (1, 2), (9, 6, 3))
    rng = np.random.default_rng(1)
    drawn = np.array([space.random(rng) for _ in range(3000)])
    for gene, bound in enumerate(space.bounds):
        shares = np.bincount(drawn[:, gene], minlength=bound) / 3000
        assert np.abs(shares - 1 / bound).max() < 5 * np.sqrt(0.25 / 3000)


def test_an_id_outside_the_spaces_depths_can_be_parsed_but_has_no_genotype():
    space = SearchSpace(4, (2, 4), (8, 4))
    subnet = space.parse("0x1x")
    assert subnet.kept == (0, 2) and subnet.kept_widths == (8, 4)
    with pytest.raises(UserError, match="keeps layers"):
        space.genotype(subnet)


@pytest.mark.parametrize("subnet_id", ["000", "00000", "0020", "00X0", "xxxx", ""])
def test_bad_ids_are_refused_in_one_line(subnet_id):
    with pytest.raises(UserError) as raised:
        parse_id(subnet_id, 4, [8, 4])
    assert repr(subnet_id) in str(raised.value) and "\n" not in str(raised.value)


def test_x_is_never_the_code_of_a_width():
    space = SPACES["35 widths"]
    ids = {space.id(Subnet((width,) * 3)) for width in space.widths}
    assert len(ids) == 35 and not any("x" in subnet_id for subnet_id in ids)


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
        SearchSpace.for_model(LLAMA2_7B, depths, widths)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ("last", "'last' is not known; known: first, even, or a list"),
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
