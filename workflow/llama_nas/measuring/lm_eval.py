"""Evaluate a model folder with stock lm-eval: the authority that every claim of the project rests on."""

from __future__ import annotations

import logging
import math
import os
import tempfile
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_nas.core.artifacts import read_json, write_json
from llama_nas.core.errors import UserError
from llama_nas.core.layout import SUBNET_FILE
from llama_nas.core.precisions import Precision
from llama_nas.core.settings import Compute
from llama_nas.models.folder import DTYPES, check_precision, set_arithmetic, weight_files
from llama_nas.tasks.definitions import leaf_tasks, load_task
from llama_nas.tasks.format import TASK_FILE
from llama_nas.tasks.simple_evaluate import simple_evaluate

if TYPE_CHECKING:
    from lm_eval.api.task import Task

log = logging.getLogger(__name__)

# lm-eval's default is the model's dtype, whose coarse log-probabilities tie choices of a question in half precision.
SOFTMAX_DTYPE = "float32"


def run_lm_eval(
    output: Path,
    *,
    model: Path,
    task: Path,
    precision: Precision,
    batch_size: int,
    compute: Compute,
    data_root: Path | None = None,
) -> None:
    """Evaluate a model folder with stock lm-eval: `lm_eval.simple_evaluate` with HFLM.

    In the JSON `dtype` is that of the weights (of the unquantized ones, if there are others), `memory_bytes` their
    size, and `arithmetic` what is computed in (`set_arithmetic`). Raises UserError if the folder does not fit the
    precision.

    Args:
        model: plain, exported or quantized Hugging Face folder
        task: folder written by `llama-nas compile-task`: its task.json names the lm-eval task, shots and limit
        precision: of the weights; a quantized folder must be of this precision
        batch_size: rows per forward pass
        data_root: folder in Hub layout with the task's dataset; default: the Hub ids as they are
        output: JSON of figures, item values (`core/judgement.py`) and log-likelihoods
    """
    settings = read_json(task / TASK_FILE)
    files = weight_files(model)
    check_precision(model, precision)
    quantization = read_json(model / "config.json").get("quantization_config", {})
    definition = load_task(
        settings["lm_eval_task"],
        data_root=data_root,
        subtasks=settings["subtasks"],
    )
    with tempfile.TemporaryDirectory(prefix="llama-nas-modules-") as modules:
        # Where transformers copies the code of an exported folder before it runs it: not to be shared by jobs.
        os.environ["HF_MODULES_CACHE"] = modules
        results, footprint, arithmetic = _run(definition, settings, model, precision, batch_size, compute)
    leaves = leaf_tasks(definition)
    _check_settings(results, settings, leaves)
    name = getattr(definition, "name", leaves[0].task_name)
    record = {
        "task": settings["task"],
        "lm_eval_task": settings["lm_eval_task"],
        "precision": precision,
        "metric": settings["metric"],
        "metrics": _metrics(results["results"][name], settings["metrics"]),
        "items": settings["items"],
        "num_fewshot": settings["num_fewshot"],
        "limit": settings["limit"],
        "batch_size": batch_size,
        "dtype": DTYPES[precision],
        "arithmetic": arithmetic,
        "softmax_dtype": SOFTMAX_DTYPE,
        "int8_threshold": quantization.get("llm_int8_threshold") if precision == "int8" else None,
        "bytes_on_disk": sum(file.stat().st_size for file in files),
        "memory_bytes": footprint,
        "versions": {package: version(package) for package in ("lm_eval", "transformers", "torch", "bitsandbytes")}
        | {name: settings["version"]},
        "subtasks": {
            leaf.task_name: _metrics(results["results"][leaf.task_name], settings["metrics"])
            for leaf in leaves
            if leaf is not definition
        },
        "item_values": [value for leaf in leaves for value in _item_values(leaf, settings["metric"])],
        "loglikelihoods": [item for leaf in leaves for item in _log_likelihoods(leaf)],
    }
    write_json(output, record)
    log.info("%s %s: %s %.4f", model, precision, settings["metric"], record["metrics"][settings["metric"]])


def _run(
    definition: Any, settings: dict[str, Any], model: Path, precision: str, batch_size: int, compute: Compute
) -> tuple[dict[str, Any], int, str]:
    """lm-eval's results, the bytes of the model as its weights are stored, and the dtype of the arithmetic."""
    import torch
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(compute.threads)
    language_model = HFLM(
        pretrained=str(model),
        dtype=DTYPES[precision],
        softmax_dtype=SOFTMAX_DTYPE,
        device=compute.device,
        batch_size=batch_size,
        trust_remote_code=(model / SUBNET_FILE).is_file(),
        use_safetensors=True,
    )
    footprint = language_model.model.get_memory_footprint()
    arithmetic = set_arithmetic(language_model.model, precision, compute.device)
    results = simple_evaluate(language_model, definition, settings["num_fewshot"], settings["limit"])
    return results, footprint, arithmetic


def _check_settings(results: dict[str, Any], settings: dict[str, Any], leaves: list[Task]) -> None:
    """What lm-eval says it did must be what the task was compiled for."""
    shots = {results["n-shot"][leaf.task_name] for leaf in leaves}
    items = sum(results["n-samples"][leaf.task_name]["effective"] for leaf in leaves)
    if shots != {settings["num_fewshot"]} or items != settings["items"]:
        raise UserError(
            f"task '{settings['task']}': lm-eval used {sorted(shots)} shots on {items} items, but the task was "
            f"compiled for {settings['num_fewshot']} on {settings['items']}; compile it again"
        )


def _metrics(values: dict[str, Any], metrics: list[str]) -> dict[str, float | None]:
    """{metric: value, metric_stderr: value}, None where lm-eval has no figure."""
    names = [name for metric in metrics for name in (metric, f"{metric}_stderr")]
    return {name: _number(values[f"{name},none"]) for name in names}


def _number(value: Any) -> float | None:
    return None if value == "N/A" or math.isnan(value) else float(value)


def _item_values(leaf: Task, metric: str) -> list[float]:
    """Per item what lm-eval itself makes of the responses: 1 if it is right, else 0; of a text its log-likelihood."""
    values: list[float] = []
    for _, instances in groupby(leaf.instances, key=lambda instance: instance.doc_id):
        requests = list(instances)
        responses = [request.filtered_resps["none"] for request in requests]
        value = leaf.process_results(requests[0].doc, responses)[metric]
        values.append(value[0] if isinstance(value, tuple) else int(value))  # a text's comes with its words or bytes
    return values


def _log_likelihoods(leaf: Task) -> list[list[float]]:
    """Per item, the log-likelihood of each choice, or of the text."""
    items: dict[int, list[float]] = {}
    for instance in leaf.instances:
        response = instance.resps[0]
        items.setdefault(instance.doc_id, []).append(response if isinstance(response, float) else response[0])
    return list(items.values())
