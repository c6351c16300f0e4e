"""The search's scorer for use outside the workflow: as a model class of lm-eval, and as a command.

lm-eval's own entry points take the class: `lm_eval.simple_evaluate(model=TrieLM(pretrained=...), tasks=...)`, or
`model="llama-nas"` once this module is imported. Generation is HFLM's own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import make_table

from llama_nas.core.artifacts import read_json, write_json
from llama_nas.core.precisions import FloatPrecision
from llama_nas.core.settings import Compute, TrieBounds
from llama_nas.core.shape import ModelShape
from llama_nas.models.elastic import full_network
from llama_nas.models.folder import load_model, stored_quantization
from llama_nas.scoring.forward import score_trie
from llama_nas.tasks.definitions import load_task
from llama_nas.tasks.encode import fit_to_model
from llama_nas.tasks.simple_evaluate import simple_evaluate
from llama_nas.tasks.trie import build_trie


@register_model("llama-nas")
class TrieLM(HFLM):
    """HFLM that computes each distinct prefix of its requests once, and log-softmax in fp32 where a token is scored."""

    batch_size_per_gpu: int

    def __init__(
        self,
        pretrained: Any,
        chunk_tokens: int = TrieBounds.chunk_tokens,
        group_tokens: int = TrieBounds.group_tokens,
        **options: Any,
    ) -> None:
        """options: as HFLM's; its batch size has no effect on log-likelihoods here.

        Raises UserError for a model that is not of the Llama family.
        """
        super().__init__(pretrained=pretrained, **options)
        ModelShape.from_config(self.model.config.to_dict())
        self._bounds = chunk_tokens, group_tokens

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        pairs = [(context, continuation) for _, context, continuation in requests]
        sequences = [fit_to_model(i, pair, self.max_length) for i, pair in enumerate(pairs)]
        if not sequences:
            return []
        trie = build_trie(sequences, *self._bounds)
        scores = score_trie(self.model, trie, len(pairs), [full_network(self.model)], label="log-likelihoods")
        answers = list(zip(scores.log_likelihoods[0].tolist(), scores.greedy[0].tolist(), strict=True))
        for (text, _, _), answer in zip(requests, answers, strict=True):
            if text is not None:  # windows of a rolling request are cached together, by HFLM
                self.cache_hook.add_partial("loglikelihood", text, answer)
        return answers

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        # HFLM asks for the windows of all texts in batches; one batch shares most.
        batch_size, self.batch_size_per_gpu = self.batch_size_per_gpu, sys.maxsize
        try:
            return super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)
        finally:
            self.batch_size_per_gpu = batch_size


def score(
    *,
    model: Path,
    task: str,
    data: Path | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    subtasks: Sequence[str] | None = None,
    dtype: FloatPrecision = "fp32",
    bounds: TrieBounds = TrieBounds(),  # noqa: B008  (frozen)
    compute: Compute = Compute(),  # noqa: B008  (frozen)
    output: Path | None = None,
) -> None:
    """Evaluate any Llama-family folder on any log-likelihood task of lm-eval by the search's scorer.

    Prints lm-eval's own table. Raises UserError for a model, task or data that are not there or not supported.

    Args:
        model: Hugging Face folder: plain, exported or quantized
        task: lm-eval task or group name, or the path of a task YAML
        data: folder in Hub layout with the task's dataset; default: the Hub
        num_fewshot: default: the task's own
        limit: first items only, as lm-eval's --limit
        subtasks: for a group: only these, e.g. subjects of mmlu
        dtype: of weights and arithmetic, unless the folder is quantized
        output: JSON of lm-eval's results
    """
    config = read_json(model / "config.json")
    precision = stored_quantization(config) or dtype
    definition = load_task(task, data_root=data, subtasks=subtasks)
    torch.set_num_threads(compute.threads)
    loaded = load_model(model, precision, compute.device)
    language_model = TrieLM(loaded, bounds.chunk_tokens, bounds.group_tokens, tokenizer=str(model))
    results = simple_evaluate(language_model, definition, num_fewshot, limit)
    print(make_table(results))
    if results.get("groups"):
        print(make_table(results, "groups"))
    if precision == "int8":
        threshold = config["quantization_config"]["llm_int8_threshold"]
        print(
            f"LLM.int8 with outlier threshold {threshold}: a result depends on what is computed together, here chunks "
            f"of {bounds.chunk_tokens} tokens"
        )
    if output is not None:
        keys = ("results", "groups", "versions", "n-shot", "n-samples", "higher_is_better")
        settings = {"dtype": precision, **asdict(bounds)}
        write_json(output, {key: results[key] for key in keys if key in results} | settings)
