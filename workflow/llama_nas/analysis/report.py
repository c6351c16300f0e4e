"""The one-page answer: a self-contained HTML file, readable on a phone, that needs no network."""

from __future__ import annotations

import base64
import logging
import math
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from llama_nas import __version__
from llama_nas.analysis.across import across
from llama_nas.analysis.budget import PRECISIONS, choices
from llama_nas.analysis.figures import training_figure
from llama_nas.analysis.sections import Printing, precisions, task_section
from llama_nas.core.artifacts import file_digest, read_table, write_text
from llama_nas.core.errors import UserError
from llama_nas.core.judgement import RULE, SEQUENCE
from llama_nas.core.space import SearchSpace
from llama_nas.core.units import SizeFamily, SizeUnit

log = logging.getLogger(__name__)

PRECISION_NAMES = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16", "int8": "INT8", "nf4": "NF4"}


def write_report(
    output: Path,
    *,
    base: Path,
    supernet: Path,
    space: Path,
    summaries: Sequence[Path],
    judgements: Sequence[Path],
    figures: Sequence[Path],
    agreements: Sequence[Path],
    predictions: Sequence[Path],
    seed: int,
    size_unit: SizeFamily,
    command: str,
    timings: Path,
    predictors: Sequence[Path] = (),
    transfer: Sequence[Path] = (),
) -> None:
    """Write the one-page answer: per task, how much smaller at what accuracy, and which checkpoint to take.

    Raises UserError where the inputs do not fit together.

    Args:
        base: the base model's folder, for the digest of its weights
        supernet: the super-network's folder, for training.csv and its digest
        space: space.json
        summaries: CSV of `llama-nas summarize` of every task
        judgements: judgement.csv of `llama-nas find-front` of every task, in the order of the summaries
        figures: all figures of all tasks, TASK_NAME.svg each
        agreements: JSON of `llama-nas verify` of every task, in the order of the summaries
        predictors: predictor.json of every task and round after the first
        predictions: predictions.json of every task and round
        transfer: matrix.csv, maps.csv and the figures of all tasks together; none with one task
        seed: the run's seed
        size_unit: of the sizes: GB or GiB; a model below one is printed in MB or MiB
        command: the command line that makes a target of the run, without the target
        timings: folder of the jobs' Snakemake benchmark files; may be absent
        output: summary.html
    """
    if not len(summaries) == len(agreements) == len(judgements):
        raise UserError(
            "--summaries, --judgements, --agreements: one of each per task, in the same order; "
            f"got {len(summaries)}, {len(judgements)} and {len(agreements)}"
        )
    training = read_table(supernet / "training.csv", ["step", "kind", "loss"])
    declared = SearchSpace.read(space)
    printing = Printing.of(declared, size_unit, command)
    tasks = [
        task_section(printing, summary, judgement, figures, agreement, predictors, predictions)
        for summary, judgement, agreement in zip(summaries, judgements, agreements, strict=True)
    ]
    steps = training["kind"].value_counts()
    costs = stage_costs(timings)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {}  # tasks in their order, not sorted
    environment.filters |= {"unbroken": unbroken, "inlined": inline_svg}
    page = environment.get_template("report.html").render(
        tasks=tasks,
        rule=RULE,
        sequence=SEQUENCE,
        precisions=precisions(tasks),
        names=PRECISION_NAMES,
        unit=printing.unit,
        command=command,
        budget={
            task.name: [asdict(choice) for choice in choices(read_table(judgement), task.metric, printing)]
            for task, judgement in zip(tasks, judgements, strict=True)
        },
        budget_precisions=PRECISIONS,
        budget_size=rounded_up(declared.shape.size_bytes(declared.full), printing.unit),
        max_drop=100 * read_table(judgements[0])["max_drop"].iloc[0],
        across=across(transfer[0], transfer[1], transfer[2:], tasks, declared, printing.unit) if transfer else None,
        tables={
            **{f"{task.name}-judgement": link(path) for task, path in zip(tasks, judgements, strict=True)},
            **{f"{task.name}-summary": link(path) for task, path in zip(tasks, summaries, strict=True)},
            **{name: link(path) for name, path in zip(("transfer-matrix", "transfer-maps"), transfer, strict=False)},
            "training": link(supernet / "training.csv"),
            "costs": data_link(costs.to_csv().encode()),
        },
        training_figure=training_figure(training),
        training_steps={kind: int(steps.get(kind, 0)) for kind in ("full", "subnet")},
        provenance=provenance(base, supernet, seed),
        stages=printed_costs(costs, size_unit),
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


def stage_costs(timings: Path) -> pd.DataFrame:
    """What each rule cost, from Snakemake's benchmark files below `timings`, the dearest first; empty without them.

    By rule: jobs, seconds, processor_seconds (both summed over the jobs), max_rss_bytes. The last row has all.
    """
    rows = []
    for path in sorted(timings.rglob("*.tsv")):
        first = pd.read_csv(path, sep="\t", na_values="-").iloc[0]
        rule = path.relative_to(timings).parts[0].removesuffix(".tsv")
        rss = first["max_rss"] * 2**20
        rows.append({"rule": rule, "s": first["s"], "cpu": first["cpu_time"], "rss": rss})
    columns = {"jobs": ("s", "size"), "seconds": ("s", "sum"), "processor_seconds": ("cpu", "sum")}
    grouped = pd.DataFrame(rows, columns=["rule", "s", "cpu", "rss"]).groupby("rule")
    table = grouped.agg(**columns, max_rss_bytes=("rss", "max")).sort_values("processor_seconds", ascending=False)
    if rows:
        table.loc["all stages"] = [*table.iloc[:, :3].sum(), table["max_rss_bytes"].max()]
    return table


def printed_costs(costs: pd.DataFrame, size_unit: SizeFamily) -> list[StageCost]:
    unit = SizeUnit.of(size_unit, 2**30)
    return [
        StageCost(
            rule=str(rule),
            jobs=int(row["jobs"]),
            seconds=duration(row["seconds"]),
            processor=duration(row["processor_seconds"]),
            memory=unit.text(row["max_rss_bytes"]),
        )
        for rule, row in costs.iterrows()
    ]


def rounded_up(size: int, unit: SizeUnit) -> str:
    """A size that the network of that size fits in, two decimals."""
    return f"{math.ceil(100 * size / unit.bytes) / 100:.2f}"


def link(table: Path) -> str:
    """A CSV file as an address that has the file in it."""
    return data_link(table.read_bytes())


def data_link(csv: bytes) -> str:
    return f"data:text/csv;base64,{base64.b64encode(csv).decode()}"


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
