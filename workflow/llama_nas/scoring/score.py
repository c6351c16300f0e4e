"""Log-likelihoods of a compiled task's requests for sub-networks of an elastic model: the hot path of the search.

A chunk is one forward pass of batch 1. Its tokens are a trie: each attends to its ancestors only (a 4-D mask, which
transformers takes as it is) at its position in its own sequence, so a shared prefix is computed once and every
sequence sees what it would see alone. The vocabulary head is applied only where a token is scored.

Shape suffixes: T tokens of a chunk, S scored positions, U distinct scored tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from llama_nas.elastic import active
from llama_nas.errors import UserError
from llama_nas.progress import track
from llama_nas.space import Subnet
from llama_nas.tasks.compiled import Chunk, CompiledTask


@dataclass(frozen=True)
class ChunkInput:
    """A chunk as tensors on the model's device; the same for every sub-network."""

    tokens: torch.Tensor  # [1, T]
    positions: torch.Tensor  # [1, T]
    mask: torch.Tensor  # [1, 1, T, T] added to the attention scores: 0 for ancestors and the token itself, else -inf
    rows: torch.Tensor  # [U] tokens whose logits are wanted
    row_of_score: torch.Tensor  # [S] index into `rows`
    targets: torch.Tensor  # [S]
    requests: np.ndarray  # [S]


@torch.inference_mode()
def score(model: Any, task: CompiledTask, subnets: Sequence[Subnet | None]) -> np.ndarray:
    """Log-likelihood of every request for every sub-network (None: the full one), fp64, shape [networks, requests].

    model: from `elastic.load_elastic`; on return its full network is active. Each network's result depends on nothing
    but the network, the task and the chunk layout, which is fixed when the task is compiled. Log-softmax in fp32, sums
    in fp64. Raises UserError if the task was compiled for another model.
    """
    _check_fit(model, task)
    sums = np.zeros((len(subnets), task.num_requests))
    passes = _passes(model, task, subnets)
    for i, subnet, chunk in track(passes, task.num_chunks * len(subnets), f"{task.name}: forward passes"):
        with active(model, subnet):
            sums[i] += np.bincount(chunk.requests, _forward(model, chunk), task.num_requests)
    return sums


def _passes(
    model: Any, task: CompiledTask, subnets: Sequence[Subnet | None]
) -> Iterator[tuple[int, Subnet | None, ChunkInput]]:
    """Chunks outside, networks inside: a chunk's mask is built once and kept no longer than needed."""
    for chunk in task.chunks():
        chunk_input = _chunk_input(chunk, model)
        for i, subnet in enumerate(subnets):
            yield i, subnet, chunk_input


def _forward(model: Any, chunk: ChunkInput) -> np.ndarray:
    """Log-probability of every scored token, shape [S]."""
    output = model.model(
        input_ids=chunk.tokens, attention_mask=chunk.mask, position_ids=chunk.positions, use_cache=False
    )
    logits_UV = model.lm_head(output.last_hidden_state[0, chunk.rows])
    log_probabilities_UV = torch.log_softmax(logits_UV, dim=-1, dtype=torch.float32)
    return log_probabilities_UV[chunk.row_of_score, chunk.targets].cpu().numpy()


def _chunk_input(chunk: Chunk, model: Any) -> ChunkInput:
    device = model.device
    rows, row_of_score = np.unique(chunk.rows, return_inverse=True)
    mask = torch.zeros(1, 1, len(chunk.tokens), len(chunk.tokens), dtype=model.dtype)
    mask.masked_fill_(torch.from_numpy(~ancestors(chunk.parents)), -torch.inf)

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values.astype(np.int64)).to(device)

    return ChunkInput(
        tokens=tensor(chunk.tokens)[None],
        positions=tensor(chunk.positions)[None],
        mask=mask.to(device),
        rows=tensor(rows),
        row_of_score=tensor(row_of_score),
        targets=tensor(chunk.targets),
        requests=chunk.requests,
    )


def ancestors(parents: np.ndarray) -> np.ndarray:
    """Which tokens each token attends to, itself included: bool [T, T]. parents: [T], each before its children."""
    attends = np.eye(len(parents), dtype=bool)
    for token, parent in enumerate(parents.tolist()):
        if parent >= 0:
            attends[token] |= attends[parent]
    return attends


def _check_fit(model: Any, task: CompiledTask) -> None:
    config, longest = model.config, task.info["longest_sequence"]
    largest = int(max(task.tokens.max(), task.targets.max()))
    if largest >= config.vocab_size:
        raise UserError(f"task '{task.name}': has token {largest}, the model's vocabulary {config.vocab_size}")
    if longest > config.max_position_embeddings:
        raise UserError(
            f"task '{task.name}': has sequences of {longest} tokens, the model has {config.max_position_embeddings} "
            "positions"
        )
    window = getattr(config, "sliding_window", None)
    if window is not None and longest > window:
        raise UserError(
            f"task '{task.name}': has sequences of {longest} tokens, beyond the model's sliding window {window}"
        )
