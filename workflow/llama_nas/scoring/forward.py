"""Log-likelihoods of requests for sub-networks of an elastic model: the hot path of the search.

Each distinct token is computed once per network (`tasks/trie.py`), and each distinct beginning of the networks once per
token (`sharing.py`): a group of tokens is taken through the networks layer by layer. The layers are the stock ones;
what they take for their key/value cache hands them the keys and values of a chunk's stem, and a mask says which tokens
are ancestors. The vocabulary head is applied only where a token is scored.

Shapes depend neither on the memory nor on which networks are scored together, so the results do not, either.

Shape suffixes: T tokens of a group, Q tokens of a chunk, K tokens of its stem and its own, D hidden size, S scored
positions, U distinct scored tokens, V vocabulary, H key/value heads, E their size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch

from llama_nas.core.errors import UserError
from llama_nas.core.progress import track
from llama_nas.core.shape import Subnet
from llama_nas.models.elastic import active, full_network, set_block
from llama_nas.scoring.sharing import Edge, Step, plan
from llama_nas.tasks.format import CompiledTask
from llama_nas.tasks.trie import Group, TokenTrie

HEAD_ROWS = 512  # scored tokens whose logits are in memory at once


@dataclass(frozen=True)
class Scores:
    """What N networks gave on R requests, and what it cost."""

    log_likelihoods: np.ndarray  # [N, R] fp64, natural logarithm
    greedy: np.ndarray  # [N, R] bool: every scored token was the most likely one
    layer_passes: int  # applications of a layer to a group of tokens
    unshared_layer_passes: int  # the same if every network were computed on its own


def score_task(
    model: Any, task: CompiledTask, subnets: Sequence[Subnet | None], state_bytes: int | None = None
) -> Scores:
    """Score every request of a compiled task for every sub-network (None: the full one); see `score_trie`."""
    full = full_network(model)
    networks = [full if subnet is None else subnet for subnet in subnets]
    return score_trie(model, task.trie, task.num_requests, networks, label=task.name, state_bytes=state_bytes)


@torch.inference_mode()
def score_trie(
    model: Any,
    trie: TokenTrie,
    num_requests: int,
    subnets: Sequence[Subnet],
    *,
    label: str,
    state_bytes: int | None = None,
) -> Scores:
    """Score every request of a trie for every sub-network.

    model: from `elastic.load_elastic`; or any Hugging Face model of the Llama family, for its full network alone. On
    return the full network is active. state_bytes: bound on the hidden states kept for networks still to come, by
    default half of the free memory of the model's device; beyond it they are computed again. Log-softmax in fp32, sums
    in fp64. Raises UserError if the trie has tokens or positions that the model has not.
    """
    _check_fit(model, trie, label)
    steps = plan(subnets)
    limit = _free_memory(model.device) // 2 if state_bytes is None else state_bytes
    sums = np.zeros((len(subnets), num_requests))
    greedy = np.ones((len(subnets), num_requests), dtype=bool)
    passes = 0

    def work() -> Iterator[tuple[int, GroupRun, torch.Tensor]]:
        nonlocal passes
        for group in trie.groups():
            run = GroupRun(model, group)
            for network, state_TD in hidden_states(run, steps, limit):
                yield network, run, state_TD
            passes += run.layer_passes

    with active(model, None):
        for network, run, state_TD in track(work(), len(steps) * trie.num_groups, f"{label}: networks x token groups"):
            log_probabilities_S, is_top_S = run.head(state_TD)
            sums[network] += np.bincount(run.group.requests, log_probabilities_S, num_requests)
            greedy[network, run.group.requests[~is_top_S]] = False
    return Scores(sums, greedy, passes, trie.num_groups * sum(len(step.edges) for step in steps))


def hidden_states(run: GroupRun, steps: Sequence[Step], limit: int) -> Iterator[tuple[int, torch.Tensor]]:
    """Each network of the plan with its last hidden states on the group, in the plan's order.

    Keeps the states of the current path where a later network branches off, as long as they take at most `limit` bytes
    together. The shallowest go first: they are needed last, and cost least to compute again.
    """
    kept: dict[int, torch.Tensor] = {}  # by depth, ascending
    for step in steps:
        kept = {depth: state for depth, state in kept.items() if depth <= step.start}
        first = max(kept, default=0)
        state = kept[first] if kept else run.embed()
        for depth in range(first, len(step.edges) + 1):
            if depth not in step.branches:
                kept.pop(depth, None)
            elif depth and depth not in kept:
                kept[depth] = state
                while sum(tensor.nbytes for tensor in kept.values()) > limit:
                    del kept[min(kept)]
            if depth < len(step.edges):
                state = run.apply(step.edges[depth], state, in_place=depth not in kept)
        yield step.network, state


@dataclass(frozen=True)
class _Chunk:
    """A chunk's tensors; the same for all layers and networks."""

    span: slice  # its tokens in the group
    mask: torch.Tensor  # [1, 1, Q, K] added to the attention scores: 0 for ancestors and the token itself, else -inf
    cos_sin: tuple[torch.Tensor, torch.Tensor]  # rotary embeddings, [1, Q, E] each
    stem: torch.Tensor | None  # slots of the stem's keys and values
    saved: torch.Tensor | None  # tokens of this chunk, counted from its first, that are in later stems ...
    slots: torch.Tensor | None  # ... and their slots


