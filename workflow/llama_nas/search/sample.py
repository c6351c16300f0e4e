"""The stage that opens the search: the first round's candidates."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llama_nas.artifacts import derived_seed, write_table
from llama_nas.search import encoding, records
from llama_nas.search.algorithms import algorithm
from llama_nas.search.goals import Declared

log = logging.getLogger(__name__)


def sample_candidates(
    output: Path,
    *,
    model: Path,
    depths: Sequence[int],
    widths: Sequence[int],
    depth_selection: str,
    task: Path,
    search_items: int | None,
    goals: Declared,
    name: str,
    variant: str,
    population: int,
    seed: int,
) -> None:
    """Write the first candidates.csv: candidate, subnet_id, origin, predicted (empty). name: the algorithm's.

    search_items: how many items the search will use; goals: objectives and constraints. Both are checked here, before
    anything expensive runs.
    """
    shape, space = records.checked_space(model, depths, widths, depth_selection)
    described = records.read_task(task)
    if search_items is not None:
        records.check_search_items(task, search_items)
    resolved = goals.on(space, shape, described)
    rng = np.random.default_rng(derived_seed(seed, "sample", described.name, 1))
    proposal = algorithm(name, variant, population).first(space, resolved, population, rng)
    if len(proposal.genotypes) == space.num_networks:
        log.info("the first round has all %d networks of the space", space.num_networks)
    ids = encoding.subnet_ids(space, proposal.genotypes)
    write_table(output, records.candidate_table(ids, proposal.origins, None))
