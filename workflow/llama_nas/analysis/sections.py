"""What the page says about one task, each number as it is printed; `report.html` only lays it out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pandas as pd

from llama_nas.analysis.contenders import BASE, FULL, MEMBER
from llama_nas.analysis.figures import FIGURES, PATTERN_FIGURES
from llama_nas.analysis.summary import PHASES, REFERENCE_PRECISION, SUMMARY_COLUMNS, read_keys
from llama_nas.core.artifacts import read_table
from llama_nas.core.columns import JUDGEMENT
from llama_nas.core.errors import UserError
from llama_nas.core.judgement import CONFIDENCE, HELD_OUT, NOT_REFUTED, SHOWN, Metric
from llama_nas.core.precisions import QUANTIZED
from llama_nas.core.space import SearchSpace
from llama_nas.core.units import SizeFamily, SizeUnit

Row = dict[Any, Any]  # a line of a CSV by column

PREDICTOR_KEYS = ("task", "round", "predictor")
QUALITY_KEYS = ("task", "round", "quality")
AGREEMENT_KEYS = (
    *("task", "subnet_id", "dtype", "requests", "items", "max_difference_per_token"),
    *("agrees", "flipped_items", "search_scorer", "lm_eval"),
)


@dataclass(frozen=True)
class Printing:
    """What all that is printed about a run's networks shares."""

    space: SearchSpace
    unit: SizeUnit
    command: str  # what makes a target of the run, without the target

    @classmethod
    def of(cls, space: SearchSpace, size_unit: SizeFamily, command: str) -> Printing:
        """In the unit that fits the largest network."""
        return cls(space, SizeUnit.of(size_unit, space.shape.size_bytes(space.full)), command)

    def folder(self, subnet_id: str, precision: str = REFERENCE_PRECISION) -> str:
        """Where a network's checkpoint lies; the float precisions are loaded from one folder."""
        return f"results/networks/{subnet_id}/{precision if precision in QUANTIZED else 'hf'}"

    def export(self, subnet_id: str, precision: str = REFERENCE_PRECISION) -> str:
        """The command that makes a network's checkpoint."""
        return f"{self.command} {self.folder(subnet_id, precision)}"

    def load(self, subnet_id: str, precision: str = REFERENCE_PRECISION) -> str:
        """The Python expression that loads it; only layers of different blocks need the code in the folder."""
        mixed = len(set(self.space.parse(subnet_id).kept_blocks)) > 1
        trust = ", trust_remote_code=True" if mixed else ""
        return f'AutoModelForCausalLM.from_pretrained("{self.folder(subnet_id, precision)}"{trust})'

    def bytes(self, subnet_id: str, precision: str) -> int:
        """A network's size, by arithmetic."""
        return self.space.shape.size_bytes(self.space.parse(subnet_id), precision)


@dataclass(frozen=True)
class Judged:
    """One network against another on the judged items, as printed."""

    difference: str  # with its interval
    verdict: str  # of core.judgement.VERDICTS, or empty
    needed: str = ""  # so many items would show it, if that is known


@dataclass(frozen=True)
class Member:
    """A network of the front, or the full super-network, as the search's scorer judges it."""

    name: str
    is_full: bool
    on_front: bool
    recommended: bool
    layers: int
    parameters: str
    size: str
    quantized_size: str  # in INT8
    smaller: str  # than the base
    score: str
    to_base: Judged
    to_full: Judged
    export: str  # the command


@dataclass(frozen=True)
class Speed:
    """Tokens/s of one phase, as printed."""

    tokens_per_second: str
    ratio: str  # to the base in FP16, with its interval
    share: str  # of what the device allows


