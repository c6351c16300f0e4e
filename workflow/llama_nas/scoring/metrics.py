"""A task's metrics from its requests' log-likelihoods, by lm-eval's formulas.

Sources: lm_eval 0.4.13, api/task.py (`process_results`), api/metrics.py, api/group.py (`aggregate`). Ties between
choices go to the first, as `np.argmax` decides them there.
"""

from __future__ import annotations

import math

import numpy as np

from llama_nas.tasks.format import CHOICE_METRICS, CompiledTask


def compute_metrics(task: CompiledTask, log_likelihoods: np.ndarray) -> dict[str, float]:
    """Every metric of the task with its standard error, `{"acc": ..., "acc_stderr": ..., ...}`.

    log_likelihoods: [R], natural logarithm. A standard error is NaN where lm-eval has none (perplexities, one item).
    """
    values: dict[str, float] = {}
    for metric in task.metrics:
        values[metric], values[f"{metric}_stderr"] = _metric(task, metric, log_likelihoods)
    return values


def choice_scores(task: CompiledTask, metric: str, log_likelihoods: np.ndarray) -> np.ndarray:
    """What the choices of each item are compared by, shape [items, most choices], -inf where an item has fewer."""
    with np.errstate(divide="ignore", invalid="ignore"):  # an empty choice: lm-eval divides by its length, too
        scores = log_likelihoods / {"acc": 1, "acc_norm": task.characters, "acc_bytes": task.utf8_bytes}[metric]
    lengths = np.diff(task.item_starts)
    padded = np.full((len(lengths), lengths.max()), -np.inf)
    padded[np.arange(lengths.max()) < lengths[:, None]] = scores
    return padded


def answered_right(task: CompiledTask, metric: str, log_likelihoods: np.ndarray) -> np.ndarray:
    """Which items' best choice is a right one, bool [items]; for a metric of CHOICE_METRICS."""
    best = choice_scores(task, metric, log_likelihoods).argmax(axis=1)
    return task.correct[task.item_starts[:-1] + best].astype(bool)


def item_values(task: CompiledTask, log_likelihoods: np.ndarray) -> np.ndarray:
    """What `core/judgement.py` compares, [items]: 1 for one answered right, else 0; of a text its log-likelihood."""
    if task.metric in CHOICE_METRICS:
        return answered_right(task, task.metric, log_likelihoods).astype(int)
    return np.add.reduceat(log_likelihoods, task.item_starts[:-1])


def _metric(task: CompiledTask, metric: str, log_likelihoods: np.ndarray) -> tuple[float, float]:
    """Value and standard error over all subtasks."""
    if metric in CHOICE_METRICS:
        items = answered_right(task, metric, log_likelihoods).astype(float)
        parts = [_mean(items[task.items.subtasks == i]) for i in range(len(task.info["tasks"]))]
    else:
        weights = task.weights[:, task.metrics.index(metric)]
        parts = [
            (_text_metric(metric, log_likelihoods[own].sum() / weights[own].sum()), math.nan)
            for own in (task.items.subtasks == i for i in range(len(task.info["tasks"])))
        ]
    if not task.info["weight_by_size"]:
        return parts[0]
    return _aggregate(parts, np.bincount(task.items.subtasks), task.info["weight_by_size"][metric])


def _mean(items: np.ndarray) -> tuple[float, float]:
    stderr = items.std(ddof=1) / math.sqrt(len(items)) if len(items) > 1 else math.nan
    return float(items.mean()), float(stderr)


def _text_metric(metric: str, mean: float) -> float:
    """mean: log-likelihood per word or byte."""
    return float(-mean / math.log(2)) if metric == "bits_per_byte" else math.exp(-mean)


def _aggregate(parts: list[tuple[float, float]], sizes: np.ndarray, weight_by_size: bool) -> tuple[float, float]:
    """A group's value and standard error from its tasks': pooled over items, or of the plain mean of tasks."""
    values, errors = (np.array(column) for column in zip(*parts, strict=True))
    if not weight_by_size:
        return float(values.mean()), float(np.sqrt((errors**2).sum()) / len(errors))
    pooled = ((sizes - 1) * errors**2 * sizes).sum() / (sizes.sum() - len(sizes))
    return float((values * sizes).sum() / sizes.sum()), float(np.sqrt(pooled / sizes.sum()))
