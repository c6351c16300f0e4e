"""A radix tree over all token sequences of a task, cut for computing: each distinct prefix is one token of the tree.

Tokens are in pre-order, so that the descendants of a token are the tokens right after it, and one number per token
says the whole ancestor relation: token `a` is an ancestor of `b`, or `b` itself, if `a <= b < ends[a]`.

Two cuts, both fixed when the task is compiled: a *group* is what is computed layer after layer, complete in itself (a
prefix that two groups share is in both); a *chunk* is what one layer is applied to at once. A chunk's tokens attend to
each other and to its *stem*: the ancestors of its first token, which lie in earlier chunks of the group. No other
token of an earlier chunk can be an ancestor of one of its tokens.

Shape suffixes: T tokens, S scored positions, C chunks, G groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True)
class Scored:
    """A token sequence of a request: the model reads `tokens`; its last len(targets) outputs predict `targets`."""

    request: int
    tokens: tuple[int, ...]
    targets: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """One group, its indices counted from its own first token."""

    tokens: np.ndarray  # [T]
    positions: np.ndarray  # [T] position in the sequence
    ends: np.ndarray  # [T] index after the last descendant
    chunk_starts: np.ndarray  # [C + 1]
    rows: np.ndarray  # [S] index of the token whose logits predict, ascending
    targets: np.ndarray  # [S] the token predicted there
    requests: np.ndarray  # [S] the request its log-probability counts for

    def chunks(self) -> Iterator[slice]:
        for start, stop in pairwise(self.chunk_starts.tolist()):
            yield slice(start, stop)

    def stem(self, chunk: slice) -> np.ndarray:
        """The ancestors of the chunk's first token, ascending."""
        return np.flatnonzero(self.ends[: chunk.start] > chunk.start)


@dataclass(frozen=True)
class TokenTrie:
    """All arrays are integers; token indices count through all groups."""

    tokens: np.ndarray  # [T]
    positions: np.ndarray  # [T]
    ends: np.ndarray  # [T]
    group_starts: np.ndarray  # [G + 1] first token of each group
    chunk_starts: np.ndarray  # [C + 1] first token of each chunk; every group starts a chunk
    rows: np.ndarray  # [S], ascending
    targets: np.ndarray  # [S]
    requests: np.ndarray  # [S]

    @property
    def num_groups(self) -> int:
        return len(self.group_starts) - 1

    @property
    def num_chunks(self) -> int:
        return len(self.chunk_starts) - 1

    def of_requests(self, kept: np.ndarray, chunk_tokens: int) -> TokenTrie:
        """The trie of some requests, renumbered from 0. kept: their numbers, ascending."""
        scored = np.isin(self.requests, kept)
        is_row = np.zeros(len(self.tokens) + 1, dtype=np.int64)
        is_row[self.rows[scored] + 1] = 1
        rows_before = np.cumsum(is_row)  # a token stays if it or a descendant is a row
        stays = rows_before[self.ends] > rows_before[:-1]
        new_index = offsets(stays.astype(np.int64))
        group_starts = np.unique(new_index[self.group_starts])  # a group may have vanished
        return TokenTrie(
            tokens=self.tokens[stays],
            positions=self.positions[stays],
            ends=new_index[self.ends[stays]],
            group_starts=group_starts,
            chunk_starts=_chunk_starts(group_starts, chunk_tokens),
            rows=new_index[self.rows[scored]],
            targets=self.targets[scored],
            requests=np.searchsorted(kept, self.requests[scored]).astype(np.int32),
        )

    def groups(self) -> Iterator[Group]:
        for start, stop in pairwise(self.group_starts):
            first, last = np.searchsorted(self.chunk_starts, [start, stop])
            scored = slice(*np.searchsorted(self.rows, [start, stop]))
            yield Group(
                self.tokens[start:stop],
                self.positions[start:stop],
                self.ends[start:stop] - start,
                self.chunk_starts[first : last + 1] - start,
                self.rows[scored] - start,
                self.targets[scored],
                self.requests[scored],
            )