@dataclass(frozen=True)
class Benchmark:
    """A model in one precision as stock lm-eval scores it: a line of the summary, as printed."""

    name: str
    label: str
    role: str  # of contenders.ROLES
    precision: str
    recommended: bool
    layers: int
    parameters: str
    size: str
    on_disk: str
    in_memory: str
    smaller: str
    score: str  # on all items
    to_base: Judged
    speeds: dict[str, Speed | None]  # by phase, None where not measured


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
    base_score: str  # on the judged items
    base_size: str
    items: str  # how many are judged, and in how many groups
    held_out: bool  # whether the search has not seen them
    max_drop: str
    at_chance: bool
    quantized_on_cpu: bool  # whether a quantized network decoded on a CPU, slower than the base
    members: list[Member]  # ascending in size
    pick: Member
    benchmarks: list[Benchmark]
    commands: dict[str, tuple[str, str]]  # of the recommended network, by precision: to export it, to load it
    facts: dict[str, str]
    figures: dict[str, str]  # SVG by name
    agreement: Agreement
    predictors: list[PredictorRound]

    @property
    def none_passes(self) -> bool:
        """Whether the full super-network is named only because no network of the front is good enough."""
        return not any(member.on_front and member.to_base.verdict in (SHOWN, NOT_REFUTED) for member in self.members)

    @property
    def picks(self) -> dict[str, Benchmark]:
        """The recommended network's benchmarks by precision, FP16 first."""
        return {line.precision: line for line in self.benchmarks if line.name == self.pick.name}

    @property
    def control(self) -> Benchmark | None:
        """The full super-network in FP16, of the base's exact shape: what its speed differs by is noise."""
        return next((b for b in self.benchmarks if b.role == FULL and b.precision == REFERENCE_PRECISION), None)


