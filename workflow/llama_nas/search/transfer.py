"""What every task's search has found, as candidates for every other task (paper, section 4.5)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llama_nas.core.artifacts import read_table, write_table
from llama_nas.core.space import SearchSpace
from llama_nas.search import tables


def choose_transfer(*, space: Path, fronts: Sequence[Path], outputs: Sequence[Path]) -> None:
    """List the members of all fronts and the full network, to be evaluated on every task.

    Args:
        fronts: front.csv of every task
        outputs: out: candidates.csv for every task: the same networks
    """
    declared = SearchSpace.read(space)
    origins = {declared.id(declared.full): "full"}
    for path in fronts:
        for subnet_id in read_table(path, ["subnet_id"])["subnet_id"]:
            origins.setdefault(subnet_id, "front")
    candidates = tables.candidate_table(list(origins), list(origins.values()), None)
    for path in outputs:
        write_table(path, candidates)
