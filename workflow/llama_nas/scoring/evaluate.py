"""The stage that costs: score one shard of a batch of candidates on real benchmark items."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from llama_nas.core.artifacts import read_table, write_json, write_table
from llama_nas.core.errors import UserError
from llama_nas.core.judgement import Metric, format_answers
from llama_nas.core.machine import device_name
from llama_nas.core.precisions import FloatPrecision
from llama_nas.core.settings import Compute
from llama_nas.core.shape import Subnet
from llama_nas.core.space import SearchSpace
from llama_nas.models.elastic import load_elastic
from llama_nas.scoring.forward import Scores, score_task
from llama_nas.scoring.metrics import compute_metrics, item_values
from llama_nas.scoring.sharing import layer_passes, plan
from llama_nas.tasks.format import CompiledTask

log = logging.getLogger(__name__)


def evaluate(
    output: Path,
    *,
    supernet: Path,
    space: Path,
    task: Path,
    candidates: Path,
    shard: int,
    shards: int,
    dtype: FloatPrecision,
    compute: Compute,
    timings: Path,
    search_items: int | None = None,
    judged: bool = False,
) -> None:
    """Score one shard of a batch of candidates on real benchmark items; one model load for all of them.

    A shard's networks are those that share most: neighbours in the order in which they are computed. A row of the
    table does not depend on the other rows or on the number of shards.

    Args:
        candidates: candidates.csv
        shard: which shard, from 1 on
        shards: how many shards the batch has
        timings: out: JSON with seconds, tokens and host
        search_items: score only the items of a search on so many
        judged: score all items, and write the answers to those that networks are judged on: all that the search does
            not score, or all if it scores all
        output: shard CSV, a row per candidate: its number, subnet_id, every metric with its `_stderr` (empty where
            lm-eval has none), with judged the answers (`core/judgement.py`), and the number of items
    """
    if not 1 <= shard <= shards:
        raise UserError(f"--shard {shard}: must lie in 1..{shards}")
    compiled = CompiledTask.load(task)
    if search_items is not None and not judged:
        compiled = compiled.random_items(search_items)
    declared = SearchSpace.read(space)
    declared.check_model(supernet)
    rows = _own_rows(read_table(candidates, ["candidate", "subnet_id"]), declared, shard, shards)
    subnets = [declared.parse(subnet_id) for subnet_id in rows["subnet_id"]]
    _announce(compiled, subnets)

    torch.set_num_threads(compute.threads)
    start = time.perf_counter()
    model = load_elastic(supernet, dtype, compute.device)
    loaded = time.perf_counter()
    scores = score_task(model, compiled, subnets)
    seconds = time.perf_counter() - loaded

    result = rows[["candidate", "subnet_id"]].join(_metric_table(compiled, scores))
    if judged:
        result["answers"] = _answers(compiled, search_items, scores.log_likelihoods)
    cost = _cost(compiled, scores, loaded - start, seconds)
    about = {"dtype": dtype, "device": device_name(compute.device), "threads": compute.threads, "host": platform.node()}
    write_json(timings, cost | about)
    write_table(output, result.assign(items=compiled.num_items))
    log.info("%s: %d networks in %.1f s, %.0f distinct tokens/s, %.0f %% of the layer passes",
             compiled.name, len(subnets), seconds, cost["tokens_per_second"],
             100 * scores.layer_passes / max(scores.unshared_layer_passes, 1))  # fmt: skip


def _own_rows(table: pd.DataFrame, space: SearchSpace, shard: int, shards: int) -> pd.DataFrame:
    """The candidates of one shard, in the order of the table."""
    order = [step.network for step in plan([space.parse(subnet_id) for subnet_id in table["subnet_id"]])]
    own = sorted(order[(shard - 1) * len(order) // shards : shard * len(order) // shards])
    return table.iloc[own].reset_index(drop=True)


def _announce(task: CompiledTask, subnets: Sequence[Subnet]) -> None:
    steps = plan(subnets)
    separate = sum(len(step.edges) for step in steps)
    log.info("%s: %d networks of %d layers in all, %.0f %% of them to compute, for what they share",
             task.name, len(subnets), separate, 100 * layer_passes(steps) / max(separate, 1))  # fmt: skip


def _metric_table(task: CompiledTask, scores: Scores) -> pd.DataFrame:
    """Every metric with its standard error, a row per network."""
    columns = [column for metric in task.metrics for column in (metric, f"{metric}_stderr")]
    return pd.DataFrame([compute_metrics(task, values) for values in scores.log_likelihoods], columns=columns)


def _cost(task: CompiledTask, scores: Scores, load_seconds: float, seconds: float) -> dict[str, float | str]:
    """What the scoring took."""
    distinct = len(scores.log_likelihoods) * len(task.trie.tokens)
    return {
        "task": task.name,
        "networks": len(scores.log_likelihoods),
        "load_seconds": load_seconds,
        "seconds": seconds,
        "items": task.num_items,
        "distinct_tokens": distinct,
        "layer_passes": scores.layer_passes,  # a layer on a group of tokens; recomputed ones included
        "layer_passes_saved": scores.unshared_layer_passes - scores.layer_passes,
        "tokens_per_second": distinct / seconds,
    }


def _answers(task: CompiledTask, search_items: int | None, log_likelihoods: np.ndarray) -> list[str]:
    """What each network answers to the items that it is judged on. log_likelihoods: [networks, requests] on all."""
    chosen, metric = task.items.judged(search_items, task.name), Metric.of(task.info)
    return [format_answers(item_values(task, values)[chosen], metric) for values in log_likelihoods]
