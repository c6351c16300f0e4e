"""Tokenising requests exactly as lm-eval's HFLM does: by letting HFLM do it and recording what it would compute."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoConfig, AutoModelForCausalLM

from llama_nas.core.errors import UserError
from llama_nas.tasks.trie import Scored

TokenPair = tuple[list[int], list[int]]  # context, continuation


class RequestEncoder(HFLM):
    """HFLM without weights, whose "forward pass" records its input instead."""

    def __init__(self, model: Path) -> None:
        """model: Hugging Face folder with tokenizer and config.json."""
        with torch.device("meta"):
            weightless = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model, local_files_only=True))
        super().__init__(pretrained=weightless, tokenizer=str(model), backend="causal")
        self._recorded: list[TokenPair] = []

    def _loglikelihood_tokens(self, requests, disable_tqdm=False, override_bs=None):
        self._recorded += [(context, continuation) for _, context, continuation in requests]
        return [(0.0, False)] * len(requests)

    def encode(self, instances: Sequence[Instance]) -> list[list[TokenPair]]:
        """Tokens of each request: one pair for `loglikelihood`, one per window for `loglikelihood_rolling`."""
        if instances[0].request_type == "loglikelihood":
            self._recorded = []
            self.loglikelihood(list(instances))
            return [[pair] for pair in self._recorded]
        encoded = []
        for instance in instances:
            self._recorded = []
            self.loglikelihood_rolling([instance], disable_tqdm=True)
            encoded.append(self._recorded)
        return encoded


def fit_to_model(request: int, pair: TokenPair, max_length: int) -> Scored:
    """What the model computes for a pair: the last token is only predicted, the first are cut if there are too many.

    Same as `HFLM._loglikelihood_tokens`. Raises UserError where HFLM would stop, too.
    """
    context, continuation = pair
    if not context or not continuation or len(continuation) > max_length:
        raise UserError(
            f"request {request}: context of {len(context)} and continuation of {len(continuation)} tokens; lm-eval "
            f"needs at least one of each, and a continuation of at most {max_length}, the model's positions"
        )
    tokens = (context + continuation)[-(max_length + 1) :][:-1]
    return Scored(request, tuple(tokens), tuple(continuation))


def is_cut(pair: TokenPair, max_length: int) -> bool:
    """Whether a pair is cut from the left; HFLM warns about the same ones."""
    return len(pair[0]) + len(pair[1]) > max_length + 1
