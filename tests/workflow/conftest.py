"""Fixtures of the tests of the DAG."""

import pytest
from tests.workflow.workflow_copy import Workflow


@pytest.fixture
def run(tmp_path) -> Workflow:
    """A copy of the workflow in an empty folder; calling it runs Snakemake."""
    return Workflow(tmp_path)
