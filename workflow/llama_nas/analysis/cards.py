"""Model cards with scores: an export's own card, its last section filled with what stock lm-eval measured."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from llama_nas.analysis.contenders import BASE, of_role
from llama_nas.analysis.summary import REFERENCE_PRECISION, SUMMARY_COLUMNS
from llama_nas.core.artifacts import atomic_folder, read_table
from llama_nas.core.errors import UserError
from llama_nas.core.judgement import HELD_OUT, Metric
from llama_nas.core.layout import CARD_FILE, SCORES
from llama_nas.core.precisions import QUANTIZED
from llama_nas.core.units import format_bytes

log = logging.getLogger(__name__)

SEEN = {True: "held out of the search", False: "that the search selected it by: optimistic"}


def write_cards(output: Path, *, models: Sequence[Path], summaries: Sequence[Path]) -> None:
    """Write a model card with scores for every exported or quantized folder: the README.md to publish it with.

    Raises UserError for a folder without a card or one that no summary is about.

    Args:
        models: folders NETWORK/hf, NETWORK/int8 or NETWORK/nf4
        summaries: CSV of `llama-nas summarize` of every task
        output: folder: NETWORK.md, NETWORK-int8.md
    """
    table = pd.concat([read_table(path, SUMMARY_COLUMNS) for path in summaries])
    with atomic_folder(output) as folder:
        for model in models:
            path = model / CARD_FILE
            if not path.is_file():
                raise UserError(f"{path}: not found; expected a folder written by `llama-nas export`")
            text, found, _ = path.read_text(encoding="utf-8").partition(SCORES)
            if not found:
                raise UserError(f"{path}: has no section '{SCORES.strip()}'; export it again")
            name = model.parent.name
            if name not in set(table["model"]):
                raise UserError(f"--summaries: none is about '{name}'")
            card = folder / (f"{name}-{model.name}.md" if model.name in QUANTIZED else f"{name}.md")
            card.write_text(text + SCORES + scores(table, name), encoding="utf-8")
    log.info("%d model cards: %s", len(models), output)


def scores(table: pd.DataFrame, model: str) -> str:
    """Markdown: one row per task and precision, and what the numbers rest on."""
    lines = [
        "Stock lm-eval on this network's checkpoints: its score on all items, ± one standard error; then what it gains",
        "or loses against the base in FP16, with the 95 % interval, on the items that it is judged on.",
        "",
        "| task | precision | size | score | base, FP16 | against the base | judged on | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in table[table["model"] == model].to_dict("records"):
        metric = Metric(row["metric"], bool(row["higher_is_better"]))
        same_task = (table["task"] == row["task"]) & (table["precision"] == REFERENCE_PRECISION)
        base = of_role(table[same_task], BASE).iloc[0]
        limit = "" if math.isnan(row["limit"]) else f", first {row['limit']:.0f}"
        task = f"{row['task']} ({row['num_fewshot']}-shot {metric.name}, {row['items']:,} items{limit})"
        own = metric.text(row["value"], row["stderr"])
        reference = metric.text(base["value"], base["stderr"])
        difference = metric.judged_text(row["difference"], row["lower"], row["upper"])
        judged_on = f"{row['judged_items']:,} items {SEEN[row['judged_on'] == HELD_OUT]}"
        verdict = metric.verdict_text(row["verdict"], row["max_drop"])
        columns = (task, row["precision"].upper(), format_bytes(row["size_bytes"]), own, reference)
        lines.append(f"| {' | '.join((*columns, difference, judged_on, verdict))} |")
    about = table[table["model"] == model]
    thresholds = about["int8_threshold"].dropna().unique()
    batches = ", ".join(map(str, about["batch_size"].unique()))
    lines += ["", f"Versions: {'; '.join(about['versions'].unique())}. Batch size {batches}."]
    if len(thresholds):
        lines.append(f"LLM.int8 outlier threshold {', '.join(f'{t:g}' for t in thresholds)}.")
    return "\n".join(lines) + "\n"
