"""Truth to search against: every network of the space, evaluated for real. Not part of a run; target `exhaustive`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from llama_nas.core.artifacts import folder_digest, read_json, write_json, write_table
from llama_nas.core.space import SearchSpace
from llama_nas.search import encoding, tables
from llama_nas.search.algorithms.sampling import every_network

log = logging.getLogger(__name__)


def enumerate_space(output: Path, *, space: Path) -> None:
    """List every network of the space as candidates, to be evaluated one and all.

    Args:
        output: candidates.csv
    """
    declared = SearchSpace.read(space)
    ids = encoding.subnet_ids(declared, every_network(declared))
    write_table(output, tables.candidate_table(ids, ["all"] * len(ids), None))


def tabulate(
    output: Path, *, about: Path, space: Path, supernet: Path, task: Path, candidates: Path, shards: Sequence[Path]
) -> None:
    """Gather the evaluations of every network of the space: the truth that searches are judged by.

    Args:
        supernet: the super-network's folder, for its digest
        candidates: candidates.csv of `llama-nas enumerate-space`
        shards: their shard CSVs
        about: out: JSON: the space, digests of the super-network and of the items
        output: CSV, one row per network, by candidate; columns as in evaluations.csv
    """
    described = tables.read_task(task)
    listed = tables.read_candidates(candidates)
    gathered = tables.gather_shards(shards, listed, described.metric)
    table = tables.evaluation_table(SearchSpace.read(space), 0, listed, gathered)
    write_json(
        about,
        {
            "task": described.name,
            "metric": described.metric,
            "higher_is_better": described.higher_is_better,
            "networks": len(table),
            "space": read_json(space),
            "supernet": folder_digest(supernet),
            "items": folder_digest(task),
        },
    )
    write_table(output, table.drop(columns=["round", "origin"]))
    log.info("%s: %d networks", described.name, len(table))