def build_trie(sequences: Iterable[Scored], chunk_tokens: int, group_tokens: int) -> TokenTrie:
    """The tree of all sequences, in groups of at most `group_tokens` and chunks of at most `chunk_tokens` tokens.

    A group ends between two sequences: in the latter half of the bound, where the two share least. Only a sequence
    longer than the bound makes a larger group.
    """
    ordered = sorted(sequences, key=lambda sequence: (sequence.tokens, sequence.request))
    arrays = [np.array(sequence.tokens, dtype=np.int32) for sequence in ordered]
    shared = [0] + [_common_prefix(first, second) for first, second in pairwise(arrays)]
    lengths = [len(array) for array in arrays]
    bounds = _group_bounds(lengths, shared, group_tokens)
    builders = [_grow(ordered[a:b], shared[a:b]) for a, b in pairwise(bounds)]

    starts = offsets([len(builder.tokens) for builder in builders])
    scored = [
        sorted((row + start, target, request) for row, target, request in builder.scored)
        for builder, start in zip(builders, starts.tolist(), strict=False)
    ]
    # Contiguous: safetensors writes the memory of an array, not what a view of it means.
    rows, targets, requests = np.array([entry for group in scored for entry in group], dtype=np.int64).T.copy()
    return TokenTrie(
        tokens=np.concatenate([builder.tokens for builder in builders]).astype(np.int32),
        positions=np.concatenate([builder.positions for builder in builders]).astype(np.int32),
        ends=np.concatenate([np.array(b.ends) + start for b, start in zip(builders, starts, strict=False)]),
        group_starts=starts,
        chunk_starts=_chunk_starts(starts, chunk_tokens),
        rows=rows,
        targets=targets.astype(np.int32),
        requests=requests.astype(np.int32),
    )


def _common_prefix(first: np.ndarray, second: np.ndarray) -> int:
    length = min(len(first), len(second))
    different = first[:length] != second[:length]
    return int(different.argmax()) if different.any() else length


def _group_bounds(lengths: Sequence[int], shared: Sequence[int], group_tokens: int) -> list[int]:
    """Indices of the sequences that start a group, and the number of sequences."""
    common = np.array(shared)
    new = offsets(np.array(lengths) - common)
    bounds = [0]
    while bounds[-1] < len(lengths):
        first = bounds[-1]
        sizes = new[first + 1 :] - new[first] + common[first]  # of a group from `first` to each later sequence
        fitting = max(int(np.searchsorted(sizes, group_tokens, side="right")), 1)
        if fitting == len(sizes):
            bounds.append(len(lengths))
            continue
        half_full = int(np.searchsorted(sizes, group_tokens / 2)) + 1
        choices = range(first + min(half_full, fitting), first + fitting + 1)
        bounds.append(min(choices, key=lambda i: (shared[i], -i)))
    return bounds


class _Grown:
    """A group that has grown by all its sequences."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.ends: list[int] = []
        self.scored: list[tuple[int, int, int]] = []  # row, target, request


def _grow(sequences: Sequence[Scored], shared: Sequence[int]) -> _Grown:
    """In sorted order a sequence shares its longest prefix with the one before it, so looking back once is enough."""
    group = _Grown()
    path: list[int] = []  # tokens of the last sequence, as indices into the group
    for i, (sequence, common) in enumerate(zip(sequences, shared, strict=True)):
        del path[common if i else 0 :]
        for position in range(len(path), len(sequence.tokens)):
            path.append(len(group.tokens))
            group.tokens.append(sequence.tokens[position])
            group.positions.append(position)
        rows = path[len(sequence.tokens) - len(sequence.targets) :]
        group.scored += [(row, target, sequence.request) for row, target in zip(rows, sequence.targets, strict=True)]
    group.ends = _ends(group.positions)
    return group


def _ends(positions: Sequence[int]) -> list[int]:
    """The index after each token's last descendant: the next token that is not deeper."""
    ends = [0] * len(positions)
    open_tokens: list[int] = []
    for i, position in enumerate(positions):
        while open_tokens and positions[open_tokens[-1]] >= position:
            ends[open_tokens.pop()] = i
        open_tokens.append(i)
    for i in open_tokens:
        ends[i] = len(positions)
    return ends


def _chunk_starts(group_starts: np.ndarray, chunk_tokens: int) -> np.ndarray:
    chunks = [np.arange(start, stop, chunk_tokens) for start, stop in pairwise(group_starts)]
    return np.concatenate([*chunks, group_starts[-1:]])


def offsets(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """Where each of some adjacent parts starts, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
