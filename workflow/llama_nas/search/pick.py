"""Ask a finished search for a network: the smallest that loses no more than is allowed, under a size if need be."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from llama_nas.core.artifacts import read_json, read_table, write_json
from llama_nas.core.columns import JUDGEMENT
from llama_nas.core.costs import UNITS
from llama_nas.core.errors import UserError
from llama_nas.core.judgement import HELD_OUT, NOT_REFUTED, Metric, in_sequence, recommended, tested, verdict
from llama_nas.core.precisions import QUANTIZED
from llama_nas.core.space import SearchSpace
from llama_nas.core.units import format_bytes, parse_size
from llama_nas.search import tables

Row = dict[Any, Any]  # of judgement.csv, with the `bytes` in the precision asked for


def pick(
    *,
    task: str,
    max_size: str | None = None,
    max_drop: float | None = None,
    min_accuracy: float | None = None,
    precision: Literal["fp32", "bf16", "fp16", "int8", "nf4"] = "fp16",
    results: Path = Path("results"),
    output: Path | None = None,
) -> None:
    """Name the network to take of those that a finished search found, why, and its checkpoint.

    The rule is that of the page, for whatever may be given up: of the front's members that fit, the smallest that is
    shown to lose no more; if none is, the smallest for which that is not refuted; else the full network, if it fits.
    The front is that of the search's objectives: after a search for metric and latency alone it has no network that is
    small and slow. Raises UserError if no network can be named, with the nearest one.

    Args:
        task: the task's name in the config
        max_size: of the weights in that precision: 9GB, 8.5GiB, 900MB
        max_drop: what may be given up against the base: a share of 1 for accuracies (0.01: one point), relative for
            other metrics (default: the run's answer.max_drop)
        min_accuracy: the same said otherwise: the accuracy that must be left, a share of 1
        precision: of the sizes
        results: the run's folder
        output: the answer as JSON, too
    """
    described = tables.read_task(results / "tasks" / task)
    metric, space = described.judged_by, SearchSpace.read(results / "space.json")
    path = results / "search" / task / "judgement.csv"
    judgement = read_table(path, JUDGEMENT)
    drop = _drop(judgement.to_dict("records")[0], metric, max_drop, min_accuracy)
    judgement["bytes"] = [space.shape.size_bytes(space.parse(id), precision) for id in judgement["subnet_id"]]
    judgement = _judged_anew(judgement, drop)
    fitting = judgement
    if max_size is not None:
        fitting = judgement[judgement["bytes"] <= parse_size(max_size, "--max-size")]
        if fitting.empty:
            smallest = format_bytes(int(judgement["bytes"].min()))
            raise UserError(f"{path}: no network is at most {max_size} in {precision}; the smallest is {smallest}")
    chosen = _chosen(fitting, space.id(space.full))
    if chosen is None:
        raise UserError(f"{path}: {_nearest(fitting, metric, drop, max_size)}")
    answer = _described(results, task, precision, metric, drop, chosen)
    if output is not None:
        write_json(output, answer)
    print(_text(answer, metric))


def _drop(row: Row, metric: Metric, max_drop: float | None, min_accuracy: float | None) -> float:
    """What may be given up, by the options or by the run. row: any one of judgement.csv."""
    if min_accuracy is None:
        return float(row["max_drop"]) if max_drop is None else max_drop
    if max_drop is not None:
        raise UserError("--min-accuracy and --max-drop say the same in two ways; give one of them")
    if not metric.is_share:
        raise UserError(f"--min-accuracy: the task is judged by {metric.name}, of which less is better")
    if min_accuracy >= row["base"]:
        raise UserError(f"--min-accuracy {min_accuracy:g}: the base itself has {metric.name} {row['base']:.4f}")
    return float(row["base"]) - min_accuracy


def _judged_anew(judgement: pd.DataFrame, max_drop: float) -> pd.DataFrame:
    """The rows with their verdicts for another drop; then no number of items is known to be needed."""
    ends = zip(judgement["difference"].tolist(), judgement["lower"].tolist(), strict=True)
    judgement = judgement.assign(verdict=[verdict(difference, lower, max_drop) for difference, lower in ends])
    order = tested(judgement).index
    judgement.loc[order, "verdict"] = in_sequence(judgement.loc[order, "verdict"].tolist())
    judgement.loc[judgement["max_drop"] != max_drop, "items_needed"] = math.nan
    return judgement.assign(max_drop=max_drop)


def _chosen(fitting: pd.DataFrame, full: str) -> Row | None:
    """The row that the rule picks; None if it picks none of these."""
    rows = fitting.to_dict("records")
    members = [row for row in reversed(rows) if row["on_front"]]
    place = recommended([row["verdict"] for row in members])
    return members[place] if place is not None else next((row for row in rows if row["subnet_id"] == full), None)


def _nearest(fitting: pd.DataFrame, metric: Metric, max_drop: float, max_size: str | None) -> str:
    """What there is instead."""
    best = max(fitting.to_dict("records"), key=lambda row: row["difference"])
    limit = "" if max_size is None else f" of at most {max_size}"
    change = metric.judged_text(best["difference"], best["lower"], best["upper"])
    asked = (math.floor(-1000 * best["difference"]) + 1) / 1000  # the estimate must lie within it
    return (
        f"every network{limit} loses {metric.drop_text(max_drop)} or more; the best has {change}: "
        f"{best['subnet_id']}; --max-drop {asked:g} would not refute it"
    )


def _described(
    results: Path, task: str, precision: str, metric: Metric, max_drop: float, chosen: Row
) -> dict[str, Any]:
    subnet_id = str(chosen["subnet_id"])
    folder = f"networks/{subnet_id}/{precision if precision in QUANTIZED else 'hf'}"
    exists = (results / folder).is_dir()
    benchmark = results / "benchmarks" / task / precision / f"{subnet_id}.json"
    measured = read_json(benchmark)["metrics"] if benchmark.is_file() else {}
    front = read_table(results / "search" / task / "front.csv", ["subnet_id"])
    own = front[front["subnet_id"] == subnet_id].to_dict("records")  # the full network need not be on it
    costs = {name: row[name] for row in own for name in UNITS if name in row and name != "parameters"}
    needed = chosen["items_needed"] if chosen["verdict"] == NOT_REFUTED else math.nan
    return {
        "task": task,
        "subnet_id": subnet_id,
        "layers": int(chosen["layers"]),
        "precision": precision,
        "bytes": int(chosen["bytes"]),
        "metric": metric.name,
        "judged_on": chosen["judged_on"],
        "items": int(chosen["items"]),
        "groups": int(chosen["groups"]),
        **{name: float(chosen[name]) for name in ("base", "value", "difference", "lower", "upper")},
        "max_drop": max_drop,
        "verdict": chosen["verdict"],
        "items_needed": None if math.isnan(needed) else int(needed),
        "benchmark_value": measured.get(metric.name),
        "costs": costs,
        "checkpoint": str(results / folder) if exists else f"results/{folder}",  # there, or a target of the run
        "exists": exists,
    }


def _text(answer: dict[str, Any], metric: Metric) -> str:
    held_out = "held out of the search" if answer["judged_on"] == HELD_OUT else "that the search selected it by"
    change = metric.judged_text(answer["difference"], answer["lower"], answer["upper"])
    lines = [
        f"{answer['subnet_id']}: {answer['layers']} layers, {format_bytes(answer['bytes'])} in {answer['precision']}",
        f"{metric.name} {metric.text(answer['value'])}, the base's {metric.text(answer['base'])}: {change}, "
        f"on {answer['items']:,} items {held_out}",
        metric.verdict_text(answer["verdict"], answer["max_drop"]),
    ]
    if answer["items_needed"] is not None:
        lines[-1] += f"; about {answer['items_needed']:,} such items would show it"
    for name, value in answer["costs"].items():
        lines.append(f"{name} {value:.3g} {UNITS[name]}, by the layers' costs")
    if answer["benchmark_value"] is not None:
        measured = metric.text(answer["benchmark_value"])
        lines.append(f"{metric.name} {measured} by stock lm-eval in {answer['precision']}, on all items")
    if answer["exists"]:
        lines.append(f"checkpoint: {answer['checkpoint']}")
    else:
        lines.append("to get its checkpoint, with the run's own --configfile and --directory if it had them:")
        lines.append(f"  snakemake --cores all {answer['checkpoint']}")
    return "\n".join(lines)
