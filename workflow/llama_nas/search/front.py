"""The stages that close the search: the front of all real evaluations.

If the search scored only some of a task's items, its front is evaluated again, on all of them, and the front among
these *finalists* is the search's.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from llama_nas.artifacts import write_table
from llama_nas.pareto import non_dominated
from llama_nas.search import records

log = logging.getLogger(__name__)


def write_finalists(output: Path, *, task: Path, evaluations: Path) -> None:
    """Write the front as candidates.csv; `predicted` is what the search measured, on fewer items."""
    described = records.read_task(task)
    front = _front(records.read_evaluations(evaluations, described.metric), described)
    values = front[described.metric].to_numpy()
    write_table(output, records.candidate_table(list(front["subnet_id"]), ["front"] * len(front), values))


def write_front(
    output: Path, *, task: Path, evaluations: Path, candidates: Path | None, shards: Sequence[Path] | None
) -> None:
    """Write front.csv: the networks no other real evaluation beats in size and metric, ascending in size.

    candidates, shards: the finalists and their evaluations on all items; then only these count. A network evaluated
    twice counts once, with its first evaluation. Networks that differ in size by a hair are all kept: sizes are exact.
    """
    described = records.read_task(task)
    metric = described.metric
    table = records.read_evaluations(evaluations, metric)
    searched = table["subnet_id"].nunique()
    if candidates is not None and shards is not None:
        table = _evaluated_again(table, records.gather_shards(shards, records.read_candidates(candidates), metric))
    front = _front(table, described)
    stderr = f"{metric}_stderr"
    front["stderr"] = front[stderr] if stderr in front.columns else np.nan
    columns = ["subnet_id", "layers", "parameters", "size_bytes", metric, "stderr", "items", "round"]
    write_table(output, front[columns])
    log.info("%s: %d of %d networks are on the front", described.name, len(front), searched)


def _front(table: pd.DataFrame, task: records.Task) -> pd.DataFrame:
    table = table.drop_duplicates("subnet_id", ignore_index=True)
    objectives = np.column_stack([table["parameters"], task.minimised(table[task.metric].to_numpy())])
    return table[non_dominated(objectives)].sort_values("parameters", ignore_index=True)


def _evaluated_again(table: pd.DataFrame, again: pd.DataFrame) -> pd.DataFrame:
    """The rows of the networks in `again`, with its metrics and items."""
    metrics = [column for column in again.columns if column not in ("candidate", "subnet_id")]
    first = table.drop_duplicates("subnet_id").drop(columns=metrics)
    return first.merge(again[["subnet_id", *metrics]], on="subnet_id", validate="one_to_one")