def task_section(
    printing: Printing,
    summary: Path,
    judgement: Path,
    figures: Sequence[Path],
    agreement: Path,
    predictors: Sequence[Path],
    predictions: Sequence[Path],
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
    judged = read_table(judgement, JUDGEMENT)
    unknown = set(table.loc[table["role"] == MEMBER, "model"]) - set(judged["subnet_id"])
    if unknown or set(judged.loc[judged["recommended"], "subnet_id"]) != set(table.loc[table["recommended"], "model"]):
        raise UserError(f"{summary}: is about another search than {judgement}")
    drawn = {path.stem: path for path in figures}
    names = (*FIGURES, *PATTERN_FIGURES)
    missing = [name for name in names if f"{task}_{name}" not in drawn]
    if missing:
        raise UserError(f"--figures: {task}_{missing[0]}.svg is missing")

    members = [member(row, metric, printing) for row in judged.to_dict("records")]
    pick = next(member for member in members if member.recommended)
    benchmarks = [benchmark(row, metric, printing) for row in table.to_dict("records")]
    base = table[(table["role"] == BASE) & (table["precision"] == REFERENCE_PRECISION)].iloc[0]
    rests_on = judged.iloc[0]
    on_cpu = table["throughput_setting"].str.startswith("cpu", na=False)
    slow = on_cpu & table["precision"].isin(QUANTIZED) & (table["decode_speed_verdict"] == "slower")
    quantized = [b.precision for b in benchmarks if b.name == pick.name and b.precision in QUANTIZED]
    return TaskSection(
        name=task,
        metric=metric,
        base_score=metric.text(rests_on["base"]),
        base_size=printing.unit.text(base["size_bytes"]),
        items=items_text(rests_on["items"], rests_on["groups"]),
        held_out=rests_on["judged_on"] == HELD_OUT,
        max_drop=metric.drop_text(rests_on["max_drop"]),
        at_chance=at_chance(base, metric),
        quantized_on_cpu=bool(slow.any()),
        members=members,
        pick=pick,
        benchmarks=benchmarks,
        commands={p: (printing.export(pick.name, p), printing.load(pick.name, p)) for p in ("fp16", *quantized)},
        facts=facts(table, metric),
        figures={name: drawn[f"{task}_{name}"].read_text(encoding="utf-8") for name in names},
        agreement=agreement_line(check, metric),
        predictors=predictor_rounds(
            [read_keys(path, PREDICTOR_KEYS) for path in predictors],
            [read_keys(path, QUALITY_KEYS) for path in predictions],
            task,
        ),
    )


def member(row: Row, metric: Metric, printing: Printing) -> Member:
    """The printed form of a row of judgement.csv."""
    name = row["subnet_id"]
    needed = row["items_needed"]
    return Member(
        name=name,
        is_full=name == printing.space.id(printing.space.full),
        on_front=bool(row["on_front"]),
        recommended=bool(row["recommended"]),
        layers=int(row["layers"]),
        parameters=count_text(int(row["parameters"])),
        size=printing.unit.text(row["size_bytes"]),
        quantized_size=printing.unit.text(printing.bytes(name, "int8")),
        smaller=smaller_text(printing.space.shape.size_bytes(printing.space.full) / row["size_bytes"]),
        score=metric.text(row["value"]),
        to_base=Judged(
            metric.judged_text(row["difference"], row["lower"], row["upper"]),
            row["verdict"],
            "" if math.isnan(needed) else f"{needed:,.0f}",
        ),
        to_full=Judged(metric.judged_text(row["full_difference"], row["full_lower"], row["full_upper"]), ""),
        export=printing.export(name),
    )


def benchmark(row: Row, metric: Metric, printing: Printing) -> Benchmark:
    """The printed form of a row of the summary."""
    is_reference = row["role"] == BASE and row["precision"] == REFERENCE_PRECISION
    return Benchmark(
        name=row["model"],
        label=row["label"],
        role=row["role"],
        precision=row["precision"],
        recommended=bool(row["recommended"]),
        layers=int(row["layers"]),
        parameters=count_text(int(row["parameters"])),
        size=printing.unit.text(row["size_bytes"]),
        on_disk=printing.unit.text(row["bytes_on_disk"]),
        in_memory=printing.unit.text(row["memory_bytes"]),
        smaller=smaller_text(row["size_ratio"]),
        score=metric.text(row["value"], row["stderr"]),
        to_base=Judged("–", "")
        if is_reference
        else Judged(metric.judged_text(row["difference"], row["lower"], row["upper"]), row["verdict"]),
        speeds={phase: speed(row, prefix) for phase, prefix in PHASES.items()},
    )


def speed(row: Row, prefix: str) -> Speed | None:
    measured = row[f"{prefix}tokens_per_second"]
    if math.isnan(measured):
        return None
    ratio, lower, upper = (row[f"{prefix}ratio{end}"] for end in ("", "_lower", "_upper"))
    return Speed(
        tokens_per_second=f"{measured:,.0f}",
        ratio=ratio_text(ratio, lower, upper, row[f"{prefix}speed_verdict"]),
        share=f"{100 * measured / row[f'{prefix}limit_tokens_per_second']:.0f} %",
    )


def ratio_text(ratio: float, lower: float, upper: float, verdict: Any) -> str:
    """`1.31× (1.22 to 1.41)`; `about the same, 1.04× (0.96 to 1.12)`; a dash for the base itself, without a verdict."""
    if math.isnan(lower):
        return "–" if pd.isna(verdict) else "too few turns to tell"
    text = f"{ratio:.2f}× ({lower:.2f} to {upper:.2f})"
    return f"{verdict}, {text}" if verdict == "about the same" else text


def smaller_text(ratio: float) -> str:
    """How much smaller than the base: the base's FP16 size over a size."""
    if ratio >= 1.005:
        return f"{ratio:.2f}× smaller"
    return "the same size" if ratio > 0.995 else f"{1 / ratio:.2f}× larger"


def items_text(items: int, groups: int) -> str:
    """`1,680 items in 420 groups`; items that are each a group of their own are just items."""
    return f"{items:,} items" + ("" if groups == items else f" in {groups:,} groups")


def at_chance(base: pd.Series, metric: Metric) -> bool:
    """Whether the base's own score, on all items, has chance within its interval or above it."""
    half = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * base["stderr"]
    return bool(metric.improvement(base["value"], base["chance"]) <= half)


def precisions(tasks: Sequence[TaskSection]) -> list[str]:
    """The precisions of any task's benchmarks, FP16 first."""
    found = {line.precision for task in tasks for line in task.benchmarks}
    return [precision for precision in ("fp16", *QUANTIZED, "bf16", "fp32") if precision in found]


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
