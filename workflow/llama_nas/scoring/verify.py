"""The stage that keeps the scorer honest: compare it with stock lm-eval on one network, request by request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from llama_nas.core.artifacts import read_json, write_json
from llama_nas.core.errors import UserError
from llama_nas.core.precisions import FloatPrecision
from llama_nas.core.settings import Compute
from llama_nas.core.space import SearchSpace
from llama_nas.models.elastic import load_elastic
from llama_nas.scoring.forward import score_task
from llama_nas.scoring.metrics import choice_scores, compute_metrics
from llama_nas.tasks.format import CHOICE_METRICS, CompiledTask

# docs/design/architecture.md: the search's scorer agrees with stock lm-eval in fp32 within these.
PER_TOKEN = 1e-4  # nats per scored token
RELATIVE = 1e-5  # of a request's log-likelihood; of 1 nat, where that is smaller
NEAR_TIE = 2e-4  # between an item's two best choices
FLIPPED_SHARE = 1e-3  # of all items, near ties only


def verify(
    output: Path,
    *,
    supernet: Path,
    space: Path,
    subnet: str,
    task: Path,
    benchmark: Path,
    dtype: FloatPrecision,
    compute: Compute,
) -> None:
    """Compare the search's scorer with a stock lm-eval result of the same network, request by request.

    In fp32 they agree if every log-likelihood is within PER_TOKEN and RELATIVE, and choices differ only in near ties,
    on less than FLIPPED_SHARE of the items. In half precision they agree if every item gets the same answer; all
    differences are listed.

    Args:
        subnet: the network's id
        benchmark: JSON of `llama-nas run-lm-eval` on the exported network in precision `dtype`
        output: JSON: how far they differ, and whether they agree
    """
    compiled = CompiledTask.load(task)
    result = read_json(benchmark)
    _check_same(compiled, result, dtype, benchmark)
    network = SearchSpace.read(space).parse(subnet)
    torch.set_num_threads(compute.threads)
    model = load_elastic(supernet, dtype, compute.device)
    (ours,) = score_task(model, compiled, [network]).log_likelihoods
    theirs = np.array([value for item in result["loglikelihoods"] for value in item])
    about = {"task": compiled.name, "subnet_id": subnet, "dtype": dtype}
    write_json(output, about | compare(compiled, ours, theirs, dtype))


def _check_same(task: CompiledTask, result: dict[str, Any], dtype: str, path: Path) -> None:
    lengths = [len(item) for item in result.get("loglikelihoods", [])]
    if result.get("task") != task.name or lengths != np.diff(task.item_starts).tolist():
        raise UserError(f"{path}: not a result of `llama-nas run-lm-eval` on the same items of task '{task.name}'")
    if result.get("precision") != dtype:
        raise UserError(f"{path}: precision {result.get('precision')} is not the search's, {dtype}")


def compare(task: CompiledTask, ours: np.ndarray, theirs: np.ndarray, dtype: str) -> dict[str, Any]:
    """The agreement record of two sets of log-likelihoods of one network, both [R]: ours and lm-eval's."""
    difference = np.abs(ours - theirs)
    per_token = float((difference / np.maximum(task.scored_tokens(), 1)).max())
    relative = float((difference / np.maximum(np.abs(theirs), 1.0)).max())
    flipped = _flipped_items(task, ours, theirs) if task.metric in CHOICE_METRICS else []
    if dtype == "fp32":
        near_ties = all(item["margin"] < NEAR_TIE for item in flipped)
        same_answers = near_ties and len(flipped) < FLIPPED_SHARE * task.num_items
        agrees = per_token <= PER_TOKEN and relative <= RELATIVE and same_answers
    else:
        agrees = not flipped
    own, stock = compute_metrics(task, ours), compute_metrics(task, theirs)
    return {
        "agrees": agrees,
        "metric": task.metric,
        "search_scorer": own[task.metric],
        "lm_eval": stock[task.metric],
        "items": task.num_items,
        "requests": task.num_requests,
        "max_difference_per_token": per_token,
        "max_relative_difference": relative,
        "flipped_items": flipped,
    }


def _flipped_items(task: CompiledTask, ours: np.ndarray, theirs: np.ndarray) -> list[dict[str, Any]]:
    """Items with different answers; margin: between lm-eval's two best choices, in the metric's own scores."""
    own, stock = (choice_scores(task, task.metric, values) for values in (ours, theirs))
    ordered = np.sort(stock, axis=1)
    items = np.flatnonzero(own.argmax(axis=1) != stock.argmax(axis=1))
    return [
        {
            "item": int(item),
            "search_scorer": int(own[item].argmax()),
            "lm_eval": int(stock[item].argmax()),
            "margin": float(ordered[item, -1] - ordered[item, -2]),
        }
        for item in items
    ]
