"""The one-page answer: a self-contained HTML file, readable on a phone, that needs no network."""

from __future__ import annotations

import logging
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from llama_nas import __version__
from llama_nas.analysis.figures import training_figure
from llama_nas.analysis.judgement import NOISE, RULE
from llama_nas.analysis.sections import comparison, precisions, task_section
from llama_nas.core.artifacts import file_digest, read_table, write_text
from llama_nas.core.errors import UserError

log = logging.getLogger(__name__)

PRECISION_NAMES = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16", "int8": "INT8", "nf4": "NF4"}


def write_report(
    output: Path,
    *,
    base: Path,
    supernet: Path,
    summaries: Sequence[Path],
    figures: Sequence[Path],
    agreements: Sequence[Path],
    predictions: Sequence[Path],
    seed: int,
    timings: Path,
    predictors: Sequence[Path] = (),
) -> None:
    """Write the one-page answer: per task, how much smaller at what accuracy, and which checkpoint to take.

    Raises UserError where the inputs do not fit together.

    Args:
        base: the base model's folder, for the digest of its weights
        supernet: the super-network's folder, for training.csv and its digest
        summaries: CSV of `llama-nas summarize` of every task
        figures: all figures of all tasks, TASK_NAME.svg each
        agreements: JSON of `llama-nas verify` of every task, in the order of the summaries
        predictors: predictor.json of every task and round after the first
        predictions: predictions.json of every task and round
        seed: the run's seed
        timings: folder of the jobs' Snakemake benchmark files; may be absent
        output: summary.html
    """
    if len(summaries) != len(agreements):
        raise UserError(
            "--summaries, --agreements: one of each per task, in the same order; "
            f"got {len(summaries)} and {len(agreements)}"
        )
    training = read_table(supernet / "training.csv", ["step", "kind", "loss"])
    tasks = [
        task_section(summary, figures, agreement, predictors, predictions)
        for summary, agreement in zip(summaries, agreements, strict=True)
    ]
    steps = training["kind"].value_counts()
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"unbroken": unbroken, "inlined": inline_svg}
    page = environment.get_template("report.html").render(
        tasks=tasks,
        rule=RULE,
        noise=f"{NOISE:g}",
        precisions=precisions(tasks),
        names=PRECISION_NAMES,
        comparison=comparison(tasks),
        training_figure=training_figure(training),
        training_steps={kind: int(steps.get(kind, 0)) for kind in ("full", "subnet")},
        provenance=provenance(base, supernet, seed),
        stages=stage_costs(timings),
    )
    write_text(output, page)
    log.info("report on %d tasks: %s", len(tasks), output)


def provenance(base: Path, supernet: Path, seed: int) -> dict[str, str]:
    """What the run was made with: seed, versions of this project and Python, digests of the two models' weights."""
    facts = {"seed of the run": str(seed), "llama-nas": __version__, "Python": platform.python_version()}
    for name, folder in (("base model", base), ("super-network", supernet)):
        for path in sorted(folder.glob("*.safetensors")):
            facts[f"{name}, sha256 of {path.name}"] = file_digest(path)
    return facts


@dataclass(frozen=True)
class StageCost:
    """All jobs of one rule, as printed; seconds are summed over the jobs."""

    rule: str
    jobs: int
    seconds: str
    processor: str
    memory: str


def stage_costs(timings: Path) -> list[StageCost]:
    """What each rule cost, from Snakemake's benchmark files below `timings`, the dearest first; empty without them."""
    rows = []
    for path in sorted(timings.rglob("*.tsv")):
        first = pd.read_csv(path, sep="\t", na_values="-").iloc[0]
        rule = path.relative_to(timings).parts[0].removesuffix(".tsv")
        rows.append({"rule": rule, "s": first["s"], "cpu_time": first["cpu_time"], "max_rss": first["max_rss"]})
    if not rows:
        return []
    grouped = pd.DataFrame(rows).groupby("rule")
    table = grouped.agg(jobs=("s", "size"), s=("s", "sum"), cpu=("cpu_time", "sum"), rss=("max_rss", "max"))
    table = table.sort_values("cpu", ascending=False)
    table.loc["all stages"] = table.agg({"jobs": "sum", "s": "sum", "cpu": "sum", "rss": "max"})
    return [
        StageCost(str(rule), int(row["jobs"]), duration(row["s"]), duration(row["cpu"]), f"{row['rss'] / 1024:.2f} GiB")
        for rule, row in table.iterrows()
    ]


def duration(seconds: float) -> str:
    """`12 s`, `3.4 min`, `5.6 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


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
