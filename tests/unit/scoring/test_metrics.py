"""Metrics of groups by lm-eval's own formulas; those of single tasks are compared in test_forward.py."""

from dataclasses import fields

import numpy as np
import pytest
from lm_eval.api import metrics as stock_metrics

from llama_nas.core.items import Items
from llama_nas.scoring.metrics import compute_metrics
from llama_nas.tasks.format import CompiledTask
from llama_nas.tasks.trie import TokenTrie


def synthetic(sizes, weight_by_size, correct_share=0.4):
    """Two choices an item; subtasks of unequal sizes."""
    rng = np.random.default_rng(0)
    items = sum(sizes)
    empty = np.zeros(0, dtype=np.int32)
    right = rng.integers(0, 2, items)
    task = CompiledTask(
        info={
            "task": "t",
            "metric": "acc",
            "metrics": ["acc"],
            "weight_by_size": {"acc": weight_by_size},
            "tasks": [{"name": str(i)} for i in range(len(sizes))],
        },
        trie=TokenTrie(*[empty] * len(fields(TokenTrie))),
        items=Items(np.repeat(np.arange(len(sizes)), sizes), np.arange(items), np.ones(items), np.arange(items)),
        item_starts=np.arange(0, 2 * items + 1, 2),
        correct=np.stack([right == 0, right == 1], axis=1).astype(np.uint8).ravel(),
        characters=np.ones(2 * items, dtype=np.int32),
        utf8_bytes=np.ones(2 * items, dtype=np.int32),
        weights=np.zeros((items, 1), dtype=np.int64),
    )
    return task, rng.normal(size=2 * items), right


@pytest.mark.parametrize("weight_by_size", [True, False])
def test_group_of_unequal_subtasks_is_weighted_as_in_lm_eval(weight_by_size):
    sizes = [3, 7, 20]
    task, log_likelihoods, right = synthetic(sizes, weight_by_size)
    hits = (log_likelihoods.reshape(-1, 2).argmax(axis=1) == right).astype(float)
    parts = np.split(hits, np.cumsum(sizes)[:-1])
    values = [stock_metrics.mean(list(part)) for part in parts]
    errors = [stock_metrics.mean_stderr(list(part)) for part in parts]
    stderr = (
        stock_metrics.pooled_sample_stderr(errors, sizes)
        if weight_by_size
        else stock_metrics.unweighted_mean_stderr(errors)
    )
    result = compute_metrics(task, log_likelihoods)
    assert result["acc"] == pytest.approx(stock_metrics.aggregate_subtask_metrics(values, sizes, weight_by_size))
    assert result["acc_stderr"] == pytest.approx(stderr)
