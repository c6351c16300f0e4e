"""What networks answer to a task's items, made up: for tests of what comes after the answers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llama_nas.core.artifacts import read_json, read_table, write_json
from llama_nas.core.items import Items, draw_groups
from llama_nas.search.front import choose_finalists, find_front

Score = Callable[[list[str]], np.ndarray]


def write_items(task: Path, count: int, group: int = 1) -> Items:
    """items.csv of a task: one subtask, `group` items about each thing."""
    subtasks, groups = np.zeros(count, dtype=int), np.arange(count) // group
    items = Items(subtasks, groups, np.ones(count), draw_groups(subtasks, groups))
    items.write(task)
    return items


def nested(share: float, count: int) -> str:
    """Answers of which the first are right: whoever has more right has all that the others have; at most all."""
    right = min(round(share * count), count)
    return "1" * right + "0" * (count - right)


def write_base(path: Path, task: Path, share: float) -> Path:
    """The JSON of stock lm-eval on the base, as far as judging reads it."""
    about = read_json(task / "task.json")
    values = [int(answer) for answer in nested(share, len(Items.read(task)))]
    write_json(path, {"task": about["task"], "metric": about["metric"], "item_values": values})
    return path


def evaluate_finalists(candidates: Path, task: Path, score: Score) -> Path:
    """The shard that `llama-nas evaluate` writes of all finalists; score: the accuracy of each id."""
    finalists, metric, count = read_table(candidates), read_json(task / "task.json")["metric"], len(Items.read(task))
    ids = finalists["subnet_id"].tolist()
    scores = score(ids)
    table = pd.DataFrame({"candidate": finalists["candidate"], "subnet_id": ids, metric: scores})
    table[f"{metric}_stderr"], table["items"] = 0.02, count
    shard = candidates.parent / "shard_1-of-1.csv"
    table.assign(answers=[nested(abs(value), count) for value in scores]).to_csv(shard, index=False)
    return shard


def close_search(
    folder: Path, inputs: dict[str, Any], score: Score, base: float, settings: dict[str, Any] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Evaluate the finalists and find the front, as the rules do: front.csv and judgement.csv, which lie in `folder`.

    inputs: space, task, evaluations and goals of both stages; settings: more of `find_front`; base: its accuracy.
    """
    candidates = folder / "finalists/candidates.csv"
    choose_finalists(candidates, **inputs)
    find_front(
        folder / "front.csv",
        **inputs,
        candidates=candidates,
        shards=[evaluate_finalists(candidates, inputs["task"], score)],
        base=write_base(folder / "base.json", inputs["task"], base),
        judgement=folder / "judgement.csv",
        **{"max_drop": 0.01} | (settings or {}),
    )
    return read_table(folder / "front.csv"), read_table(folder / "judgement.csv")
