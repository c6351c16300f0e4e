"""Which choice of an item is taken for a network's answer, against lm-eval's formulas by hand."""

from dataclasses import fields

import numpy as np
import pytest

from llama_nas.core.items import Items
from llama_nas.scoring.metrics import answered_right, compute_metrics
from llama_nas.tasks.format import CompiledTask
from llama_nas.tasks.trie import TokenTrie


def of_choices(items: list[list[str]], right: list[int]) -> CompiledTask:
    """A task of multiple choice whose items have these choices."""
    empty = np.zeros(0, dtype=np.int32)
    numbers, choices = np.arange(len(items)), [choice for item in items for choice in item]
    metrics = ["acc", "acc_norm", "acc_bytes"]
    return CompiledTask(
        info={"task": "t", "metric": "acc", "metrics": metrics, "weight_by_size": {}, "tasks": [{"name": "t"}]},
        trie=TokenTrie(*[empty] * len(fields(TokenTrie))),
        items=Items(np.zeros_like(numbers), numbers, np.ones_like(numbers), numbers),
        item_starts=np.cumsum([0, *map(len, items)]),
        correct=np.array([i == one for item, one in zip(items, right, strict=True) for i in range(len(item))]),
        characters=np.array(list(map(len, choices))),
        utf8_bytes=np.array([len(choice.encode()) for choice in choices]),
        weights=np.zeros((len(items), len(metrics)), dtype=int),
    )


def test_each_metric_divides_by_its_own_length():
    """-10 and -12 nats for 5 characters of 10 bytes and 8 characters of 8 bytes: -2 and -1.5, or -1 and -1.5."""
    task = of_choices([["ééééé", "abcdefgh"]], [0])
    log_likelihoods = np.array([-10.0, -12.0])
    answered = {metric: answered_right(task, metric, log_likelihoods).item() for metric in task.metrics}
    assert answered == {"acc": True, "acc_norm": False, "acc_bytes": True}
    values = compute_metrics(task, log_likelihoods)
    assert {metric: values[metric] for metric in task.metrics} == {"acc": 1, "acc_norm": 0, "acc_bytes": 1}


@pytest.mark.parametrize("metric", ["acc", "acc_norm", "acc_bytes"])
def test_of_equally_likely_choices_the_first_is_taken(metric):
    """As numpy's argmax does in lm-eval; an item with fewer choices is filled up behind its last."""
    items = [["aa", "bb", "cc"], ["aa", "bb", "cc"], ["aa", "bb"], ["aa", "bb"]]
    task = of_choices(items, right=[0, 2, 1, 0])
    log_likelihoods = np.array([-2.0, -2, -2, -3, -2, -2, -2, -2, -2, -2])
    assert answered_right(task, metric, log_likelihoods).tolist() == [True, False, False, True]
