"""What the page says about one task, each number as it is printed; `report.html` only lays it out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from llama_nas.analysis.contenders import BASE, FULL, LABELS, MEMBER, OURS
from llama_nas.analysis.figures import FIGURES, PATTERN_FIGURES
from llama_nas.analysis.judgement import NOISE, Metric, Verdict
from llama_nas.analysis.summary import PHASES, REFERENCE_PRECISION, SUMMARY_COLUMNS, read_keys
from llama_nas.core.artifacts import read_table
from llama_nas.core.errors import UserError
from llama_nas.core.precisions import QUANTIZED
from llama_nas.core.units import format_bytes

Row = dict[Any, Any]  # a line of the summary CSV by column
Rows = dict[tuple[str, str], Row]  # the lines by model and precision

PREDICTOR_KEYS = ("task", "round", "predictor")
QUALITY_KEYS = ("task", "round", "quality")
AGREEMENT_KEYS = (
    *("task", "subnet_id", "dtype", "requests", "items", "max_difference_per_token"),
    *("agrees", "flipped_items", "search_scorer", "lm_eval"),
)


@dataclass(frozen=True)
class Speed:
    """Tokens/s of one phase, as printed."""

    tokens_per_second: str
    speedup: str  # against the base in FP16
    share: str  # of what the device allows


@dataclass(frozen=True)
class Score:
    """A model in one precision, as printed."""

    size: str
    on_disk: str
    in_memory: str
    ratio: float
    score: str
    verdict: Verdict
    difference: str
    speeds: dict[str, Speed | None]  # by phase, None where not measured


@dataclass(frozen=True)
class Gain:
    """One part of a score's difference from the base, as printed."""

    text: str
    verdict: Verdict


@dataclass(frozen=True)
class Network:
    """A line of a task's tables; scores by precision, gains by part (finetuning, search, a quantized precision)."""

    name: str
    label: str
    role: str  # of contenders.ROLES
    layers: int
    parameters: str
    recommended: bool
    scores: dict[str, Score]
    gains: dict[str, Gain | None]


@dataclass(frozen=True)
class Agreement:
    """The search's own scorer against stock lm-eval on one network, as printed."""

    agrees: bool
    model: str
    dtype: str
    requests: str
    items: str
    flipped: str
    per_token: str
    own: str
    stock: str


@dataclass(frozen=True)
class HeldOut:
    """A front member's score where the search looked and where it did not, as printed."""

    network: Network
    searched: str
    held_out: str
    items: str
    difference: str  # to the full-size super-network, on the held-out items
    p_value: str


@dataclass(frozen=True)
class PredictorRound:
    """The predictor that proposed one round: what it was and how well it ranked networks it had not seen."""

    round: int
    kind: str
    rows: int
    cross_validation: str
    out_of_sample: str
    out_of_sample_rows: str


@dataclass(frozen=True)
class TaskSection:
    """All that the page says about one task."""

    name: str
    metric: Metric
    networks: list[Network]
    base: Network
    full: Network
    best: Network  # of the exported ones, by FP16 score
    pick: Network
    hidden_drop: str  # the largest drop against the base that would pass as noise; empty if it is not known
    at_chance: bool
    facts: dict[str, str]
    unjudged: bool  # whether the metric has no standard error
    figures: dict[str, str]  # SVG by name
    held_out: list[HeldOut]  # empty if the search looked at all items
    agreement: Agreement
    predictors: list[PredictorRound]


