"""What the page says about all tasks together: which network serves them all, and whether what is good is the same.

Each number as it is printed, from the tables of `llama-nas compare-tasks` (`analysis/transfer.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from llama_nas.analysis.sections import Judged, TaskSection
from llama_nas.analysis.transfer import MAP_COLUMNS, MATRIX_COLUMNS
from llama_nas.core.artifacts import read_table
from llama_nas.core.space import SearchSpace
from llama_nas.core.units import SizeUnit


@dataclass(frozen=True)
class AcrossRow:
    """A network on every task, as printed."""

    name: str
    what: list[str]  # why it stands here
    is_best: bool
    size: str
    cells: list[Judged]  # a task each


@dataclass(frozen=True)
class Likeness:
    """How alike the maps of two tasks are, or of two halves of the same task's networks."""

    task: str
    other: str
    correlation: str


@dataclass(frozen=True)
class Across:
    """All that the page says about all tasks together."""

    rows: list[AcrossRow]
    best_verdict: str  # the worst verdict, over the tasks, on the best network for all
    networks: int  # in the whole matrix
    maps: list[Likeness]
    figures: dict[str, str]  # SVG by name


def across(
    matrix: Path, maps: Path, figures: Sequence[Path], tasks: Sequence[TaskSection], space: SearchSpace, unit: SizeUnit
) -> Across:
    """Read the tables and figures of `llama-nas compare-tasks`."""
    table = read_table(matrix, MATRIX_COLUMNS)
    best = table[table["best_for_all"]]
    full = space.id(space.full)
    shown: dict[str, list[str]] = {str(best["subnet_id"].iloc[0]): ["best for all tasks"]}
    for task in tasks:
        shown.setdefault(task.pick.name, []).append(f"recommended for {task.name}")
    shown.setdefault(full, []).append("full-size super-network")
    return Across(
        rows=[across_row(name, what, table, tasks, unit) for name, what in shown.items()],
        best_verdict=best["all_tasks"].iloc[0],
        networks=table["subnet_id"].nunique(),
        maps=[likeness(row) for row in read_table(maps, MAP_COLUMNS).to_dict("records")],
        figures={path.stem: path.read_text(encoding="utf-8") for path in figures},
    )


def across_row(
    name: str, what: list[str], table: pd.DataFrame, tasks: Sequence[TaskSection], unit: SizeUnit
) -> AcrossRow:
    """A network's rows of the matrix: for each task that of its own front where it is on it, else of any other one."""
    found = table[table["subnet_id"] == name].to_dict("records")
    by_task = {row["task"]: row for row in sorted(found, key=lambda row: row["home"] == row["task"])}
    rows = [(task.metric, by_task[task.name]) for task in tasks]
    cells = [Judged(m.judged_text(row["difference"], row["lower"], row["upper"]), row["verdict"]) for m, row in rows]
    return AcrossRow(name, what, bool(found[0]["best_for_all"]), unit.text(found[0]["size_bytes"]), cells)


def likeness(row: dict) -> Likeness:
    numbers = (f"{row[column]:.2f}".replace("-", "−") for column in ("correlation", "lower", "upper"))
    text = "{} ({} to {})".format(*numbers)
    return Likeness(row["task"], row["other"], "–" if math.isnan(row["correlation"]) else text)
