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

from llama_nas.core.artifacts import write_table
from llama_nas.core.columns import HELD_OUT
from llama_nas.core.space import SearchSpace
from llama_nas.search import encoding, tables
from llama_nas.search.goals import Goals, resolve
from llama_nas.search.settings import GoalSettings

log = logging.getLogger(__name__)


def choose_finalists(output: Path, *, space: Path, task: Path, evaluations: Path, goals: GoalSettings) -> None:
    """After a search on some of the items: list the front and the full network, to be evaluated on all items.

    Args:
        output: candidates.csv; `predicted` is what the search measured of each
    """
    declared, described = SearchSpace.read(space), tables.read_task(task)
    table = tables.read_evaluations(evaluations, described.metric)
    front = _front(table, described, declared, resolve(goals, declared, described))
    ids, origins, searched = list(front["subnet_id"]), ["front"] * len(front), list(front[described.metric])
    if (full := declared.id(declared.full)) not in ids:
        ids, origins, searched = [*ids, full], [*origins, "full"], [*searched, np.nan]
    write_table(output, tables.candidate_table(ids, origins, np.array(searched)))


def find_front(
    output: Path,
    *,
    space: Path,
    task: Path,
    evaluations: Path,
    goals: GoalSettings,
    candidates: Path | None = None,
    shards: Sequence[Path] | None = None,
) -> None:
    """Keep the networks that no other real evaluation beats in all objectives, ascending in size.

    Only networks within the constraints; if none is, those nearest to them, with a warning. Networks that differ in
    size by a hair are all kept: sizes are exact. A network evaluated twice counts once, with its first evaluation.

    Args:
        candidates: candidates.csv of `llama-nas choose-finalists`; with --shards
        shards: the finalists' evaluations on all items; then only these count, and the columns HELD_OUT are filled:
            `searched` is the metric on the search's items, `held_out` that on the others, and there the difference to
            the full network with the p value of McNemar's exact test
        output: front.csv; `int8_bytes` as bitsandbytes stores it; the last columns are the measured objectives
    """
    declared, described = SearchSpace.read(space), tables.read_task(task)
    metric = described.metric
    resolved = resolve(goals, declared, described)
    table = tables.read_evaluations(evaluations, metric)
    searched = table["subnet_id"].nunique()
    if candidates is not None and shards is not None:
        finalists = tables.read_candidates(candidates)
        full = declared.id(declared.full)
        again = _compared(tables.gather_shards(shards, finalists, metric), full)
        table = _evaluated_again(table, again[finalists["origin"] == "front"], metric)
    front = _front(table, described, declared, resolved)
    stderr = f"{metric}_stderr"
    front["stderr"] = front[stderr] if stderr in front.columns else np.nan
    genotypes = encoding.genotypes_of(declared, front["subnet_id"])
    front["int8_bytes"] = encoding.cost_of(encoding.size_costs(declared, "int8"), declared, genotypes)
    own = {cost.name: cost for cost in resolved.costs if cost.name not in front.columns}
    for name, cost in own.items():
        front[name] = encoding.cost_of(cost, declared, genotypes)
    columns = ["subnet_id", "layers", "parameters", "size_bytes", metric, "stderr", "items", "round", "int8_bytes"]
    write_table(output, front.reindex(columns=[*columns, *HELD_OUT, *own]))
    if resolved.violation(declared, genotypes, described.minimised(front[metric].to_numpy())).any():
        log.warning("%s: no network meets the constraints; the front is of those nearest to them", described.name)
    log.info("%s: %d of %d networks are on the front", described.name, len(front), searched)


def _front(table: pd.DataFrame, task: tables.Task, space: SearchSpace, goals: Goals) -> pd.DataFrame:
    table = table.drop_duplicates("subnet_id", ignore_index=True)
    genotypes = encoding.genotypes_of(space, table["subnet_id"])
    on_front = goals.front(space, genotypes, task.minimised(table[task.metric].to_numpy()))
    return table[on_front].sort_values("parameters", ignore_index=True)


def _evaluated_again(table: pd.DataFrame, again: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rows of the networks in `again`, with its metrics and items, and the columns HELD_OUT."""
    new = [column for column in again.columns if column not in ("candidate", "subnet_id")]
    first = table.drop_duplicates("subnet_id").assign(searched=lambda rows: rows[metric])
    first = first.drop(columns=[column for column in new if column in first.columns])
    return first.merge(again[["subnet_id", *new]], on="subnet_id", validate="one_to_one")


def _compared(again: pd.DataFrame, full: str) -> pd.DataFrame:
    """The evaluations on all items, with each network's difference to the full one and its p value."""
    reference = again.loc[again["subnet_id"] == full, "answers"].iloc[0]
    tests = [_paired(answers, reference) for answers in again["answers"]]
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
