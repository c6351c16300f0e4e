"""Settings that several stages take: each field is an option of the command line."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Compute:
    """Where a stage computes.

    Args:
        device: the processor, or a GPU
        threads: compute threads on the processor; they are part of the result's identity
    """

    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1


@dataclass(frozen=True)
class TrieBounds:
    """How many tokens are computed together (`tasks/trie.py`).

    Args:
        chunk_tokens: tokens a layer is applied to at once
        group_tokens: tokens taken through the network together, chunk by chunk
    """

    chunk_tokens: int = 512
    group_tokens: int = 32768
