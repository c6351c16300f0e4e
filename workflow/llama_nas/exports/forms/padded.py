"""The form padded: MLPs filled up with zeros to the widest layer, so that any widths make a plain Llama.

silu(0) * 0 = 0: the zeros change no result.
"""

from __future__ import annotations

from llama_nas.core.shape import Block, Subnet
from llama_nas.exports.forms.hf import config, files, loading, requires

__all__ = ["config", "files", "loading", "requires", "stored"]


def stored(subnet: Subnet) -> Subnet:
    widest = Block(mlp_width=max(subnet.widths))
    return Subnet(tuple(None if block is None else widest for block in subnet.blocks))
