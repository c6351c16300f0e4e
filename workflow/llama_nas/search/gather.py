"""The stage after a round's real evaluations: gather them, and see how good the predictions were."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from llama_nas.core.artifacts import write_json, write_table
from llama_nas.core.errors import UserError
from llama_nas.core.space import SearchSpace
from llama_nas.search import tables
from llama_nas.search.quality import quality

log = logging.getLogger(__name__)


def gather(
    output: Path,
    *,
    space: Path,
    task: Path,
    round: int,
    candidates: Path,
    shards: Sequence[Path],
    predictions: Path,
    earlier: Path | None = None,
) -> None:
    """Gather a round's shards behind all earlier evaluations, and compare them with what was predicted.

    Args:
        round: this round's number, from 1 on
        candidates: this round's candidates.csv
        shards: this round's shard CSVs
        earlier: evaluations.csv of the round before
        predictions: out: JSON: the quality of this round's predictions, of the candidates that had never been
            evaluated before; null where there are none, as in round 1 (strict LINAS proposes known networks, too)
        output: evaluations.csv: all real evaluations so far
    """
    described = tables.read_task(task)
    proposed = tables.read_candidates(candidates)
    gathered = tables.gather_shards(shards, proposed, described.metric)
    table = tables.evaluation_table(SearchSpace.read(space), round, proposed, gathered)
    new = proposed["predicted"].notna() & ~proposed["subnet_id"].duplicated()
    if earlier is not None:
        before = tables.read_evaluations(earlier, described.metric)
        if list(before.columns) != list(table.columns):
            raise UserError(f"{earlier}: its columns differ from those of {shards[0]}")
        new &= ~proposed["subnet_id"].isin(before["subnet_id"])
        table = pd.concat([before, table], ignore_index=True) if len(table) else before
    write_table(output, table)
    measured, predicted = gathered.loc[new, described.metric], proposed.loc[new, "predicted"]
    found = _quality(measured, predicted)
    write_json(predictions, {"round": round, "task": described.name, "metric": described.metric, "quality": found})
    log.info("%s: %d evaluations, Kendall tau of %d predictions: %s", described.name, len(table), int(new.sum()),
             found and found["kendall_tau"])  # fmt: skip


def _quality(measured: pd.Series, predicted: pd.Series) -> dict[str, Any] | None:
    if not len(measured):
        return None
    return dataclasses.asdict(quality(measured.to_numpy(), predicted.to_numpy())) | {"rows": len(measured)}
