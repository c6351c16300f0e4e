"""What a run has done so far, in lines of text, read from its artifacts: for a run in progress, killed or finished.

`llama-nas status` prints all of them; the logger plugin (`snakemake_logger_plugin_llama_nas`) prints each when it
becomes true. No pandas here: the plugin is a part of Snakemake's own process.
"""

from __future__ import annotations

import contextlib
import csv
import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llama_nas.core.artifacts import read_json
from llama_nas.core.errors import UserError
from llama_nas.core.judgement import Metric
from llama_nas.core.pareto import hypervolume
from llama_nas.core.units import SizeUnit

PLAN_FILE = "timings/plan.json"  # below results/, by the workflow
PROGRESS_FILE = "timings/progress.json"  # by the logger plugin
SIZES = 3  # limits of size that a round's line has scores for
REFERENCE = np.array([1.1, 1.1])  # of the hypervolume, in the box of the first round
Rows = list[dict[str, str]]


@dataclass(frozen=True)
class Plan:
    """What the run is to make, as far as its config tells: written by the workflow when it starts."""

    tasks: tuple[str, ...] = ()
    rounds: int | None = None
    size_unit: Any = "GB"
    page: str = "summary.html"
    behind_front: dict[str, int] | None = None  # jobs by rule that each task's front calls for, an estimate

    @classmethod
    def read(cls, results: Path) -> Plan:
        """Of a run's folder; where it has no plan, of what lies there."""
        if (results / PLAN_FILE).is_file():
            plan = read_json(results / PLAN_FILE)
            return cls(**plan | {"tasks": tuple(plan["tasks"])})
        return cls(tuple(sorted({path.name for part in ("tasks", "search") for path in results.glob(f"{part}/[!.]*")})))


def status(*, results: Path = Path("results")) -> None:
    """Print how far a run has come: rounds, fronts, exports, benchmarks, and the page; needs no Snakemake.

    Everything is read from the artifacts, so it answers for a run on a cluster and for a killed one, too. The share
    that is done and the stages that run are there if the run has the logger plugin (profiles/default).

    Args:
        results: the run's folder
    """
    if not results.is_dir():
        raise UserError(f"{results}: no such folder; --results is that of a run, for example runs/mine/results")
    print("\n".join(status_lines(results, time.time())))


def status_lines(results: Path, now: float) -> list[str]:
    """All lines about a run; now: seconds since the epoch."""
    plan = Plan.read(results)
    lines = _progress_lines(results, now)
    for task in plan.tasks:
        lines += task_lines(results, task, plan)
    forms = Counter(path.name for path in results.glob("networks/*/*") if not path.name.startswith("."))
    made = ", ".join(f"{count} in {form}" for form, count in sorted(forms.items()))
    lines.append(f"networks: {made or 'none exported yet'}")
    page = results / plan.page
    lines.append(f"the page: {page}" if page.is_file() else "the page: not yet written")
    return lines


def _progress_lines(results: Path, now: float) -> list[str]:
    """What the logger plugin last wrote down."""
    if not (results / PROGRESS_FILE).is_file():
        return []
    progress = read_json(results / PROGRESS_FILE)
    said = duration(max(now - progress["at"], 0))
    if progress["state"] != "running":
        return [f"the run {progress['state']} {said} ago, {percent(progress['share'])} done"]
    lines = [f"{share_text(progress['share'], progress['seconds_left'])}, {said} ago"]
    for job in progress["running"]:
        lines.append(running_text(job["name"], results.parent / job["log"] if job["log"] else None))
    return lines


def task_lines(results: Path, task: str, plan: Plan) -> list[str]:
    """A line for each finished round of a task's search, its front, and how many benchmarks there are."""
    rounds = sorted(
        int(path.parent.name.removeprefix("round_")) for path in results.glob(f"search/{task}/round_*/evaluations.csv")
    )
    lines = [round_line(results, task, number, plan) for number in rounds]
    if not rounds:
        compiled = (results / "tasks" / task / "task.json").is_file()
        lines.append(f"{task}: {'compiled, ' if compiled else ''}no round is finished")
    if (results / "search" / task / "judgement.csv").is_file():
        lines.append(front_line(results, task, plan))
    benchmarks = len(list(results.glob(f"benchmarks/{task}/*/*.json")))
    if benchmarks:
        summary = results / "summary" / f"{task}.csv"
        lines.append(f"{task}: {benchmarks} benchmarks{f', {summary}' if summary.is_file() else ''}")
    return lines


def round_line(results: Path, task: str, number: int, plan: Plan) -> str:
    """`arc_easy round 2 of 5: 100 evaluations, hypervolume 0.812 (+0.021), acc 41.2 / 52.0 / 55.1 % up to ... MB`.

    The hypervolume is that of size and metric, in the box of the first round's evaluations, so that rounds compare; the
    scores are the best ones found so far within limits of size. Without numbers where the table has none.
    """
    title = f"{task} round {number}{f' of {plan.rounds}' if plan.rounds else ''}"
    rows = _rows(results / f"search/{task}/round_{number}/evaluations.csv")
    try:
        metric = read_metric(results / "tasks" / task)
        rounds = np.array([int(row["round"]) for row in rows])
        sizes = np.array([float(row["size_bytes"]) for row in rows])
        values = np.array([float(row[metric.name]) for row in rows])
        volumes = hypervolumes(rounds, sizes, values, metric)
    except (KeyError, ValueError, UserError):
        return f"{title} is finished"
    gain = f" ({volumes[-1] - volumes[-2]:+.3f})" if len(volumes) > 1 else ""
    best, limits = best_within(rounds, sizes, values, metric)
    unit = SizeUnit.of(plan.size_unit, int(sizes.max()))
    scale = 100 if metric.is_share else 1
    scores = " / ".join(
        "–" if np.isnan(value) else f"{scale * value:.{1 if metric.is_share else 3}f}" for value in best
    )
    sizes_text = " / ".join(unit.number(limit) for limit in limits)
    return (
        f"{title}: {len(rows)} evaluations, hypervolume {volumes[-1]:.3f}{gain}, {metric.name} {scores}"
        f"{' %' if metric.is_share else ''} up to {sizes_text} {unit.name}"
    )


