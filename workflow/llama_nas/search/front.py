"""The stage that closes the search: the front of all real evaluations."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from llama_nas.artifacts import write_table
from llama_nas.pareto import non_dominated
from llama_nas.search import records

log = logging.getLogger(__name__)


def write_front(output: Path, *, task: Path, evaluations: Path) -> None:
    """Write front.csv: the networks no other real evaluation beats in size and metric, ascending in size.

    A network evaluated twice counts once, with its first evaluation. Networks that differ in size by a hair are all
    kept: sizes are exact.
    """
    described = records.read_task(task)
    metric = described.metric
    table = records.read_evaluations(evaluations, metric).drop_duplicates("subnet_id", ignore_index=True)
    objectives = np.column_stack([table["parameters"], described.minimised(table[metric].to_numpy())])
    front = table[non_dominated(objectives)].sort_values("parameters", ignore_index=True)
    stderr = f"{metric}_stderr"
    front["stderr"] = front[stderr] if stderr in front.columns else np.nan
    write_table(output, front[["subnet_id", "layers", "parameters", "size_bytes", metric, "stderr", "round"]])
    log.info("%s: %d of %d networks are on the front", described.name, len(front), len(table))
