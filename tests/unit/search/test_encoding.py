"""Arrays of genotypes against the space itself, one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_cases import SHAPE, SPACE, THREE_WIDTHS, genotypes_in

from llama_nas.core.space import ModelShape, SearchSpace
from llama_nas.search import encoding, sampling


@pytest.mark.parametrize("space", [SPACE, THREE_WIDTHS], ids=["two widths", "three widths"])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_arrays_say_what_the_space_says_of_each_genotype(space, data):
    genotypes = data.draw(genotypes_in(space))
    subnets = [space.subnet(row) for row in genotypes]
    ids = encoding.subnet_ids(space, genotypes)
    assert ids == [space.id(subnet) for subnet in subnets]
    assert encoding.canonical(space, genotypes).tolist() == [list(space.canonical(row)) for row in genotypes]
    assert encoding.parameters(space, SHAPE, genotypes).tolist() == [SHAPE.parameters(subnet) for subnet in subnets]
    assert np.array_equal(encoding.genotypes_of(space, ids), encoding.canonical(space, genotypes))


def test_sizes_of_the_7b_model_are_exact_integers():
    shape = ModelShape("llama", 4096, 11008, 32, 32, 32, 128, 32000)
    space = SearchSpace.for_model(shape, [24, 28, 32], [11008, 5504])
    genotypes = sampling.uniform(space, 50, np.random.default_rng(0))
    sizes = encoding.parameters(space, shape, genotypes)
    assert sizes.tolist() == [shape.parameters(space.subnet(row)) for row in genotypes]


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
    space = SearchSpace(2, (1, 2), (8, 4))
    genotypes = np.array([[0, 1, 1], [1, 1, 0]])
    assert encoding.one_hot(space, genotypes).tolist() == [[1, 0, 0, 1, 1, 0], [0, 1, 0, 1, 1, 0]]