def hypervolumes(rounds: np.ndarray, sizes: np.ndarray, values: np.ndarray, metric: Metric) -> list[float]:
    """Hypervolume of size and metric after each round; 1 is the box that the first round's evaluations span.

    rounds, sizes, values: of each evaluation, [n], in the order in which they were made.
    """
    costs = np.column_stack([sizes, -values if metric.higher_is_better else values])
    first = costs[rounds == rounds.min()]
    low, high = first.min(axis=0), first.max(axis=0)
    scaled = (costs - low) / np.where(high > low, high - low, 1)
    return [hypervolume(scaled[rounds <= number], REFERENCE) for number in np.unique(rounds)]


def best_within(
    rounds: np.ndarray, sizes: np.ndarray, values: np.ndarray, metric: Metric
) -> tuple[list[float], list[float]]:
    """The best value among the networks up to each of SIZES limits, and the limits, in bytes.

    The limits part the range of the first round's sizes evenly, so they are the same in all rounds.
    """
    first = sizes[rounds == rounds.min()]
    low, high = float(first.min()), float(first.max())
    limits = [low + (high - low) * part / SIZES for part in range(1, SIZES)] + [high]  # exactly: the largest counts
    best = []
    for limit in limits:
        within = values[sizes <= limit]
        best.append(float(within.max() if metric.higher_is_better else within.min()) if len(within) else np.nan)
    return best, limits


def front_line(results: Path, task: str, plan: Plan) -> str:
    """How many networks a task's front has, and which one is recommended, with its verdict."""
    rows = _rows(results / "search" / task / "judgement.csv")
    try:
        metric = read_metric(results / "tasks" / task)
        members = [row for row in rows if row["on_front"] == "True"]
        (chosen,) = [row for row in rows if row["recommended"] == "True"]
        sizes = [int(row["size_bytes"]) for row in rows]
        judged = metric.judged_text(*(float(chosen[column]) for column in ("difference", "lower", "upper")))
        unit = SizeUnit.of(plan.size_unit, max(sizes))
        return (
            f"{task} front: {len(members)} network{'' if len(members) == 1 else 's'}; "
            f"recommended {chosen['subnet_id']}, "
            f"{unit.text(int(chosen['size_bytes']))} of {unit.text(max(sizes))}, {metric.name} {judged} against the "
            f"base on {chosen['items']} {chosen['judged_on']} items: {chosen['verdict']}"
        )
    except (KeyError, ValueError, UserError):
        return f"{task} front is found"


def read_metric(task: Path) -> Metric:
    """The metric of a compiled task; raises UserError or KeyError."""
    described = read_json(task / "task.json")
    return Metric(described["metric"], bool(described["higher_is_better"]))


def running_text(name: str, log: Path | None) -> str:
    """A stage and the last line of its log that tells how far it is."""
    line = progress_line(log) if log is not None else ""
    return f"{name}: {line}" if line else name


def progress_line(log: Path) -> str:
    """The last line of a log that has a time left; without one the last line; no full bar; without its time of day."""
    with contextlib.suppress(OSError):
        lines = [line for line in log_tail(log, 40) if "100%|" not in line]
        told = [line for line in lines if seconds_left(line) is not None]
        if lines:
            return re.sub(r"^\d\d:\d\d:\d\d ", "", (told or lines)[-1])
    return ""


def log_tail(log: Path, count: int, most_bytes: int = 20_000) -> list[str]:
    """The last lines of a log that are not empty; of a bar that was drawn over itself, its last state."""
    with open(log, "rb") as file:
        file.seek(max(file.seek(0, 2) - most_bytes, 0))
        text = file.read().decode(errors="replace")
    lines = (line.rstrip().rpartition("\r")[2].rstrip() for line in text.split("\n"))
    return [line for line in lines if line][-count:]


def seconds_left(line: str) -> float | None:
    """The time left that a line of a log states: `35 s left`, or tqdm's `[00:12<01:05, ...`."""
    if found := re.search(r"([\d.]+) s left", line):
        return float(found[1])
    if found := re.search(r"\[[\d:]+<((?:\d+:)?\d+:\d+),", line):
        seconds = 0
        for part in found[1].split(":"):
            seconds = 60 * seconds + int(part)
        return float(seconds)
    return None


def share_text(share: float, seconds: float | None) -> str:
    """`43 % done, about 6 min left`."""
    return f"{percent(share)} done{'' if seconds is None else f', about {duration(seconds)} left'}"


def percent(share: float) -> str:
    """Rounded down: 100 % is the end."""
    return f"{int(100 * share)} %"


def duration(seconds: float) -> str:
    """`35 s`, `6 min`, `2 h 5 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _rows(path: Path) -> Rows:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
