"""The stages that close the search: the front of all real evaluations, and the judgement on its networks.

The front of the search and the full network, the *finalists*, are evaluated once more, on all of the task's items. The
front among them is the search's. Each is then judged against the pre-trained base, item by item, by the one rule of
`core/judgement.py`: on the items held out of the search; where it has scored them all, on those.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from llama_nas.core.artifacts import write_table
from llama_nas.core.columns import JUDGEMENT
from llama_nas.core.errors import UserError
from llama_nas.core.items import Items
from llama_nas.core.judgement import (
    HELD_OUT,
    NOT_REFUTED,
    SEARCHED,
    Comparison,
    compare,
    in_sequence,
    parse_answers,
    read_item_values,
    recommended,
)
from llama_nas.core.space import SearchSpace
from llama_nas.search import encoding, tables
from llama_nas.search.goals import Goals, resolve
from llama_nas.search.settings import GoalSettings

log = logging.getLogger(__name__)


def choose_finalists(output: Path, *, space: Path, task: Path, evaluations: Path, goals: GoalSettings) -> None:
    """List the front of the search and the full network, to be evaluated on all items.

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
    candidates: Path,
    shards: Sequence[Path],
    base: Path,
    max_drop: float,
    judgement: Path,
    search_items: int | None = None,
) -> None:
    """Keep the finalists that no other one beats in all objectives, ascending in size, and judge them.

    Only networks within the constraints; if none is, those nearest to them, with a warning. Networks that differ in
    size by a hair are all kept: sizes are exact. Raises UserError if an input is of another task.

    Args:
        candidates: candidates.csv of `llama-nas choose-finalists`
        shards: the finalists' evaluations on all items, with their answers
        base: JSON of `llama-nas run-lm-eval` of the pre-trained base, FP16
        max_drop: what may be given up at most: a share of 1 for accuracies, relative for other metrics
        search_items: items that the search has used (default: all)
        judgement: out: judgement.csv: of each finalist its score and the base's on the judged items, what it gains on
            the base and on the full network with 95 % intervals, the verdict, and which one is recommended
        output: front.csv; `int8_bytes` as bitsandbytes stores it; the last columns are the measured objectives
    """
    declared, described = SearchSpace.read(space), tables.read_task(task)
    metric = described.metric
    resolved = resolve(goals, declared, described)
    finalists = tables.read_candidates(candidates)
    again = tables.gather_shards(shards, finalists, metric)
    table = tables.read_evaluations(evaluations, metric)
    front = _front(_evaluated_again(table, again[finalists["origin"] == "front"]), described, declared, resolved)
    front["stderr"] = front[f"{metric}_stderr"]
    genotypes = encoding.genotypes_of(declared, front["subnet_id"])
    front["int8_bytes"] = encoding.cost_of(encoding.size_costs(declared, "int8"), declared, genotypes)
    own = {cost.name: cost for cost in resolved.costs if cost.name not in front.columns}
    for name, cost in own.items():
        front[name] = encoding.cost_of(cost, declared, genotypes)
    columns = ["subnet_id", "layers", "parameters", "size_bytes", metric, "stderr", "items", "round", "int8_bytes"]
    write_table(output, front.reindex(columns=[*columns, *own]))

    items = Items.read(task)
    judged = items.judged(search_items, described.name)
    base_values = read_item_values(base, described.name, metric, len(items))
    judged_on = SEARCHED if search_items is None else HELD_OUT
    rows = judge(again, items.of(judged), base_values[judged], described, declared, set(front["subnet_id"]), max_drop)
    write_table(judgement, rows.assign(judged_on=judged_on))
    if resolved.violation(declared, genotypes, described.minimised(front[metric].to_numpy())).any():
        log.warning("%s: no network meets the constraints; the front is of those nearest to them", described.name)
    log.info("%s: %d of %d networks are on the front", described.name, len(front), table["subnet_id"].nunique())


