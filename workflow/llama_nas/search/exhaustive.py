"""Truth to search against: every network of the space, evaluated for real. Not part of a run; target `exhaustive`."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from llama_nas.artifacts import folder_digest, write_json, write_table
from llama_nas.search import encoding, records
from llama_nas.search.sampling import every_network

log = logging.getLogger(__name__)


def write_all_candidates(
    output: Path, *, model: Path, depths: Sequence[int], widths: Sequence[int], depth_selection: str
) -> None:
    """Write candidates.csv with every network of the space once."""
    _, space = records.checked_space(model, depths, widths, depth_selection)
    ids = encoding.subnet_ids(space, every_network(space))
    write_table(output, records.candidate_table(ids, ["all"] * len(ids), None))


def write_truth(
    output: Path,
    *,
    about: Path,
    model: Path,
    depths: Sequence[int],
    widths: Sequence[int],
    depth_selection: str,
    supernet: Path,
    task: Path,
    candidates: Path,
    shards: Sequence[Path],
) -> None:
    """Write every network's exact size and metrics (columns as in evaluations.csv), by candidate.

    about: JSON that says what they are of: the model's shape, the space, digests of the super-network and of the items.
    """
    shape, space = records.checked_space(model, depths, widths, depth_selection)
    described = records.read_task(task)
    listed = records.read_candidates(candidates)
    gathered = records.gather_shards(shards, listed, described.metric)
    table = records.evaluation_table(space, shape, 0, listed, gathered)
    write_json(
        about,
        {
            "task": described.name,
            "metric": described.metric,
            "higher_is_better": described.higher_is_better,
            "networks": len(table),
            "shape": dataclasses.asdict(shape),
            "depths": list(depths),
            "widths": list(widths),
            "depth_selection": depth_selection,
            "supernet": folder_digest(supernet),
            "items": folder_digest(task),
        },
    )
    write_table(output, table.drop(columns=["round", "origin"]))
    log.info("%s: %d networks", described.name, len(table))
