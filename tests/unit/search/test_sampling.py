"""Networks drawn without a predictor."""

import numpy as np
import pytest
from tests.support.search import SPACE, THREE_WIDTHS, goals, small_space

from llama_nas.search import encoding
from llama_nas.search.algorithms import sampling


def test_every_network_lists_the_space_once():
    ids = encoding.subnet_ids(SPACE, sampling.every_network(SPACE))
    assert len(ids) == len(set(ids)) == SPACE.num_networks == 2**9 + 2**10 + 2**12


@pytest.mark.parametrize("space", [SPACE, THREE_WIDTHS], ids=["two widths", "three widths"])
def test_spread_networks_cover_the_size_axis_without_repeats(space):
    genotypes, origins = sampling.spread(space, goals(space), 50, np.random.default_rng(3))
    ids = encoding.subnet_ids(space, genotypes)
    assert len(set(ids)) == len(ids) == len(origins) == 50
    assert set(origins) <= {"stratified", "random"} and origins.count("stratified") > 40
    sizes = encoding.parameters(space, sampling.every_network(space))
    shares = (np.sort(encoding.parameters(space, genotypes)) - sizes.min()) / np.ptp(sizes)
    assert np.diff([0, *shares, 1]).max() < 0.1


def test_a_stratum_is_drawn_at_every_depth_that_has_networks_of_its_size():
    """Where the sizes of all three depths overlap, each depth has about a third of the networks."""
    genotypes, origins = sampling.spread(SPACE, goals(), 600, np.random.default_rng(3))
    drawn = genotypes[np.array(origins) == "stratified"]
    everything = sampling.every_network(SPACE)
    of_all, sizes = encoding.parameters(SPACE, everything), encoding.parameters(SPACE, drawn)
    low = max(of_all[everything[:, 0] == depth].min() for depth in range(3))
    high = min(of_all[everything[:, 0] == depth].max() for depth in range(3))
    depths = np.bincount(drawn[(low <= sizes) & (sizes <= high), 0], minlength=3)
    assert depths.sum() > 100 and (depths / depths.sum()).min() > 0.2


def test_uniform_genotypes_are_uniform_per_gene():
    genotypes = sampling.uniform(THREE_WIDTHS, 3000, np.random.default_rng(0))
    for gene, bound in enumerate(THREE_WIDTHS.bounds):
        shares = np.bincount(genotypes[:, gene], minlength=bound) / 3000
        assert np.abs(shares - 1 / bound).max() < 5 * np.sqrt(0.25 / 3000)


def test_a_population_beyond_the_space_is_the_whole_space():
    space = small_space(3, [2, 3], [256, 128])
    genotypes, _ = sampling.spread(space, goals(space), 50, np.random.default_rng(0))
    assert sorted(encoding.subnet_ids(space, genotypes)) == sorted(
        encoding.subnet_ids(space, sampling.every_network(space))
    )


@pytest.mark.parametrize("enumerable", [0, sampling.ENUMERABLE], ids=["by chance", "enumerated"])
def test_unseen_networks_are_new_and_distinct(monkeypatch, enumerable):
    monkeypatch.setattr(sampling, "ENUMERABLE", enumerable)
    known = set(encoding.subnet_ids(SPACE, sampling.every_network(SPACE)[:100]))
    ids = encoding.subnet_ids(SPACE, sampling.unseen(SPACE, 200, known, np.random.default_rng(0), goals()))
    assert len(set(ids)) == 200 and not known.intersection(ids)