def _front(table: pd.DataFrame, task: tables.Task, space: SearchSpace, goals: Goals) -> pd.DataFrame:
    table = table.drop_duplicates("subnet_id", ignore_index=True)
    genotypes = encoding.genotypes_of(space, table["subnet_id"])
    on_front = goals.front(space, genotypes, task.minimised(table[task.metric].to_numpy()))
    return table[on_front].sort_values("parameters", ignore_index=True)


def _evaluated_again(table: pd.DataFrame, again: pd.DataFrame) -> pd.DataFrame:
    """The search's rows of the networks in `again`, with its metrics and items."""
    new = [column for column in again.columns if column not in ("candidate", "subnet_id")]
    first = table.drop_duplicates("subnet_id").drop(columns=new, errors="ignore")
    return first.merge(again[["subnet_id", *new]], on="subnet_id", validate="one_to_one")


def judge(
    finalists: pd.DataFrame,
    items: Items,
    base: np.ndarray,
    task: tables.Task,
    space: SearchSpace,
    on_front: set[str],
    max_drop: float,
) -> pd.DataFrame:
    """judgement.csv, a row per finalist, ascending in size, `judged_on` still to be filled.

    finalists: subnet_id and answers, the full network among them. items, base: the judged items, and the base's answers
    to them, [items]. on_front: the finalists that are on the front.
    """
    metric, full = task.judged_by, space.id(space.full)
    texts = zip(finalists["subnet_id"], finalists["answers"], strict=True)
    answers = {id: parse_answers(text, metric) for id, text in texts}
    if wrong := [id for id, own in answers.items() if len(own) != len(items)]:
        raise UserError(f"{task.name}: network {wrong[0]} has other than {len(items)} answers; evaluate it again")
    subnets = {id: space.parse(id) for id in answers}
    sizes = {id: space.shape.parameters(subnet) for id, subnet in subnets.items()}
    ids = sorted(answers, key=lambda id: (sizes[id], id))
    against_base = {id: compare(metric, items, answers[id], base) for id in ids}
    against_full = {id: compare(metric, items, answers[id], answers[full]) for id in ids}
    verdicts = {id: comparison.verdict(max_drop) for id, comparison in against_base.items()}
    members = [id for id in reversed(ids) if id != full or full in on_front]  # the full one alone is no choice
    verdicts |= dict(zip(members, in_sequence([verdicts[id] for id in members]), strict=True))
    needed = dict(zip(members, _items_needed([against_base[id] for id in members], max_drop), strict=True))
    needed.setdefault(full, against_base[full].items_needed(max_drop))
    takable = [id for id in members if id in on_front]
    place = recommended([verdicts[id] for id in takable])
    chosen = full if place is None else takable[place]
    rows = [
        {
            "subnet_id": id,
            "layers": subnets[id].layers,
            "parameters": sizes[id],
            "size_bytes": space.shape.size_bytes(subnets[id], "fp16"),
            "on_front": id in on_front,
            "items": len(items),
            "groups": len(against_base[id].sizes),
            "base": metric.score(items, base),
            "full": metric.score(items, answers[full]),
            "value": metric.score(items, answers[id]),
            **_interval(against_base[id]),
            "verdict": verdicts[id],
            "items_needed": needed.get(id) if verdicts[id] == NOT_REFUTED else None,
            **{f"full_{name}": value for name, value in _interval(against_full[id]).items()},
            "recommended": id == chosen,
            "max_drop": max_drop,
        }
        for id in ids
    ]
    return pd.DataFrame(rows, columns=JUDGEMENT).astype({"items_needed": "Int64"})


def _items_needed(sequence: Sequence[Comparison], max_drop: float) -> list[int | None]:
    """How many items would show each network, from the largest to the smallest: as many as those before it need, too.

    None where no number would: it, or one before it, loses too much.
    """
    needed: list[int | None] = []
    for comparison in sequence:
        before = needed[-1] if needed else 0
        own = comparison.items_needed(max_drop) if before is not None else None
        needed.append(None if before is None or own is None else max(before, own))
    return needed


def _interval(comparison: Comparison) -> dict[str, float]:
    return dict(zip(("difference", "lower", "upper"), comparison.interval, strict=True))
