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
from llama_nas.core.machine import device_name
from llama_nas.core.precisions import FloatPrecision
from llama_nas.core.settings import Compute
from llama_nas.core.shape import Subnet
from llama_nas.core.space import SearchSpace
from llama_nas.models.elastic import load_elastic
from llama_nas.scoring.forward import Scores, score_task
from llama_nas.scoring.metrics import answered_right, compute_metrics
from llama_nas.scoring.sharing import layer_passes, plan
from llama_nas.tasks.format import CHOICE_METRICS, CompiledTask

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
    items: int | None = None,
    held_out: int | None = None,
) -> None:
    """Score one shard of a batch of candidates on real benchmark items; one model load for all of them.

    A shard's networks are those that share most: neighbours in the order in which they are computed. A row of the
    table does not depend on the other rows or on the number of shards.

    Args:
        candidates: candidates.csv
        shard: which shard, from 1 on
        shards: how many shards the batch has
        timings: out: JSON with seconds, tokens and host
        items: score only so many of the task's items, always the same ones
        held_out: after a search on so many items, score all, and those that the search has not seen apart as well
        output: shard CSV, a row per candidate: its number, subnet_id, every metric with its `_stderr` (empty where
            lm-eval has none), with held_out those of the held-out items, and the number of items
    """
    if not 1 <= shard <= shards:
        raise UserError(f"--shard {shard}: must lie in 1..{shards}")
    compiled = CompiledTask.load(task)
    if items is not None:
        compiled = compiled.random_items(items)
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
    if held_out is not None:
        result = result.join(_on_held_out(compiled, held_out, scores.log_likelihoods))
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


def _on_held_out(task: CompiledTask, searched: int, log_likelihoods: np.ndarray) -> pd.DataFrame:
    """The search's metric on the items that a search on `searched` of them has not seen, a row per network.

    held_out, held_out_stderr, held_out_items, and answers: a 1 for each of these items answered right, a 0 for each
    other, in the task's order; empty for a metric of texts. log_likelihoods: [networks, requests] on all items.
    """
    _, others = task.split(searched)
    part, requests = task.of_items(others), task.requests_of(others)
    rows = []
    for values in log_likelihoods[:, requests]:
        metrics, answers = compute_metrics(part, values), ""
        if task.metric in CHOICE_METRICS:
            answers = "".join(str(int(right)) for right in answered_right(part, task.metric, values))
        rows.append((metrics[task.metric], metrics[f"{task.metric}_stderr"], part.num_items, answers))
    return pd.DataFrame(rows, columns=["held_out", "held_out_stderr", "held_out_items", "answers"])