class GroupRun:
    """A group of tokens on the model's device, and what the model's parts do to it."""

    def __init__(self, model: Any, group: Group) -> None:
        self.model, self.group = model, group
        self.layer_passes = 0
        self._tokens = self._tensor(group.tokens)[None]
        rows, row_of_score = np.unique(group.rows, return_inverse=True)
        self._rows, self._row_of_score, self._targets = map(self._tensor, (rows, row_of_score, group.targets))
        # Scored positions of each block of rows: both ascend.
        self._blocks = np.searchsorted(row_of_score, np.arange(0, len(rows) + HEAD_ROWS, HEAD_ROWS)).tolist()
        self._chunks = self._make_chunks()

    def embed(self) -> torch.Tensor:
        """The first layer's input, [1, T, D]."""
        return self.model.model.embed_tokens(self._tokens)

    def apply(self, edge: Edge, state_TD: torch.Tensor, in_place: bool) -> torch.Tensor:
        """One layer as one block on all tokens, [1, T, D] to [1, T, D]."""
        layer = self.model.model.layers[edge[0]]
        set_block(layer, edge[1])
        result_TD = state_TD if in_place else torch.empty_like(state_TD)
        stems = _Stems(self._num_slots)
        for chunk in self._chunks:
            stems.chunk = chunk
            result_TD[:, chunk.span] = layer(
                state_TD[:, chunk.span],
                attention_mask=chunk.mask,
                position_embeddings=chunk.cos_sin,
                past_key_values=stems,
            )
        self.layer_passes += 1
        return result_TD

    def head(self, state_TD: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Log-probability of every scored token, and whether it is the most likely one; both [S]."""
        hidden_UD = self.model.model.norm(state_TD[0, self._rows])
        log_probabilities, is_top = [], []
        for first, (start, stop) in enumerate(zip(self._blocks[:-1], self._blocks[1:], strict=True)):
            block = slice(first * HEAD_ROWS, (first + 1) * HEAD_ROWS)
            logits_UV = self.model.lm_head(hidden_UD[block]).float()
            rows_S, targets_S = self._row_of_score[start:stop] - block.start, self._targets[start:stop]
            log_probabilities.append(logits_UV[rows_S, targets_S] - torch.logsumexp(logits_UV, dim=-1)[rows_S])
            is_top.append(logits_UV.argmax(dim=-1)[rows_S] == targets_S)
        return torch.cat(log_probabilities).cpu().numpy(), torch.cat(is_top).cpu().numpy()

    def _make_chunks(self) -> list[_Chunk]:
        group = self.group
        stems = [group.stem(span) for span in group.chunks()]
        shared = np.unique(np.concatenate(stems))
        self._num_slots = len(shared)
        ends = self._tensor(group.ends)
        cos, sin = self.model.model.rotary_emb(self.embed(), self._tensor(group.positions)[None])
        chunks = []
        for span, stem in zip(group.chunks(), stems, strict=True):
            own = np.arange(span.start, span.stop)
            saved = np.intersect1d(own, shared)
            queries_Q, keys_K = self._tensor(own)[:, None], self._tensor(np.concatenate([stem, own]))
            attends_QK = (keys_K <= queries_Q) & (queries_Q < ends[keys_K])
            mask_QK = torch.zeros(attends_QK.shape, dtype=self.model.dtype, device=ends.device)
            chunks.append(
                _Chunk(
                    span,
                    mask_QK.masked_fill_(~attends_QK, -torch.inf)[None, None],
                    (cos[:, span], sin[:, span]),
                    self._tensor(np.searchsorted(shared, stem)) if len(stem) else None,
                    self._tensor(saved - span.start) if len(saved) else None,
                    self._tensor(np.searchsorted(shared, saved)) if len(saved) else None,
                )
            )
        return chunks

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values.astype(np.int64)).to(self.model.device)


class _Stems:
    """What a layer takes for its key/value cache while it is applied to the chunks of a group, in order.

    `update` is all that transformers' attention asks of a cache: it is given a chunk's keys and values and returns all
    that the chunk attends to.
    """

    chunk: _Chunk

    def __init__(self, num_slots: int) -> None:
        self._num_slots = num_slots
        self._stored: tuple[torch.Tensor, ...] | None = None  # keys and values of tokens in stems, [1, H, slots, E]

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: Any) -> tuple[torch.Tensor, ...]:
        if not self._num_slots:
            return keys, values
        fresh = keys, values  # [1, H, Q, E]
        if self._stored is None:
            self._stored = tuple(new.new_empty(*new.shape[:2], self._num_slots, new.shape[3]) for new in fresh)
        pairs = list(zip(self._stored, fresh, strict=True))
        if self.chunk.saved is not None:
            for stored, new in pairs:
                stored[:, :, self.chunk.slots] = new[:, :, self.chunk.saved]
        if self.chunk.stem is None:
            return fresh
        return tuple(torch.cat([stored[:, :, self.chunk.stem], new], dim=2) for stored, new in pairs)


def _free_memory(device: torch.device) -> int:
    """Bytes."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def _check_fit(model: Any, trie: TokenTrie, label: str) -> None:
    config, longest = model.config, int(trie.positions.max()) + 1
    largest = int(max(trie.tokens.max(), trie.targets.max()))
    if largest >= config.vocab_size:
        raise UserError(f"{label}: has token {largest}, the model's vocabulary {config.vocab_size}")
    if longest > config.max_position_embeddings:
        raise UserError(
            f"{label}: has sequences of {longest} tokens, the model has {config.max_position_embeddings} positions"
        )
    window = getattr(config, "sliding_window", None)
    if window is not None and longest > window:
        raise UserError(f"{label}: has sequences of {longest} tokens, beyond the model's sliding window {window}")
