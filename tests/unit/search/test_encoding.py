"""Arrays of genotypes against the space itself, one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.search import SPACE, THREE_WIDTHS, small_space
from tests.support.spaces import PAPER_SPACE

from llama_nas.core.precisions import PRECISIONS
from llama_nas.core.space import SearchSpace
from llama_nas.search import encoding
from llama_nas.search.algorithms import sampling


def genotypes_in(space: SearchSpace):
    rows = st.tuples(*[st.integers(0, int(bound) - 1) for bound in space.bounds])
    return st.lists(rows, min_size=1, max_size=8).map(np.array)


@pytest.mark.parametrize("space", [SPACE, THREE_WIDTHS, PAPER_SPACE], ids=["two widths", "three widths", "paper"])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_arrays_say_what_the_space_says_of_each_genotype(space, data):
    genotypes = data.draw(genotypes_in(space))
    subnets = [space.subnet(row) for row in genotypes]
    ids = encoding.subnet_ids(space, genotypes)
    assert ids == [space.id(subnet) for subnet in subnets]
    assert encoding.canonical(space, genotypes).tolist() == [list(space.canonical(row)) for row in genotypes]
    assert encoding.parameters(space, genotypes).tolist() == [space.shape.parameters(subnet) for subnet in subnets]
    assert np.array_equal(encoding.genotypes_of(space, ids), encoding.canonical(space, genotypes))


def test_no_ids_are_no_genotypes_and_the_other_way_round():
    assert encoding.genotypes_of(SPACE, []).shape == (0, 13)
    assert encoding.subnet_ids(SPACE, np.empty((0, 13), dtype=int)) == []


def test_sizes_of_the_7b_model_are_exact_integers():
    genotypes = sampling.uniform(PAPER_SPACE, 50, np.random.default_rng(0))
    sizes = encoding.parameters(PAPER_SPACE, genotypes)
    assert sizes.tolist() == [PAPER_SPACE.shape.parameters(PAPER_SPACE.subnet(row)) for row in genotypes]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("space", [SPACE, THREE_WIDTHS], ids=["two widths", "three widths"])
def test_sizes_are_exact_in_every_precision(space, precision):
    genotypes = sampling.uniform(space, 200, np.random.default_rng(0))
    size = encoding.size_costs(space, precision)
    expected = [space.shape.size_bytes(space.subnet(row), precision) for row in genotypes]
    assert encoding.cost_of(size, space, genotypes).tolist() == expected
    assert encoding.least_cost(size, space) == space.shape.size_bytes(space.smallest, precision)
    assert encoding.greatest_cost(size, space) == space.shape.size_bytes(space.full, precision)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_encodings_are_equal_exactly_where_the_networks_are(data):
    genotypes = data.draw(genotypes_in(THREE_WIDTHS))
    encoded = encoding.one_hot(THREE_WIDTHS, genotypes)
    ids = encoding.subnet_ids(THREE_WIDTHS, genotypes)
    for i in range(len(genotypes)):
        for j in range(i):
            assert np.array_equal(encoded[i], encoded[j]) == (ids[i] == ids[j])


def test_one_hot_of_the_declared_space():
    """Columns: depth 1, depth 2, then width 8 and width 4 of each layer, whether or not the rows have these values."""
    space = small_space(2, [1, 2], [8, 4])
    genotypes = np.array([[0, 1, 1], [1, 1, 0]])
    assert encoding.one_hot(space, genotypes).tolist() == [[1, 0, 0, 1, 1, 0], [0, 1, 0, 1, 1, 0]]
