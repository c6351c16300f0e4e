"""The search's tables: candidates, shards, evaluations; read strictly, written so that old rows keep their bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from llama_nas.core import items
from llama_nas.core.artifacts import read_json, read_table
from llama_nas.core.errors import UserError
from llama_nas.core.judgement import Metric
from llama_nas.core.space import SearchSpace
from llama_nas.search.encoding import genotypes_of, parameters

CANDIDATE_COLUMNS = ["candidate", "subnet_id", "origin", "predicted"]
EVALUATION_COLUMNS = [
    "round",
    "candidate",
    "subnet_id",
    "origin",
    "layers",
    "parameters",
    "size_bytes",
]  # + metrics, items


@dataclass(frozen=True)
class Task:
    """What the search needs of a compiled task."""

    name: str
    metric: str
    higher_is_better: bool

    @property
    def judged_by(self) -> Metric:
        """The metric, as `core/judgement.py` knows it."""
        return Metric(self.metric, self.higher_is_better)

    def minimised(self, values: np.ndarray) -> np.ndarray:
        """The metric as an objective to minimise."""
        return -values if self.higher_is_better else values


def read_task(folder: Path) -> Task:
    description = read_json(folder / "task.json")
    try:
        return Task(description["task"], description["metric"], bool(description["higher_is_better"]))
    except KeyError as error:
        raise UserError(f"{folder / 'task.json'}: key {error} is missing") from None


def check_search_items(folder: Path, count: int) -> None:
    """Raise UserError if a search on `count` items of a compiled task is not possible."""
    description = read_json(folder / "task.json")
    items.check_search_items(description["task"], count, description["search_items_range"])


def candidate_table(ids: Sequence[str], origins: Sequence[str], predicted: np.ndarray | None) -> pd.DataFrame:
    """predicted: the metric the predictor expects of each, [n]; None before there is a predictor."""
    values = np.full(len(ids), np.nan) if predicted is None else predicted
    return pd.DataFrame({"candidate": range(len(ids)), "subnet_id": ids, "origin": origins, "predicted": values})


def read_candidates(path: Path) -> pd.DataFrame:
    candidates = read_table(path, CANDIDATE_COLUMNS)
    if list(candidates["candidate"]) != list(range(len(candidates))):
        raise UserError(f"{path}: column candidate must count 0, 1, 2, ...")
    return candidates.astype({"predicted": float})


def gather_shards(paths: Sequence[Path], candidates: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The shards' rows in the order of `candidates`: candidate, subnet_id, metric columns, items, answers if any.

    Raises UserError naming the shard of a missing, repeated or foreign row, or of a row without a value.
    """
    expected = dict(zip(candidates["candidate"], candidates["subnet_id"], strict=True))
    found: dict[int, Path] = {}
    shards: list[pd.DataFrame] = []
    for path in paths:
        shard = _typed(read_table(path, ["candidate", "subnet_id", metric, "items"]))
        for candidate, subnet_id in zip(shard["candidate"], shard["subnet_id"], strict=True):
            if expected.get(candidate) != subnet_id:
                raise UserError(f"{path}: candidate {candidate} ({subnet_id}) is not one of these candidates")
            if candidate in found:
                raise UserError(
                    f"{path}: candidate {candidate} ({subnet_id}) is a repeat, it is also in {found[candidate]}"
                )
            found[candidate] = path
        without = shard[~np.isfinite(shard[metric])]
        if len(without):
            raise UserError(f"{path}: candidate {without['candidate'].iloc[0]} has no value of {metric}")
        if shards and list(shard.columns) != list(shards[0].columns):
            raise UserError(f"{path}: its columns differ from those of {paths[0]}")
        shards.append(shard)
    missing = [candidate for candidate in expected if candidate not in found]
    if missing:
        names = ", ".join(map(str, paths))
        raise UserError(f"{names}: candidate {missing[0]} ({expected[missing[0]]}) is missing, {len(missing)} in all")
    return pd.concat(shards).sort_values("candidate", ignore_index=True)


def _metric_columns(table: pd.DataFrame) -> list[str]:
    others = (*EVALUATION_COLUMNS, "items", "answers")
    return [column for column in table.columns if column not in others]


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """Metrics as floats and items as integers also where a file has no rows, or only whole numbers."""
    return table.astype({**dict.fromkeys(_metric_columns(table), float), "items": int})


def evaluation_table(
    space: SearchSpace, round_number: int, candidates: pd.DataFrame, shards: pd.DataFrame
) -> pd.DataFrame:
    """This round's evaluations, one row per candidate, with exact sizes (`size_bytes` in FP16)."""
    genotypes = genotypes_of(space, candidates["subnet_id"])
    subnets = [space.parse(subnet_id) for subnet_id in candidates["subnet_id"]]
    table = pd.DataFrame(
        {
            "round": round_number,
            "candidate": candidates["candidate"],
            "subnet_id": candidates["subnet_id"],
            "origin": candidates["origin"],
            "layers": [subnet.layers for subnet in subnets],
            "parameters": parameters(space, genotypes),
            "size_bytes": [space.shape.size_bytes(subnet, "fp16") for subnet in subnets],
        },
        columns=EVALUATION_COLUMNS,
    )
    for column in [*_metric_columns(shards), "items"]:
        table[column] = shards[column]
    return table


def read_evaluations(path: Path, metric: str) -> pd.DataFrame:
    """All real evaluations so far; written again, they are the same bytes."""
    return _typed(read_table(path, [*EVALUATION_COLUMNS, metric, "items"]))
