"""One task's summary: every benchmarked model with its size, score and speed, one row per model and precision."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llama_nas.analysis.contenders import BASE, FULL, MEMBER, ROLES, Contender, read_contenders
from llama_nas.analysis.figures import FIGURES
from llama_nas.core.artifacts import read_json, read_table, write_table, write_text
from llama_nas.core.columns import JUDGEMENT
from llama_nas.core.errors import UserError
from llama_nas.core.items import Items
from llama_nas.core.judgement import SHOWN, Metric, compare, read_item_values
from llama_nas.core.precisions import PRECISIONS
from llama_nas.core.space import SearchSpace
from llama_nas.core.units import SizeFamily

log = logging.getLogger(__name__)

REFERENCE_PRECISION = "fp16"  # every ratio and difference is against the pre-trained base in this precision
JUDGED = ["judged_on", "judged_items", "judged_value", "difference", "lower", "upper", "verdict", "max_drop"]
TASK_KEYS = (
    *("task", "lm_eval_task", "metric", "higher_is_better", "items", "chance"),
    *("num_fewshot", "limit", "subtasks", "requests", "truncated_requests"),
)
BENCHMARK_KEYS = (
    "metrics",
    "items",
    "item_values",
    "bytes_on_disk",
    "memory_bytes",
    "batch_size",
    "int8_threshold",
    "versions",
)
PHASES = {"prefill": "", "decode": "decode_", "decode_saturated": "decode_saturated_"}  # phase -> prefix of its columns
MEASURED = [
    *("tokens_per_second", "tokens_per_second_q1", "tokens_per_second_q3", "limit_tokens_per_second"),
    *("ratio", "ratio_lower", "ratio_upper", "speed_verdict"),
]
SPEED_COLUMNS = [prefix + column for prefix in PHASES.values() for column in MEASURED]
SPEED_SETTINGS = ["device", "threads", "batch_size", "sequence_length", "new_tokens", "repeats"]
SUMMARY_COLUMNS = (
    *(
        "task",
        "model",
        "role",
        "label",
        "precision",
        "recommended",
        "layers",
        "parameters",
        "size_bytes",
        "bytes_on_disk",
    ),
    *("memory_bytes", "metric", "value", "stderr", "items", "size_ratio", *JUDGED, "value_difference"),
    *("finetuning_difference", "search_difference", "precision_difference", *SPEED_COLUMNS, "throughput_setting"),
    *("on_front", "higher_is_better", "chance", "lm_eval_task", "subtasks", "num_fewshot", "limit"),
    *("requests", "truncated_requests", "batch_size", "int8_threshold", "versions"),
)


def summarize(
    output: Path,
    *,
    figures: Sequence[Path],
    space: Path,
    task: Path,
    evaluations: Path,
    front: Path,
    judgement: Path,
    contenders: Sequence[str],
    benchmarks: Sequence[Path],
    agreement: Path,
    throughput: Path,
    search_items: int | None = None,
    size_unit: SizeFamily = "GB",
) -> None:
    """Summarise one task: every contender with size, accuracy and speed; and its figures.

    Raises UserError where an input lacks a column or key, where two inputs contradict each other, or where the FP16
    benchmark of the pre-trained base or of the full-size super-network is missing.

    Args:
        front: front.csv
        judgement: judgement.csv
        contenders: NAME=FOLDER of every compared model, in the order of the rows
        benchmarks: JSONs of `llama-nas run-lm-eval` on this task, as TASK/PRECISION/NAME.json
        agreement: JSON of `llama-nas verify`
        throughput: CSV of `llama-nas measure-throughput`
        search_items: items that the search has used (default: all)
        size_unit: of the figures
        figures: out: SVGs: front, quantized, speed, progress
        output: CSV, columns as in `summary_table`
    """
    settings = read_keys(task / "task.json", TASK_KEYS)
    metric = settings["metric"]
    found = read_table(evaluations, ["round", "subnet_id", "layers", "size_bytes", metric, "items"])
    on_front = read_table(front, ["subnet_id", "size_bytes", metric, "items"])
    verdicts = read_table(judgement, JUDGEMENT)
    speeds = read_table(throughput, ["model", "precision", "phase", *MEASURED, *SPEED_SETTINGS])
    if read_keys(agreement, ["task"])["task"] != settings["task"]:
        raise UserError(f"{agreement}: not about task '{settings['task']}'")

    records = [read_benchmark(path, settings) for path in benchmarks]
    compared = read_contenders(contenders, SearchSpace.read(space))
    items = Items.read(task)
    judged = items.judged(search_items, settings["task"])
    for record in records:
        record["answers"] = record["answers"][judged]
    table = summary_table(compared, settings, records, items.of(judged), verdicts, speeds)
    write_table(output, table)
    for path, draw in zip(figures, FIGURES.values(), strict=True):
        write_text(path, draw(table, found, on_front, size_unit))
    log.info("summary of %s: %d rows, %d networks evaluated", settings["task"], len(table), len(found))


def read_keys(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """A JSON object that has all `keys`; raises UserError for what is missing."""
    value = read_json(path)
    missing = [key for key in keys if key not in value]
    if missing:
        raise UserError(f"{path}: key {', '.join(missing)} is missing")
    return value


def read_benchmark(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """One stock lm-eval result as a flat record; its path `{task}/{precision}/{id}.json` names model and precision."""
    task, precision, name = path.parts[-3], path.parts[-2], path.stem
    if task != settings["task"] or precision not in PRECISIONS:
        raise UserError(f"{path}: expected .../{settings['task']}/<one of {', '.join(PRECISIONS)}>/<id>.json")
    result = read_keys(path, BENCHMARK_KEYS)
    metric = settings["metric"]
    if result["metrics"].get(metric) is None:
        raise UserError(f"{path}: metrics has no '{metric}'; it has {', '.join(result['metrics'])}")
    if result["items"] != settings["items"]:
        raise UserError(f"{path}: {result['items']} items, but the compiled task has {settings['items']}")
    stderr = result["metrics"].get(f"{metric}_stderr")
    return {
        "model": name,
        "precision": precision,
        "value": float(result["metrics"][metric]),
        "stderr": math.nan if stderr is None else float(stderr),  # lm-eval has none for bits per byte and the like
        "items": result["items"],
        "answers": read_item_values(path, task, metric, settings["items"]),
        "bytes_on_disk": result["bytes_on_disk"],
        "memory_bytes": result["memory_bytes"],
        "batch_size": result["batch_size"],
        "int8_threshold": result["int8_threshold"],
        "versions": ", ".join(f"{package} {version}" for package, version in sorted(result["versions"].items())),
    }


def summary_table(
    contenders: dict[str, Contender],
    settings: dict[str, Any],
    records: Sequence[dict[str, Any]],
    items: Items,
    judgement: pd.DataFrame,
    speeds: pd.DataFrame,
) -> pd.DataFrame:
    """One row per (model, precision): the base, then the full-size super-network, then the others from large to small.

    size_bytes is arithmetic at the row's precision, bytes_on_disk what was measured. size_ratio is the base's FP16 size
    over the row's: 2 means half as large. The columns JUDGED are the judgement against the base in FP16 on the judged
    items, by stock lm-eval's answers; a network of the front is `shown` only where judgement.csv says so, too: no
    network is after one that is not. value_difference is on all items. For networks of the super-network it is the
    sum of finetuning_difference (full-size super-network - base), search_difference (network -
    full-size super-network, all FP16) and precision_difference (this precision - FP16 of the same network). Differences
    are plain, row minus reference: for a minimised metric a negative one is the better; only those of JUDGED are gains.

    records: of `read_benchmark`, their `answers` those to the judged `items`. judgement: of judgement.csv.
    """
    metric = Metric(settings["metric"], settings["higher_is_better"])
    values = {(r["model"], r["precision"]): (r["value"], r["stderr"]) for r in records}
    if len(values) < len(records):
        raise UserError(f"--benchmarks: {len(records)} files for {len(values)} pairs of model and precision")
    if unknown := [record["model"] for record in records if record["model"] not in contenders]:
        raise UserError(f"--contenders: {unknown[0]} is missing, --benchmarks has a result of it")
    base, full = (_reference(role, contenders, values, settings["task"]) for role in (BASE, FULL))
    answers = {(r["model"], r["precision"]): r["answers"] for r in records}
    reference = answers[base[0].name, REFERENCE_PRECISION]
    of_front = judgement.set_index("subnet_id")
    rows = [
        _sizes(contenders[record["model"]], record, base[0].size_bytes(REFERENCE_PRECISION))
        | _differences(contenders[record["model"]], record, values, base, full, metric)
        | _judged(record, reference, items, of_front, metric)
        | {
            "task": settings["task"],
            "on_front": bool(of_front["on_front"].get(record["model"], False)),
            "recommended": bool(of_front["recommended"].get(record["model"], False)),
            "higher_is_better": metric.higher_is_better,
            "chance": math.nan if settings["chance"] is None else settings["chance"],
            "lm_eval_task": settings["lm_eval_task"],
            "subtasks": " ".join(settings["subtasks"] or []),
            **{key: settings[key] for key in ("num_fewshot", "limit", "requests", "truncated_requests")},
            **{key: record[key] for key in ("batch_size", "int8_threshold", "versions")},
        }
        for record in records
    ]
    order = ["role", "parameters", "model", "precision"]
    return with_speed(pd.DataFrame(rows), speeds)[list(SUMMARY_COLUMNS)].sort_values(
        order, key=_row_order, ignore_index=True
    )


Values = dict[tuple[str, str], tuple[float, float]]  # (model, precision) -> score and its standard error
Reference = tuple[Contender, float, float]  # with its FP16 score and standard error


def _reference(role: str, contenders: dict[str, Contender], values: Values, task: str) -> Reference:
    """The only contender of a role that all others are compared with."""
    found = [contender for contender in contenders.values() if contender.role == role]
    if not found or (found[0].name, REFERENCE_PRECISION) not in values:
        name = found[0].name if found else role
        raise UserError(f"--benchmarks: {task}/{REFERENCE_PRECISION}/{name}.json is needed")
    return (found[0], *values[found[0].name, REFERENCE_PRECISION])


def _sizes(contender: Contender, record: dict[str, Any], base_bytes: int) -> dict[str, Any]:
    size = contender.size_bytes(record["precision"])
    return {
        "model": contender.name,
        "role": contender.role,
        "label": contender.label,
        "precision": record["precision"],
        "layers": contender.network.layers,
        "parameters": contender.parameters,
        "size_bytes": size,
        "bytes_on_disk": record["bytes_on_disk"],
        "memory_bytes": record["memory_bytes"],
        "size_ratio": base_bytes / size,
    }


def _differences(
    contender: Contender, record: dict[str, Any], values: Values, base: Reference, full: Reference, metric: Metric
) -> dict[str, Any]:
    value, stderr = record["value"], record["stderr"]
    in_fp16, _ = values.get((contender.name, REFERENCE_PRECISION), (math.nan, math.nan))
    finetuning, search = {
        BASE: (0.0, 0.0),
        FULL: (full[1] - base[1], in_fp16 - full[1]),
        MEMBER: (full[1] - base[1], in_fp16 - full[1]),
    }.get(contender.role, (math.nan, math.nan))
    return {
        "metric": metric.name,
        "value": value,
        "stderr": stderr,
        "items": record["items"],
        "value_difference": value - base[1],
        "finetuning_difference": finetuning,
        "search_difference": search,
        "precision_difference": value - in_fp16,
    }


def _judged(
    record: dict[str, Any], reference: np.ndarray, items: Items, of_front: pd.DataFrame, metric: Metric
) -> dict[str, Any]:
    """The columns JUDGED. reference: the base's answers; of_front: judgement.csv by network."""
    max_drop = float(of_front["max_drop"].iloc[0])
    comparison = compare(metric, items, record["answers"], reference)
    verdict = comparison.verdict(max_drop)
    if verdict == SHOWN and of_front["verdict"].get(record["model"], SHOWN) != SHOWN:
        verdict = "not refuted"
    about = (of_front["judged_on"].iloc[0], len(items), metric.score(items, record["answers"]))
    return dict(zip(JUDGED, (*about, *comparison.interval, verdict, max_drop), strict=True))


