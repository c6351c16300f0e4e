"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

# One thread: the tests' models are tiny, and several threads on a busy machine wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def hub() -> Path:
    """Real benchmarks and a small real Llama in Hub layout; tests that need them are skipped where they are not."""
    root = Path(os.environ.get("LLAMA_NAS_HUB", REPOSITORY.parent / "shared/data/hub"))
    if not root.is_dir():
        pytest.skip(f"SKIPPED FOR LACK OF REAL DATA: no folder {root}; set LLAMA_NAS_HUB to a folder in Hub layout")
    return root.resolve()
