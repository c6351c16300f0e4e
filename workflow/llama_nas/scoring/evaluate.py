"""The stage that costs: score one shard of a round's candidates on real benchmark items."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from llama_nas.artifacts import read_table, write_json, write_table
from llama_nas.elastic import load_elastic
from llama_nas.errors import UserError
from llama_nas.machine import device_name
from llama_nas.scoring.metrics import answered_right, compute_metrics
from llama_nas.scoring.score import score
from llama_nas.scoring.sharing import layer_passes, plan
from llama_nas.space import ModelShape, SearchSpace
from llama_nas.tasks.compiled import CHOICE_METRICS, CompiledTask

log = logging.getLogger(__name__)


def evaluate_shard(
    output: Path,
    *,
    supernet: Path,
    task: Path,
    candidates: Path,
    shard: int,
    shards: int,
    depths: Sequence[int],
    widths: Sequence[int],
    depth_selection: str,
    dtype: str,
    device: str,
    threads: int,
    timings: Path,
    items: int | None,
    held_out: int | None = None,
) -> None:
    """Score shard `shard` of `shards` (1-based) of candidates.csv.

    A shard's networks are those that share most: neighbours in the order in which they are computed. Writes, by
    candidate, its number, subnet_id, every metric with its `_stderr` (empty where lm-eval has none), items. A row does
    not depend on the other rows or on the number of shards. items: score only so many, always the same ones.
    held_out: after a search on so many items, score all, and once more apart those that the search has not seen: adds
    the columns of `_on_held_out`.
    """
    if not 1 <= shard <= shards:
        raise UserError(f"--shard {shard}: must lie in 1..{shards}")
    compiled = CompiledTask.load(task)
    if items is not None:
        compiled = compiled.random_items(items)
    space = SearchSpace.for_model(ModelShape.from_folder(supernet), depths, widths, depth_selection)
    table = read_table(candidates, ["candidate", "subnet_id"])
    order = [step.network for step in plan([space.parse(subnet_id) for subnet_id in table["subnet_id"]])]
    own = sorted(order[(shard - 1) * len(order) // shards : shard * len(order) // shards])
    rows = table.iloc[own].reset_index(drop=True)
    subnets = [space.parse(subnet_id) for subnet_id in rows["subnet_id"]]
    steps = plan(subnets)
    separate = sum(len(step.edges) for step in steps)
    log.info(
        "%s: %d networks of %d layers in all, %.0f %% of them to compute, for what they share",
        compiled.name,
        len(subnets),
        separate,
        100 * layer_passes(steps) / max(separate, 1),
    )

    torch.set_num_threads(threads)
    start = time.perf_counter()
    model = load_elastic(supernet, dtype, device)
    loaded = time.perf_counter()
    scores = score(model, compiled, subnets)
    seconds = time.perf_counter() - loaded
    metrics = [compute_metrics(compiled, values) for values in scores.log_likelihoods]

    columns = [column for metric in compiled.metrics for column in (metric, f"{metric}_stderr")]
    result = rows[["candidate", "subnet_id"]].join(pd.DataFrame(metrics, columns=columns))
    if held_out is not None:
        result = result.join(_on_held_out(compiled, held_out, scores.log_likelihoods))
    result = result.assign(items=compiled.num_items)
    distinct = len(subnets) * len(compiled.trie.tokens)
    share = scores.layer_passes / max(scores.unshared_layer_passes, 1)
    write_json(
        timings,
        {
            "task": compiled.name,
            "networks": len(subnets),
            "load_seconds": loaded - start,
            "seconds": seconds,
            "items": compiled.num_items,
            "distinct_tokens": distinct,
            "layer_passes": scores.layer_passes,  # a layer on a group of tokens; recomputed ones included
            "layer_passes_saved": scores.unshared_layer_passes - scores.layer_passes,
            "tokens_per_second": distinct / seconds,
            "dtype": dtype,
            "device": device_name(device),
            "threads": threads,
            "host": platform.node(),
        },
    )
    write_table(output, result)
    log.info(
        "%s: %d networks in %.1f s, %.0f distinct tokens/s, %.0f %% of the layer passes",
        compiled.name,
        len(subnets),
        seconds,
        distinct / seconds,
        100 * share,
    )


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
