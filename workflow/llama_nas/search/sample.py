"""The stage that opens the search: draw the first round's candidates."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llama_nas.artifacts import derived_seed, write_table
from llama_nas.search import encoding, records
from llama_nas.search.sampling import first_round

log = logging.getLogger(__name__)


def sample_candidates(
    output: Path,
    *,
    model: Path,
    depths: Sequence[int],
    widths: Sequence[int],
    depth_selection: str,
    task: str,
    variant: str,
    population: int,
    seed: int,
) -> None:
    """Write the first round's candidates.csv: candidate, subnet_id, origin, predicted (empty)."""
    shape, space = records.checked_space(model, depths, widths, depth_selection)
    rng = np.random.default_rng(derived_seed(seed, "sample", task, 1))
    genotypes, origins = first_round(space, shape, population, variant, rng)
    if len(genotypes) < population:
        log.info("the space has only %d networks, fewer than the population of %d", len(genotypes), population)
    write_table(output, records.candidate_table(encoding.subnet_ids(space, genotypes), origins, None))
