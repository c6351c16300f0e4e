"""Sizes as they are printed."""

import pytest

from llama_nas.core.units import GB, GIB, SizeUnit, format_bytes

LLAMA2 = 2 * 6_738_415_616  # bytes of Llama 2 7B in FP16


def test_both_readings_of_gb():
    assert format_bytes(LLAMA2) == "13.48 GB (12.55 GiB)"
    assert format_bytes(GB) == "1.00 GB (0.931 GiB)"
    assert format_bytes(1_050_000) == "1.05 MB (1.00 MiB)"


@pytest.mark.parametrize(
    ("family", "largest", "size", "text"),
    [
        ("GB", LLAMA2, LLAMA2, "13.48 GB"),
        ("GiB", LLAMA2, LLAMA2, "12.55 GiB"),
        ("GB", LLAMA2, 352 * 10**6, "0.352 GB"),
        ("GB", GB - 1, 352 * 10**6, "352.00 MB"),
        ("GiB", GIB - 1, 3 * 2**19, "1.50 MiB"),
    ],
)
def test_one_unit_that_the_largest_size_chooses(family, largest, size, text):
    assert SizeUnit.of(family, largest).text(size) == text
