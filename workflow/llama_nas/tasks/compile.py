"""Compile a benchmark: lm-eval renders its requests, HFLM's own code tokenises them, a prefix trie packs them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llama_nas.core.artifacts import file_digest
from llama_nas.core.errors import UserError
from llama_nas.core.items import Items, draw_groups, search_items_range
from llama_nas.core.settings import TrieBounds
from llama_nas.core.shape import ModelShape
from llama_nas.tasks.definitions import leaf_tasks, load_task, set_fewshot, subtask_name
from llama_nas.tasks.format import CHOICE_METRICS, TEXT_METRICS, CompiledTask
from llama_nas.tasks.trie import build_trie, offsets

if TYPE_CHECKING:
    from lm_eval.api.group import Group
    from lm_eval.api.task import Task

log = logging.getLogger(__name__)


def compile_task(
    output: Path,
    *,
    task: str,
    lm_eval_task: str,
    metric: str,
    model: Path,
    bounds: TrieBounds,
    data_root: Path | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    subtasks: Sequence[str] | None = None,
    group: str | None = None,
) -> None:
    """Render and tokenise a benchmark with lm-eval's own task objects; pack its requests as a prefix trie.

    Every draw (few-shot examples) is lm-eval's, with lm-eval's seed. Raises UserError for an unknown task or metric,
    missing data, or a form of task that is not supported.

    Args:
        task: the task's name in the config
        lm_eval_task: lm-eval task or group name, or the path of a task YAML
        metric: the metric the search optimises, e.g. acc
        model: folder with the tokenizer and config.json
        data_root: folder in Hub layout; default: the Hub ids as they are
        num_fewshot: default: the task's own
        limit: first items only, of each subtask, as lm-eval's --limit
        subtasks: for a group: only these, e.g. subjects of mmlu
        group: column of the dataset that names what an item is about; items with the same value are never divided
            between the search and what is held out of it (default: each item is about something of its own)
        output: folder: task.json, requests.safetensors, items.csv (`tasks/format.py`)
    """
    ModelShape.from_folder(model)
    definition = load_task(lm_eval_task, data_root=data_root, subtasks=subtasks)
    metrics, weight_by_size = _metrics(definition, metric)

    from llama_nas.tasks.encode import RequestEncoder, fit_to_model, is_cut

    leaves = leaf_tasks(definition)
    for leaf in leaves:
        set_fewshot(leaf, num_fewshot)
        leaf.build_all_requests(limit=limit)
    instances = [instance for leaf in leaves for instance in leaf.instances]
    encoder = RequestEncoder(model)
    encoded = encoder.encode(instances)
    longest = encoder.max_length
    sequences = [fit_to_model(i, pair, longest) for i, pairs in enumerate(encoded) for pair in pairs]
    truncated = sum(any(is_cut(pair, longest) for pair in pairs) for pairs in encoded)
    if truncated:
        log.warning(
            "%s: %d of %d requests have more tokens than the model's %d positions; cut from the left, as in lm-eval",
            task,
            truncated,
            len(instances),
            longest,
        )
    trie = build_trie(sequences, bounds.chunk_tokens, bounds.group_tokens)
    arrays = _arrays(leaves, metrics)
    is_choice = metric in CHOICE_METRICS
    choices = np.diff(arrays["item_starts"])
    items = _items(leaves, group, None if is_choice else arrays["weights"][:, 0], weight_by_size.get(metric, True))
    compiled = CompiledTask(
        info={
            "task": task,
            "lm_eval_task": lm_eval_task,
            "num_fewshot": _common([leaf.config.num_fewshot for leaf in leaves], lm_eval_task),
            "limit": limit,
            "subtasks": None
            if subtasks is None
            else [subtask_name(leaf.task_name, definition.name) for leaf in leaves],
            "metric": metric,
            "higher_is_better": bool(leaves[0].higher_is_better()[metric]),
            "metrics": metrics,
            "weight_by_size": weight_by_size,
            "chance": float(np.mean(np.add.reduceat(arrays["correct"], arrays["item_starts"][:-1]) / choices))
            if is_choice
            else None,
            "items": len(items),
            "item_groups": len(np.unique(items.groups)),
            "search_items_range": search_items_range(items.subtasks, items.draws),  # of the config key search_items
            "requests": len(instances),
            "truncated_requests": truncated,
            "max_length": longest,
            # HFLM computes equal sequences once (its `logits_cache`), and pads its batches with more.
            "hflm_tokens": sum(len(tokens) for tokens in {sequence.tokens for sequence in sequences}),
            "distinct_tokens": len(trie.tokens),  # a prefix that two groups share is in both
            "scored_tokens": len(trie.targets),
            "groups": trie.num_groups,
            "chunks": trie.num_chunks,
            "chunk_tokens": bounds.chunk_tokens,
            "group_tokens": bounds.group_tokens,
            "tasks": [{"name": leaf.task_name, "version": str(leaf.VERSION)} for leaf in leaves],
            "version": str(getattr(definition, "version", leaves[0].VERSION)),
            "lm_eval_version": _lm_eval_version(),
            "tokenizer": tokenizer_digest(model),
        },
        trie=trie,
        items=items,
        **arrays,
    )
    compiled.save(output)
    log.info(
        "%s: %d items, %d requests, %d tokens (%.2f times fewer than HFLM computes)",
        task,
        compiled.num_items,
        compiled.num_requests,
        compiled.info["distinct_tokens"],
        compiled.info["hflm_tokens"] / compiled.info["distinct_tokens"],
    )


def _metrics(definition: Task | Group, wanted: str) -> tuple[list[str], dict[str, bool]]:
    """The metrics that can be computed, the wanted one first; for a group, whether its tasks are weighted by size."""
    leaves = leaf_tasks(definition)
    kinds = {leaf.OUTPUT_TYPE for leaf in leaves}
    supported = {"multiple_choice": CHOICE_METRICS, "loglikelihood_rolling": TEXT_METRICS}.get(kinds.pop(), ())
    name = leaves[0].task_name
    if kinds or not supported:
        raise UserError(
            f"lm_eval_task '{name}': only multiple choice and rolling log-likelihood tasks can be searched on"
        )
    if supported is CHOICE_METRICS and any(leaf.config.process_results or leaf.config.filter_list for leaf in leaves):
        raise UserError(f"lm_eval_task '{name}': scores its choices by code of its own, which is not supported")
    weight_by_size = {
        config.metric: config.weight_by_size for config in getattr(definition, "aggregate_metric_list", None) or []
    }
    metrics = [m for m in supported if all(m in leaf.aggregation() for leaf in leaves)]
    if weight_by_size:
        metrics = [m for m in metrics if m in weight_by_size]
    if wanted not in metrics:
        raise UserError(f"metric '{wanted}' is not one of {', '.join(metrics) or 'any supported metric'} of '{name}'")
    metrics.sort(key=lambda m: m != wanted)
    return metrics, {m: weight_by_size[m] for m in metrics if m in weight_by_size}


def _questions(leaf: Task) -> Iterator[tuple[dict[str, Any], int]]:
    """Every item of a task: its row of the dataset, and how many requests it has."""
    for _, instances in groupby(leaf.instances, key=lambda instance: instance.doc_id):
        requests = list(instances)
        yield requests[0].doc, len(requests)


def _items(leaves: list[Task], column: str | None, text_weights: np.ndarray | None, weight_by_size: bool) -> Items:
    """What each item is about, and what it weighs in the metric.

    column: that names what an item is about. text_weights: [I] of a metric of texts. weight_by_size: whether a group's
    score is the mean over all items; else it is the plain mean of its tasks'.
    """
    names: list[str] = []
    subtasks: list[int] = []
    for subtask, leaf in enumerate(leaves):
        for doc, _ in _questions(leaf):
            if column is not None and column not in doc:
                raise UserError(
                    f"config.yaml: group '{column}' is no column of the dataset of task '{leaf.task_name}'; it has "
                    f"{', '.join(doc)}"
                )
            names.append(str(len(names) if column is None else doc[column]))
            subtasks.append(subtask)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    groups, subtask_of = np.array([numbers[name] for name in names]), np.array(subtasks, dtype=np.int32)
    sizes = np.bincount(subtask_of)
    by_size = np.ones(len(names), dtype=np.int64)
    weights = by_size if weight_by_size else len(names) / len(sizes) / sizes[subtask_of]
    return Items(subtask_of, groups, weights if text_weights is None else text_weights, draw_groups(subtask_of, groups))


def _arrays(leaves: list[Task], metrics: list[str]) -> dict[str, np.ndarray]:
    """Everything of `CompiledTask` that is about requests and choices."""
    lengths, weights = [], []
    correct: list[bool] = []
    choices: list[str] = []
    for leaf in leaves:
        for doc, requests in _questions(leaf):
            lengths.append(requests)
            if leaf.OUTPUT_TYPE == "multiple_choice":
                item_choices = leaf.doc_to_choice(doc)
                if len(item_choices) != requests:
                    raise UserError(f"lm_eval_task '{leaf.task_name}': asks more than one request per choice")
                right = _right_choices(leaf, doc, item_choices)
                choices += item_choices
                correct += [i in right for i in range(len(item_choices))]
                weights.append([0] * len(metrics))
            else:
                choices.append("")
                correct.append(False)
                weights.append(_text_weights(leaf, doc, metrics))
    return {
        "item_starts": offsets(lengths),
        "correct": np.array(correct, dtype=np.uint8),
        "characters": np.array([len(choice) for choice in choices], dtype=np.int32),
        "utf8_bytes": np.array([len(choice.encode()) for choice in choices], dtype=np.int32),
        "weights": np.array(weights, dtype=np.int64),
    }


def _right_choices(leaf: Task, doc: dict[str, Any], choices: list[str]) -> list[int]:
    """Indices of the right choices; the rules of `ConfigurableTask.process_results`."""
    gold = leaf.doc_to_text(doc) if leaf.multiple_input else leaf.doc_to_target(doc)
    if isinstance(gold, str):
        gold = choices.index(gold) if gold in choices else -1
    return list(gold) if isinstance(gold, list) else [gold]


def _text_weights(leaf: Task, doc: dict[str, Any], metrics: list[str]) -> list[int]:
    """Words or bytes of a text, as the task itself counts them for each metric."""
    scores = leaf.process_results(doc, (0.0,))
    return [scores[metric][1] for metric in metrics]


def _common(values: list[Any], name: str) -> Any:
    if len(set(values)) > 1:
        raise UserError(f"lm_eval_task '{name}': its tasks have different numbers of shots ({sorted(set(values))})")
    return values[0]


def _lm_eval_version() -> str:
    from importlib.metadata import version

    return version("lm_eval")


def tokenizer_digest(model: Path) -> str:
    """sha256 of the tokenizer's main file; raises UserError if there is none."""
    for name in ("tokenizer.json", "tokenizer.model"):
        if (model / name).is_file():
            return file_digest(model / name)
    raise UserError(f"{model}: neither tokenizer.json nor tokenizer.model found")
