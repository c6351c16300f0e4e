"""The search's scorer for use outside the workflow: as a model class of lm-eval, and as a command.

lm-eval's own entry points take the class: `lm_eval.simple_evaluate(model=TrieLM(pretrained=...), tasks=...)`, or
`model="llama-nas"` once this module is imported. Generation is HFLM's own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import make_table

from llama_nas.artifacts import read_json, write_json
from llama_nas.hf_folder import load_model, stored_quantization
from llama_nas.scoring.score import full_network, score_trie
from llama_nas.space import ModelShape
from llama_nas.tasks.definitions import load_task
from llama_nas.tasks.encode import fit_to_model
from llama_nas.tasks.evaluation import evaluate_task
from llama_nas.tasks.trie import build_trie


@register_model("llama-nas")
class TrieLM(HFLM):
    """HFLM that computes each distinct prefix of its requests once, and log-softmax in fp32 where a token is scored."""

    batch_size_per_gpu: int

    def __init__(self, pretrained: Any, chunk_tokens: int = 512, group_tokens: int = 32768, **options: Any) -> None:
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


def score_folder(
    *,
    model: Path,
    task: str,
    data_root: Path | None,
    num_fewshot: int | None,
    limit: int | None,
    subtasks: Sequence[str] | None,
    dtype: str,
    chunk_tokens: int,
    group_tokens: int,
    device: str,
    threads: int,
    output: Path | None,
) -> None:
    """Evaluate a Hugging Face folder on an lm-eval task, print lm-eval's own table, and write its results as JSON.

    dtype: fp32, bf16 or fp16, unless the folder is quantized. Raises UserError for a model, task or data that are not
    there or not supported.
    """
    config = read_json(model / "config.json")
    precision = stored_quantization(config) or dtype
    definition = load_task(task, data_root=data_root, subtasks=subtasks)
    torch.set_num_threads(threads)
    loaded = load_model(model, precision, device)
    language_model = TrieLM(loaded, chunk_tokens, group_tokens, tokenizer=str(model))
    results = evaluate_task(language_model, definition, num_fewshot, limit)
    print(make_table(results))
    if results.get("groups"):
        print(make_table(results, "groups"))
    if precision == "int8":
        threshold = config["quantization_config"]["llm_int8_threshold"]
        print(
            f"LLM.int8 with outlier threshold {threshold}: a result depends on what is computed together, here chunks "
            f"of {chunk_tokens} tokens"
        )
    if output is not None:
        keys = ("results", "groups", "versions", "n-shot", "n-samples", "higher_is_better")
        settings = {
            "dtype": precision,
            "chunk_tokens": chunk_tokens,
            "group_tokens": group_tokens,
        }
        write_json(output, {key: results[key] for key in keys if key in results} | settings)
