"""Fixtures of the tests of executors."""

import subprocess
from pathlib import Path

import pytest
from tests.cluster.runs import RUNS, command


@pytest.fixture(scope="session")
def local() -> Path:
    """The reduced world run to its end on this machine; kept, so that only what has changed is run again."""
    folder = RUNS / "local"
    result = subprocess.run(command(folder, "--cores", "2"), text=True, capture_output=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder
