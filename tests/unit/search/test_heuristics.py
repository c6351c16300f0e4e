"""The block that most good networks have in each layer."""

import pytest
from tests.support.search import SPACE, THREE_WIDTHS, small_space

from llama_nas.search.heuristics import likeliest_blocks


def likeliest(space, *ids: str) -> str:
    return space.id(likeliest_blocks([space.parse(subnet_id) for subnet_id in ids], space))


def test_most_decide():
    assert likeliest(SPACE, "00000000-0000", "11111111-1000", "11110000-1111") == "11110000-1000"


@pytest.mark.parametrize("turned", [1, -1])
def test_of_equally_many_the_widest_block_is_taken_whatever_the_order(turned):
    """The paper narrows a layer where the probability is above 0.5; THREE_WIDTHS lists 256, 64, 128."""
    assert likeliest(SPACE, *["00000000-0000", "11111111-1111"][::turned]) == "00000000-0000"
    assert likeliest(THREE_WIDTHS, *["11111111-1111", "22222222-2222"][::turned]) == "22222222-2222"
    space = small_space(4, [2, 4], [8, 4])
    assert likeliest(space, *["0101", "10xx"][::turned]) == "0001"  # a layer that half of them drop is kept
