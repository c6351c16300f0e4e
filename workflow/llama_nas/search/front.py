"""The stages that close the search: the front of all real evaluations.

If the search scored only some of a task's items, its front is evaluated again, on all of them, and the front among
these *finalists* is the search's. What they score on the items held out of the search is written beside it: the search
has selected them for the others. The full network is evaluated with them, to be compared with item by item; where the
search has not put it on its front, it is no finalist.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from llama_nas.artifacts import write_table
from llama_nas.search import encoding, records
from llama_nas.search.goals import Declared, Goals
from llama_nas.space import SearchSpace

log = logging.getLogger(__name__)

HELD_OUT = ["searched", "held_out", "held_out_stderr", "held_out_items", "difference_to_full", "p_value"]


def write_finalists(
    output: Path,
    *,
    model: Path,
    depths: Sequence[int],
    widths: Sequence[int],
    depth_selection: str,
    task: Path,
    evaluations: Path,
    goals: Declared,
) -> None:
    """Write the front, and the full network, as candidates.csv; `predicted` is what the search measured of each."""
    described = records.read_task(task)
    shape, space = records.checked_space(model, depths, widths, depth_selection)
    table = records.read_evaluations(evaluations, described.metric)
    front = _front(table, described, space, goals.on(space, shape, described))
    ids, origins, searched = list(front["subnet_id"]), ["front"] * len(front), list(front[described.metric])
    if (full := _full(front)) not in ids:
        ids, origins, searched = [*ids, full], [*origins, "full"], [*searched, np.nan]
    write_table(output, records.candidate_table(ids, origins, np.array(searched)))


def write_front(
    output: Path,
    *,
    model: Path,
    depths: Sequence[int],
    widths: Sequence[int],
    depth_selection: str,
    task: Path,
    evaluations: Path,
    goals: Declared,
    candidates: Path | None,
    shards: Sequence[Path] | None,
) -> None:
    """Write front.csv: the networks no other real evaluation beats in all objectives of `goals`, ascending in size.

    Only networks within the constraints; if none is, those nearest to them, with a warning. The objective latency is a
    last column, in seconds.

    candidates, shards: the finalists and their evaluations on all items; then only these count, and the columns
    HELD_OUT are filled: `searched` is the metric on the search's items, `held_out` that on the others, and there the
    difference to the full network with the p value of `_paired`. A network evaluated twice counts once, with its first
    evaluation. Networks that differ in size by a hair are all kept: sizes are exact. `int8_bytes`: as bitsandbytes
    stores it.
    """
    described = records.read_task(task)
    metric = described.metric
    shape, space = records.checked_space(model, depths, widths, depth_selection)
    resolved = goals.on(space, shape, described)
    table = records.read_evaluations(evaluations, metric)
    searched = table["subnet_id"].nunique()
    if candidates is not None and shards is not None:
        finalists = records.read_candidates(candidates)
        again = _compared(records.gather_shards(shards, finalists, metric))
        table = _evaluated_again(table, again[finalists["origin"] == "front"], metric)
    front = _front(table, described, space, resolved)
    stderr = f"{metric}_stderr"
    front["stderr"] = front[stderr] if stderr in front.columns else np.nan
    genotypes = encoding.genotypes_of(space, front["subnet_id"])
    front["int8_bytes"] = encoding.size_costs(space, shape, "int8").of(space, genotypes)
    latency = [cost for cost in resolved.costs if cost.name == "latency"]
    for cost in latency:
        front[cost.name] = cost.of(space, genotypes)
    columns = ["subnet_id", "layers", "parameters", "size_bytes", metric, "stderr", "items", "round", "int8_bytes"]
    write_table(output, front.reindex(columns=[*columns, *HELD_OUT, *(cost.name for cost in latency)]))
    if resolved.violation(space, genotypes, described.minimised(front[metric].to_numpy())).any():
        log.warning("%s: no network meets the constraints; the front is of those nearest to them", described.name)
    log.info("%s: %d of %d networks are on the front", described.name, len(front), searched)


def _front(table: pd.DataFrame, task: records.Task, space: SearchSpace, goals: Goals) -> pd.DataFrame:
    table = table.drop_duplicates("subnet_id", ignore_index=True)
    genotypes = encoding.genotypes_of(space, table["subnet_id"])
    on_front = goals.front(space, genotypes, task.minimised(table[task.metric].to_numpy()))
    return table[on_front].sort_values("parameters", ignore_index=True)


def _full(table: pd.DataFrame) -> str:
    """Id of the full network: every layer, at full width."""
    return "0" * len(table["subnet_id"].iloc[0])


def _evaluated_again(table: pd.DataFrame, again: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rows of the networks in `again`, with its metrics and items, and the columns HELD_OUT."""
    new = [column for column in again.columns if column not in ("candidate", "subnet_id")]
    first = table.drop_duplicates("subnet_id").assign(searched=lambda rows: rows[metric])
    first = first.drop(columns=[column for column in new if column in first.columns])
    return first.merge(again[["subnet_id", *new]], on="subnet_id", validate="one_to_one")


def _compared(again: pd.DataFrame) -> pd.DataFrame:
    """The evaluations on all items, with each network's difference to the full one and its p value."""
    full = again.loc[again["subnet_id"] == _full(again), "answers"].iloc[0]
    tests = [_paired(answers, full) for answers in again["answers"]]
    return again.assign(difference_to_full=[t[0] for t in tests], p_value=[t[1] for t in tests])


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
