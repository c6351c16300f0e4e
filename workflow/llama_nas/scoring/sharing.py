"""What sub-networks have in common: those that agree on their first k kept layers share the hidden states after them.

In sorted order a network shares its longest beginning with the one before it, so a plan is a sequence of networks, each
with the depth at which it leaves the path of the one before, as in `tasks/trie.py` for tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile

from llama_nas.core.shape import Block, Subnet

Edge = tuple[int, Block]  # a layer as a block


@dataclass(frozen=True)
class Step:
    """Compute one network, starting from the hidden states after its first `start` kept layers."""

    network: int  # index in the population
    edges: tuple[Edge, ...]
    start: int
    branches: frozenset[int]  # depths of this network's path at which a later network starts


def plan(subnets: Sequence[Subnet]) -> list[Step]:
    """An order of the networks in which each distinct beginning is computed once."""
    order = sorted(range(len(subnets)), key=lambda i: (path(subnets[i]), i))
    paths = [path(subnets[i]) for i in order]
    starts = [0] + [_common(first, second) for first, second in pairwise(paths)]
    steps: list[Step] = []
    branches: frozenset[int] = frozenset()
    for i in reversed(range(len(order))):
        steps.append(Step(order[i], paths[i], starts[i], branches))
        # Later networks can start only where this one does, or shallower.
        branches = frozenset(depth for depth in branches if depth < starts[i]) | {starts[i]}
    return steps[::-1]


def path(subnet: Subnet) -> tuple[Edge, ...]:
    """Kept layers in order, each with its block."""
    return tuple((layer, block) for layer, block in enumerate(subnet.blocks) if block is not None)


def _common(first: Sequence[Edge], second: Sequence[Edge]) -> int:
    """Length of the common beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def layer_passes(steps: Sequence[Step]) -> int:
    """How many applications of a layer a plan takes."""
    return sum(len(step.edges) - step.start for step in steps)