def task_section(
    summary: Path, figures: Sequence[Path], agreement: Path, predictors: Sequence[Path], predictions: Sequence[Path]
) -> TaskSection:
    """Read one task's artifacts; raises UserError where they are not of the same task."""
    table = read_table(summary, SUMMARY_COLUMNS)
    if table.empty:
        raise UserError(f"{summary}: no rows")
    first = table.iloc[0]
    task = str(first["task"])
    metric = Metric(first["metric"], bool(first["higher_is_better"]))
    check = read_keys(agreement, AGREEMENT_KEYS)
    if check["task"] != task:
        raise UserError(f"{summary}: is about task '{task}', but beside it stands {agreement}")
    drawn = {path.stem: path for path in figures}
    names = (*FIGURES, *PATTERN_FIGURES)
    missing = [name for name in names if f"{task}_{name}" not in drawn]
    if missing:
        raise UserError(f"--figures: {task}_{missing[0]}.svg is missing")

    rows: Rows = {(row["model"], row["precision"]): dict(row) for row in table.to_dict("records")}
    networks = [network_line(name, rows, metric) for name in table["model"].unique()]
    base = next(network for network in networks if network.role == BASE)
    pick = next(network for network in networks if network.recommended)
    base_row, pick_row = rows[base.name, REFERENCE_PRECISION], rows[pick.name, REFERENCE_PRECISION]
    drop = NOISE * math.hypot(base_row["stderr"], pick_row["stderr"])
    exported = [network for network in networks if network.role in OURS]
    return TaskSection(
        name=task,
        metric=metric,
        networks=networks,
        base=base,
        full=next(network for network in networks if network.role == FULL),
        best=max(exported, key=lambda n: metric.improvement(rows[n.name, REFERENCE_PRECISION]["value"], 0.0)),
        pick=pick,
        hidden_drop="" if math.isnan(drop) else metric.difference_text(drop).lstrip("+"),
        at_chance=metric.improvement(base_row["value"], first["chance"]) <= NOISE * base_row["stderr"],
        unjudged=math.isnan(base_row["stderr"]),
        facts=facts(table, metric),
        figures={name: drawn[f"{task}_{name}"].read_text(encoding="utf-8") for name in names},
        held_out=[held_out(n, rows[n.name, REFERENCE_PRECISION], metric) for n in networks if looked_at_some(n, rows)],
        agreement=agreement_line(check, metric),
        predictors=predictor_rounds(
            [read_keys(path, PREDICTOR_KEYS) for path in predictors],
            [read_keys(path, QUALITY_KEYS) for path in predictions],
            task,
        ),
    )


def network_line(name: str, rows: Rows, metric: Metric) -> Network:
    """The printed form of one model's rows; `rows` is the whole table by (model, precision)."""
    own = {precision: row for (model, precision), row in rows.items() if model == name}
    any_row = next(iter(own.values()))
    base, full = (reference(rows, role) for role in (BASE, FULL))
    half = own.get(REFERENCE_PRECISION)
    return Network(
        name=name,
        label=any_row["label"],
        role=any_row["role"],
        layers=int(any_row["layers"]),
        parameters=count_text(int(any_row["parameters"])),
        recommended=bool(any_row["recommended"]),
        scores={precision: score(row, base, metric) for precision, row in own.items()},
        gains={
            "finetuning": gain(full, base, metric) if any_row["role"] in OURS else None,
            "search": gain(half, full, metric) if half and any_row["role"] == MEMBER else None,
        }
        | {p: gain(row, half, metric) for p, row in own.items() if p in QUANTIZED and half},
    )


def reference(rows: Rows, role: str) -> Row:
    """The row that others are compared with: of a role, in FP16."""
    return next(row for (_, p), row in rows.items() if row["role"] == role and p == REFERENCE_PRECISION)


def score(row: Row, base: Row, metric: Metric) -> Score:
    return Score(
        size=format_bytes(row["size_bytes"]),
        on_disk=format_bytes(row["bytes_on_disk"]),
        in_memory=format_bytes(row["memory_bytes"]),
        ratio=row["size_ratio"],
        score=metric.text(row["value"], row["stderr"]),
        verdict=row["verdict"],
        difference=metric.difference_text(row["value_difference"]),
        speeds={phase: speed(row, base, prefix) for phase, prefix in PHASES.items()},
    )


def speed(row: Row, base: Row, prefix: str) -> Speed | None:
    measured, reference = row[f"{prefix}tokens_per_second"], base[f"{prefix}tokens_per_second"]
    if math.isnan(measured):
        return None
    return Speed(
        tokens_per_second=f"{measured:,.0f}",
        speedup="–" if math.isnan(reference) else f"{measured / reference:.2f}",
        share=f"{100 * measured / row[f'{prefix}limit_tokens_per_second']:.0f} %",
    )


def precisions(tasks: Sequence[TaskSection]) -> list[str]:
    """The precisions of any task's table, FP16 first."""
    found = {precision for task in tasks for network in task.networks for precision in network.scores}
    return [precision for precision in ("fp16", *QUANTIZED, "bf16", "fp32") if precision in found]


def comparison(tasks: Sequence[TaskSection]) -> list[tuple[str, str, list[tuple[Network, Score] | None]]]:
    """Rows like those of the paper's Tables 2 and 5: (label, precision, one cell per task)."""
    rows: list[tuple[str, str, list[tuple[Network, Score] | None]]] = []
    for precision in precisions(tasks):
        for label, which in (
            (LABELS[BASE], "base"),
            (LABELS[FULL], "full"),
            ("best exported", "best"),
            ("recommended", "pick"),
        ):
            if precision != REFERENCE_PRECISION and which in ("base", "full"):
                continue
            networks = [getattr(task, which) for task in tasks]
            rows.append(
                (label, precision, [(n, n.scores[precision]) if precision in n.scores else None for n in networks])
            )
    return rows


