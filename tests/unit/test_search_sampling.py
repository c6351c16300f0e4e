"""Networks drawn without a predictor."""

import numpy as np
import pytest
from search_cases import SHAPE, SPACE, THREE_WIDTHS, goals

from llama_nas.search import encoding, sampling
from llama_nas.space import SearchSpace


def test_every_network_lists_the_space_once():
    ids = encoding.subnet_ids(SPACE, sampling.every_network(SPACE))
    assert len(ids) == len(set(ids)) == SPACE.num_networks == 2**9 + 2**10 + 2**12


def test_anchors_are_the_corners():
    ids = encoding.subnet_ids(SPACE, sampling.anchors(SPACE))
    assert ids[:2] == ["0" * 12, "1" * 9 + "xxx"]
    assert set(ids) == {width * depth + "x" * (12 - depth) for depth in (9, 10, 12) for width in "01"} and len(ids) == 6
    narrow_is_not_last = encoding.subnet_ids(THREE_WIDTHS, sampling.anchors(THREE_WIDTHS))
    assert narrow_is_not_last[:2] == ["0" * 12, "1" * 6 + "x" * 6]
    one_width = SearchSpace(3, (2, 3), (8,))
    assert encoding.subnet_ids(one_width, sampling.anchors(one_width)) == ["000", "00x"]


@pytest.mark.parametrize("space", [SPACE, THREE_WIDTHS], ids=["two widths", "three widths"])
def test_spread_networks_cover_the_size_axis_without_repeats(space):
    genotypes, origins = sampling.spread(space, goals(space), 50, np.random.default_rng(3))
    ids = encoding.subnet_ids(space, genotypes)
    assert len(set(ids)) == len(ids) == len(origins) == 50
    corners = len(sampling.anchors(space))
    assert origins[:corners] == ["anchor"] * corners and set(origins) <= {"anchor", "stratified", "random"}
    smallest, largest = space.subnet(encoding.genotypes_of(space, [ids[1]])[0]), space.full
    low, high = SHAPE.parameters(smallest), SHAPE.parameters(largest)
    shares = (np.sort(encoding.parameters(space, SHAPE, genotypes)) - low) / (high - low)
    assert shares[0] == 0 and shares[-1] == 1
    assert np.diff(shares).max() < 0.1


def test_uniform_genotypes_are_uniform_per_gene():
    genotypes = sampling.uniform(THREE_WIDTHS, 3000, np.random.default_rng(0))
    for gene, bound in enumerate(THREE_WIDTHS.bounds):
        shares = np.bincount(genotypes[:, gene], minlength=bound) / 3000
        assert np.abs(shares - 1 / bound).max() < 5 * np.sqrt(0.25 / 3000)


def test_a_population_beyond_the_space_is_the_whole_space():
    space = SearchSpace(3, (2, 3), (256, 128))
    genotypes, _ = sampling.spread(space, goals(space), 50, np.random.default_rng(0))
    assert sorted(encoding.subnet_ids(space, genotypes)) == sorted(
        encoding.subnet_ids(space, sampling.every_network(space))
    )


@pytest.mark.parametrize("population", [1, 3, 6, 7])
def test_small_populations_start_with_the_corners(population):
    genotypes, _ = sampling.spread(SPACE, goals(), population, np.random.default_rng(0))
    ids = encoding.subnet_ids(SPACE, genotypes)
    assert len(ids) == population and ids[:1] == ["0" * 12]


@pytest.mark.parametrize("enumerable", [0, sampling.ENUMERABLE], ids=["by chance", "enumerated"])
def test_unseen_networks_are_new_and_distinct(monkeypatch, enumerable):
    monkeypatch.setattr(sampling, "ENUMERABLE", enumerable)
    known = set(encoding.subnet_ids(SPACE, sampling.anchors(SPACE)))
    ids = encoding.subnet_ids(SPACE, sampling.unseen(SPACE, 200, known, np.random.default_rng(0), goals()))
    assert len(set(ids)) == 200 and not known.intersection(ids)