def with_speed(table: pd.DataFrame, speeds: pd.DataFrame) -> pd.DataFrame:
    """The table with each phase's columns MEASURED, and how they were measured; empty if they were not.

    speeds: one row per model, precision and phase. The columns of a phase other than prefill begin with its name.
    """
    for phase, prefix in PHASES.items():
        rows = speeds.loc[speeds["phase"] == phase, ["model", "precision", *MEASURED]]
        names = {column: prefix + column for column in MEASURED}
        table = table.merge(rows.rename(columns=names), on=["model", "precision"], how="left", validate="one_to_one")
    groups = speeds.groupby(["model", "precision"], sort=False)
    settings = [(model, precision, _setting(rows)) for (model, precision), rows in groups]
    named = pd.DataFrame(settings, columns=["model", "precision", "throughput_setting"])
    return table.merge(named, on=["model", "precision"], how="left")


def _setting(rows: pd.DataFrame) -> str:
    """One model's measurements in words."""
    parts = []
    for row in rows.to_dict("records"):
        if row["phase"] == "prefill":
            parts.append(f"prefill {row['batch_size']} x {row['sequence_length']} tokens")
        else:
            parts.append(
                f"decode {row['batch_size']} x {row['new_tokens']} tokens after {row['sequence_length']}"
                + (" (saturated)" if row["phase"] == "decode_saturated" else "")
            )
    first = rows.iloc[0]
    threads = f"{first['threads']} thread{'' if first['threads'] == 1 else 's'}"
    return f"{first['device']}, {threads}: {', '.join(parts)}; median of {first['repeats']} turns"


def _row_order(column: pd.Series) -> pd.Series:
    """Sort keys: roles and precisions in their own order, networks from large to small."""
    if column.name == "role":
        return column.map(ROLES.index)
    if column.name == "precision":
        return column.map(PRECISIONS.index)
    return -column if column.name == "parameters" else column