def gain(row: Row, reference: Row, metric: Metric) -> Gain:
    return Gain(
        text=metric.difference_text(row["value"] - reference["value"]),
        verdict=metric.verdict(row["value"], row["stderr"], reference["value"], reference["stderr"]),
    )


def looked_at_some(network: Network, rows: Rows) -> bool:
    """Whether items were held out of the search that found this network."""
    row = rows.get((network.name, REFERENCE_PRECISION))
    return row is not None and not math.isnan(row["held_out_items"])


def held_out(network: Network, row: Row, metric: Metric) -> HeldOut:
    return HeldOut(
        network=network,
        searched=metric.text(row["searched"]),
        held_out=metric.text(row["held_out"], row["held_out_stderr"]),
        items=f"{row['held_out_items']:,.0f}",
        difference=metric.difference_text(row["difference_to_full"]),
        p_value="–" if math.isnan(row["p_value"]) else f"{row['p_value']:.2g}",
    )


def facts(table: pd.DataFrame, metric: Metric) -> dict[str, str]:
    """What a task's numbers rest on, by name."""
    first = table.iloc[0]
    limit = "all" if pd.isna(first["limit"]) else f"the first {first['limit']:.0f} of each subtask"
    subtasks = "" if pd.isna(first["subtasks"]) else f": {first['subtasks']}"
    return {
        "lm-eval task": f"{first['lm_eval_task']}{subtasks}",
        "metric": f"{metric.name}, {metric.direction}",
        "chance": "–" if pd.isna(first["chance"]) else metric.text(first["chance"]),
        "items": f"{first['items']:,} ({limit})",
        "shots": str(first["num_fewshot"]),
        "requests": f"{first['requests']:,}, {first['truncated_requests']:,} of them cut to the model's positions",
        "benchmark batch size": one_or_more(table["batch_size"]),
        "INT8 outlier threshold": one_or_more(table["int8_threshold"]),
        "versions": one_or_more(table["versions"]),
        "tokens/s measured on": one_or_more(table["throughput_setting"]),
    }


def agreement_line(check: dict[str, Any], metric: Metric) -> Agreement:
    return Agreement(
        agrees=bool(check["agrees"]),
        model=check["subnet_id"],
        dtype=check["dtype"],
        requests=f"{check['requests']:,}",
        items=f"{check['items']:,}",
        flipped=f"{len(check['flipped_items']):,}",
        per_token=f"{check['max_difference_per_token']:.1e}",
        own=metric.text(check["search_scorer"]),
        stock=metric.text(check["lm_eval"]),
    )


def predictor_rounds(
    predictors: Sequence[dict[str, Any]], predictions: Sequence[dict[str, Any]], task: str
) -> list[PredictorRound]:
    """One line per round of this task that a predictor proposed, ascending."""
    found = {p["round"]: p["quality"] for p in predictions if p["task"] == task}
    own = sorted((p for p in predictors if p["task"] == task and p["predictor"]), key=lambda p: p["round"])
    return [predictor_round(p["round"], p["predictor"], found.get(p["round"])) for p in own]


def predictor_round(number: int, predictor: dict[str, Any], quality: dict[str, Any] | None) -> PredictorRound:
    return PredictorRound(
        round=number,
        kind=predictor["kind"],
        rows=predictor["rows"],
        cross_validation=tau_text(predictor["cross_validation"][predictor["kind"]]["kendall_tau"]),
        out_of_sample=tau_text(quality["kendall_tau"] if quality else None),
        out_of_sample_rows=str(quality["rows"]) if quality else "–",
    )


def tau_text(tau: float | None) -> str:
    """Kendall's tau; a dash where there was no ranking to compare."""
    return "–" if tau is None else f"{tau:.2f}".replace("-", "−")


def one_or_more(column: pd.Series) -> str:
    """The distinct values of a column; one, if all rows agree."""
    return "; ".join(str(value) for value in column.dropna().unique()) or "–"


def count_text(parameters: int) -> str:
    """`6.74 B`, `1.23 M`, `313 k`: three digits."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if parameters >= size:
            return f"{parameters / size:.3g} {letter}"
    return str(parameters)
