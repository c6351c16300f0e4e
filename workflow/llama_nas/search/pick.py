"""Ask a finished search for a network: the best one under a size, or the smallest one above an accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pandas as pd

from llama_nas.core.artifacts import read_json, read_table, write_json
from llama_nas.core.costs import UNITS
from llama_nas.core.errors import UserError
from llama_nas.core.precisions import BYTES_PER_WEIGHT, QUANTIZED
from llama_nas.core.units import format_bytes, parse_size
from llama_nas.search import tables


def pick(
    *,
    task: str,
    max_size: str | None = None,
    min_accuracy: float | None = None,
    precision: Literal["fp32", "bf16", "fp16", "int8"] = "fp16",
    results: Path = Path("results"),
    output: Path | None = None,
) -> None:
    """Name the best network that a finished search found under a size or above an accuracy, and its checkpoint.

    The front is that of the search's objectives: after a search for metric and latency alone it has no network that is
    small and slow. Of the members that fit, the best one by the search's own score; without --max-size the smallest.
    Raises UserError if no member fits, naming what the front has to offer.

    Args:
        task: the task's name in the config
        max_size: of the weights in that precision: 9GB, 8.5GiB, 900MB
        min_accuracy: share of 1; without --max-size: the smallest network with it
        precision: of the sizes
        results: the run's folder
        output: the answer as JSON, too
    """
    described = tables.read_task(results / "tasks" / task)
    path = results / "search" / task / "front.csv"
    metric = described.metric
    front = read_table(path, ["subnet_id", "layers", "parameters", "int8_bytes", metric, "stderr", "items"])
    bytes_per_weight = BYTES_PER_WEIGHT.get(precision)
    front["bytes"] = front["int8_bytes"] if bytes_per_weight is None else front["parameters"] * bytes_per_weight
    fitting = front
    if max_size is not None:
        fitting = fitting[fitting["bytes"] <= parse_size(max_size, "--max-size")]
        if fitting.empty:
            smallest = format_bytes(int(front["bytes"].min()))
            raise UserError(f"{path}: no network is at most {max_size} in {precision}; the smallest is {smallest}")
    if min_accuracy is not None:
        if not described.higher_is_better:
            raise UserError(f"--min-accuracy: task '{task}' is judged by {metric}, of which less is better")
        within = fitting
        fitting = fitting[fitting[metric] >= min_accuracy]
        if fitting.empty:
            limit, best = "" if max_size is None else f" of at most {max_size}", within[metric].max()
            raise UserError(f"{path}: no network{limit} has {metric} {min_accuracy:g} or more; the best has {best:.4f}")
    smallest_first = max_size is None and min_accuracy is not None
    ordered = fitting.assign(error=described.minimised(fitting[metric].to_numpy()))
    chosen = ordered.sort_values(["bytes"] if smallest_first else ["error", "bytes"]).iloc[0]
    answer = _described(results, task, precision, metric, chosen)
    if output is not None:
        write_json(output, answer)
    print(_text(answer))


def _described(results: Path, task: str, precision: str, metric: str, chosen: pd.Series) -> dict[str, Any]:
    subnet_id = str(chosen["subnet_id"])
    folder = f"networks/{subnet_id}/{precision if precision in QUANTIZED else 'hf'}"
    exists = (results / folder).is_dir()
    benchmark = results / "benchmarks" / task / precision / f"{subnet_id}.json"
    measured = read_json(benchmark)["metrics"] if benchmark.is_file() else {}
    return {
        "task": task,
        "subnet_id": subnet_id,
        "layers": int(chosen["layers"]),
        "precision": precision,
        "bytes": int(chosen["bytes"]),
        "metric": metric,
        "value": float(chosen[metric]),
        "stderr": None if pd.isna(chosen["stderr"]) else float(chosen["stderr"]),
        "items": int(chosen["items"]),
        "benchmark_value": measured.get(metric),
        "costs": {name: float(chosen[name]) for name in UNITS if name in chosen and name != "parameters"},
        "checkpoint": str(results / folder) if exists else f"results/{folder}",  # there, or a target of the run
        "exists": exists,
    }


def _text(answer: dict[str, Any]) -> str:
    error = "" if answer["stderr"] is None else f" ± {answer['stderr']:.4f}"
    lines = [
        f"{answer['subnet_id']}: {answer['layers']} layers, {format_bytes(answer['bytes'])} in {answer['precision']}",
        f"{answer['metric']} {answer['value']:.4f}{error} in the search, on {answer['items']:,} items",
    ]
    for name, value in answer["costs"].items():
        lines.append(f"{name} {value:.3g} {UNITS[name]}, by the layers' costs")
    if answer["benchmark_value"] is not None:
        lines.append(f"{answer['metric']} {answer['benchmark_value']:.4f} by stock lm-eval in {answer['precision']}")
    if answer["exists"]:
        lines.append(f"checkpoint: {answer['checkpoint']}")
    else:
        lines.append("to get its checkpoint, with the run's own --configfile and --directory if it had them:")
        lines.append(f"  snakemake --cores all {answer['checkpoint']}")
    return "\n".join(lines)
