"""The stages that close the search: the front of all real evaluations.

If the search scored only some of a task's items, its front is evaluated again, on all of them, and the front among
these *finalists* is the search's. What they score on the items held out of the search is written beside it: the search
has selected them for the others. The full network is evaluated with them, to be compared with item by item.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from llama_nas.artifacts import write_table
from llama_nas.pareto import non_dominated
from llama_nas.search import records
from llama_nas.space import ModelShape, parse_id

log = logging.getLogger(__name__)

HELD_OUT = ["searched", "held_out", "held_out_stderr", "held_out_items", "difference_to_full", "p_value"]


def write_finalists(output: Path, *, task: Path, evaluations: Path) -> None:
    """Write the front, and the full network, as candidates.csv; `predicted` is what the search measured of each."""
    described = records.read_task(task)
    front = _front(records.read_evaluations(evaluations, described.metric), described)
    ids, origins, searched = list(front["subnet_id"]), ["front"] * len(front), list(front[described.metric])
    if (full := _full(front)) not in ids:
        ids, origins, searched = [*ids, full], [*origins, "full"], [*searched, np.nan]
    write_table(output, records.candidate_table(ids, origins, np.array(searched)))


def write_front(
    output: Path,
    *,
    model: Path,
    widths: Sequence[int],
    task: Path,
    evaluations: Path,
    candidates: Path | None,
    shards: Sequence[Path] | None,
) -> None:
    """Write front.csv: the networks no other real evaluation beats in size and metric, ascending in size.

    candidates, shards: the finalists and their evaluations on all items; then only these count, and the columns
    HELD_OUT are filled: `searched` is the metric on the search's items, `held_out` that on the others, and there the
    difference to the full network with the p value of `_paired`. A network evaluated twice counts once, with its first
    evaluation. Networks that differ in size by a hair are all kept: sizes are exact. `int8_bytes`: as bitsandbytes
    stores it.
    """
    described = records.read_task(task)
    metric, shape = described.metric, ModelShape.from_folder(model)
    table = records.read_evaluations(evaluations, metric)
    searched = table["subnet_id"].nunique()
    if candidates is not None and shards is not None:
        again = records.gather_shards(shards, records.read_candidates(candidates), metric)
        table = _evaluated_again(table, again, metric)
    front = _front(table, described)
    stderr = f"{metric}_stderr"
    front["stderr"] = front[stderr] if stderr in front.columns else np.nan
    subnets = [parse_id(subnet_id, shape.num_hidden_layers, widths) for subnet_id in front["subnet_id"]]
    front["int8_bytes"] = [shape.size_bytes(subnet, "int8") for subnet in subnets]
    columns = ["subnet_id", "layers", "parameters", "size_bytes", metric, "stderr", "items", "round", "int8_bytes"]
    write_table(output, front.reindex(columns=[*columns, *HELD_OUT]))
    log.info("%s: %d of %d networks are on the front", described.name, len(front), searched)


def _front(table: pd.DataFrame, task: records.Task) -> pd.DataFrame:
    table = table.drop_duplicates("subnet_id", ignore_index=True)
    objectives = np.column_stack([table["parameters"], task.minimised(table[task.metric].to_numpy())])
    return table[non_dominated(objectives)].sort_values("parameters", ignore_index=True)


def _full(table: pd.DataFrame) -> str:
    """Id of the full network: every layer, at full width."""
    return "0" * len(table["subnet_id"].iloc[0])


def _evaluated_again(table: pd.DataFrame, again: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rows of the networks in `again`, with its metrics and items, and the columns HELD_OUT."""
    new = [column for column in again.columns if column not in ("candidate", "subnet_id")]
    first = table.drop_duplicates("subnet_id").assign(searched=lambda rows: rows[metric])
    first = first.drop(columns=[column for column in new if column in first.columns])
    full = again.loc[again["subnet_id"] == _full(again), "answers"].iloc[0]
    tests = [_paired(answers, full) for answers in again["answers"]]
    again = again.assign(difference_to_full=[t[0] for t in tests], p_value=[t[1] for t in tests])
    columns = ["subnet_id", *new, "difference_to_full", "p_value"]
    return first.merge(again[columns], on="subnet_id", validate="one_to_one")


def _paired(answers: str, full: str) -> tuple[float, float]:
    """Difference of two networks' shares of right answers to the same items, and its two-sided p value.

    McNemar's exact test: if neither is better, the items that only one of them answers right are either's with equal
    chance. NaN without answers (metrics of texts). answers: a 1 for each item answered right, a 0 for each other.
    """
    if not isinstance(answers, str) or not answers:
        return np.nan, np.nan
    own, other = (np.frombuffer(text.encode(), dtype=np.uint8) == ord("1") for text in (answers, full))
    gained, lost = int((own & ~other).sum()), int((other & ~own).sum())
    p_value = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return (gained - lost) / len(own), p_value
