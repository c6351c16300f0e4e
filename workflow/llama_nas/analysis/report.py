"""The one-page answer: a self-contained HTML file, readable on a phone, that needs no network."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from llama_nas.analysis.figures import training_figure
from llama_nas.analysis.judgement import NOISE, RULE, Metric, Verdict
from llama_nas.analysis.summary import PRETRAINED, REFERENCE_PRECISION, SUMMARY_COLUMNS, read_keys
from llama_nas.artifacts import read_table, write_text
from llama_nas.errors import UserError
from llama_nas.space import format_bytes

log = logging.getLogger(__name__)

Row = dict[Any, Any]  # a line of the summary CSV by column
Rows = dict[tuple[str, str], Row]  # the lines by model and precision

PRECISIONS = ("fp16", "int8")  # the two column groups of the task tables (paper, Table 5)
PREDICTOR_KEYS = ("task", "round", "kind", "rows", "cross_validation", "out_of_sample")
AGREEMENT_KEYS = (
    "task",
    "subnet_id",
    "dtype",
    "requests",
    "items",
    "max_difference_per_token",
    "agrees",
    "flipped_items",
    "search_scorer",
    "lm_eval",
)


def write_report(
    output: Path,
    *,
    supernet: Path,
    summaries: Sequence[Path],
    figures: Sequence[Path],
    agreements: Sequence[Path],
    predictors: Sequence[Path],
) -> None:
    """Write summary.html from the per-task results.

    summaries, figures and agreements belong together by position, one of each per task; predictors are the
    predictor.json files of every task and round. Raises UserError where they do not fit together.
    """
    if not len(summaries) == len(figures) == len(agreements):
        raise UserError(
            "--summaries, --figures, --agreements: one of each per task, in the same order; "
            f"got {len(summaries)}, {len(figures)} and {len(agreements)}"
        )
    training = read_table(supernet / "training.csv", ["step", "kind", "loss"])
    tasks = [
        task_section(summary, figure, agreement, predictors)
        for summary, figure, agreement in zip(summaries, figures, agreements, strict=True)
    ]
    steps = training["kind"].value_counts()
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unbroken"] = unbroken
    page = environment.get_template("report.html").render(
        tasks=tasks,
        rule=RULE,
        noise=f"{NOISE:g}",
        training_figure=inline_svg(training_figure(training), "training", "Training loss of the super-network"),
        training_steps={kind: int(steps.get(kind, 0)) for kind in ("full", "subnet")},
    )
    write_text(output, page)
    log.info("report on %d tasks: %s", len(tasks), output)


@dataclass(frozen=True)
class Score:
    """A model in one precision, as printed."""

    size: str
    ratio: float
    score: str
    verdict: Verdict
    difference: str
    tokens_per_second: str


@dataclass(frozen=True)
class Gain:
    """One part of a score's difference from the base, as printed."""

    text: str
    verdict: Verdict


@dataclass(frozen=True)
class Network:
    """A line of a task's tables; scores and gains by precision or part, None where not benchmarked."""

    name: str
    label: str
    role: str
    layers: int
    parameters: str
    recommended: bool
    scores: dict[str, Score | None]
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
class PredictorRound:
    """The predictor fitted after one round: what it was and how well it ranked networks it had not seen."""

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
    pick: Network
    hidden_drop: str  # the largest drop against the base that would pass as noise; empty if it is not known
    at_chance: bool
    facts: dict[str, str]
    unjudged: bool  # whether the metric has no standard error
    figure: Markup
    agreement: Agreement
    predictors: list[PredictorRound]


def task_section(summary: Path, figure: Path, agreement: Path, predictors: Sequence[Path]) -> TaskSection:
    """Read one task's artifacts; raises UserError where they are not of the same task."""
    table = read_table(summary, SUMMARY_COLUMNS)
    if table.empty:
        raise UserError(f"{summary}: no rows")
    first = table.iloc[0]
    task = str(first["task"])
    metric = Metric(first["metric"], bool(first["higher_is_better"]))
    check = read_keys(agreement, AGREEMENT_KEYS)
    if check["task"] != task or task not in figure.stem:
        raise UserError(f"{summary}: is about task '{task}', but beside it stand {figure} and {agreement}")

    rows: Rows = {(row["model"], row["precision"]): dict(row) for row in table.to_dict("records")}
    networks = [network_line(name, rows, metric) for name in table["model"].unique()]
    base = next(network for network in networks if network.role == "pretrained")
    pick = next(network for network in networks if network.recommended)
    base_row, pick_row = rows[base.name, REFERENCE_PRECISION], rows[pick.name, REFERENCE_PRECISION]
    drop = NOISE * math.hypot(base_row["stderr"], pick_row["stderr"])
    return TaskSection(
        name=task,
        metric=metric,
        networks=networks,
        base=base,
        full=next(network for network in networks if network.role == "full"),
        pick=pick,
        hidden_drop="" if math.isnan(drop) else metric.difference_text(drop).lstrip("+"),
        at_chance=metric.improvement(base_row["value"], first["chance"]) <= NOISE * base_row["stderr"],
        unjudged=math.isnan(base_row["stderr"]),
        facts=facts(table, metric),
        figure=inline_svg(figure.read_text(encoding="utf-8"), task, f"{task}: size against {metric.name}"),
        agreement=agreement_line(check, metric),
        predictors=predictor_rounds([read_keys(path, PREDICTOR_KEYS) for path in predictors], task),
    )


def network_line(name: str, rows: Rows, metric: Metric) -> Network:
    """The printed form of one model's rows; `rows` is the whole table by (model, precision)."""
    own = {precision: row for (model, precision), row in rows.items() if model == name}
    any_row = next(iter(own.values()))
    full = next(row for (_, p), row in rows.items() if row["role"] == "full" and p == REFERENCE_PRECISION)
    half, int8 = own.get("fp16"), own.get("int8")
    labels = {"pretrained": "pre-trained base", "full": "full-size super-network", "member": name}
    is_base = any_row["role"] == "pretrained"
    return Network(
        name=name,
        label=labels[any_row["role"]],
        role=any_row["role"],
        layers=any_row["layers"],
        parameters=count_text(any_row["parameters"]),
        recommended=bool(any_row["recommended"]),
        scores={precision: score(own[precision], metric) if precision in own else None for precision in PRECISIONS},
        gains={
            "finetuning": None if is_base else gain(full, rows[PRETRAINED, REFERENCE_PRECISION], metric),
            "search": gain(half, full, metric) if half and any_row["role"] == "member" else None,
            "precision": gain(int8, half, metric) if int8 and half else None,
        },
    )


def score(row: Row, metric: Metric) -> Score:
    speed = row["tokens_per_second"]
    return Score(
        size=format_bytes(row["size_bytes"]),
        ratio=row["size_ratio"],
        score=metric.text(row["value"], row["stderr"]),
        verdict=row["verdict"],
        difference=metric.difference_text(row["value_difference"]),
        tokens_per_second="–" if math.isnan(speed) else f"{speed:,.0f}",
    )


def gain(row: Row, reference: Row, metric: Metric) -> Gain:
    return Gain(
        text=metric.difference_text(row["value"] - reference["value"]),
        verdict=metric.verdict(row["value"], row["stderr"], reference["value"], reference["stderr"]),
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


def predictor_rounds(predictors: Sequence[dict[str, Any]], task: str) -> list[PredictorRound]:
    """One line per round of this task, ascending."""
    own = sorted((p for p in predictors if p["task"] == task), key=lambda p: p["round"])
    return [
        PredictorRound(
            round=p["round"],
            kind=p["kind"],
            rows=p["rows"],
            cross_validation=tau_text(p["cross_validation"][p["kind"]]["kendall_tau"]),
            out_of_sample=tau_text(p["out_of_sample"]["kendall_tau"] if p["out_of_sample"] else None),
            out_of_sample_rows=str(p["out_of_sample"]["rows"]) if p["out_of_sample"] else "–",
        )
        for p in own
    ]


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


def unbroken(text: str) -> str:
    """The text with its spaces unbreakable, but for the one before a bracket: `1.2 GB` stays on one line."""
    return text.replace(" ", "\N{NO-BREAK SPACE}").replace("\N{NO-BREAK SPACE}(", " (")


def inline_svg(svg: str, name: str, label: str) -> Markup:
    """An SVG file as part of a page: without its XML header, with a label, and with ids of its own.

    Ids are prefixed because a page has one name space: two figures from the same program share ids otherwise.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", body)
    return Markup(body.replace("<svg", Markup('<svg role="img" aria-label="{}"').format(label), 1))
