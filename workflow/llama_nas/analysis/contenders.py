"""Whatever a summary compares: the base, the full super-network, members of the front, checkpoints of other methods.

What each of them is, in words and in figures, stands here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from llama_nas.core.artifacts import read_json
from llama_nas.core.errors import UserError
from llama_nas.core.layout import PRETRAINED
from llama_nas.core.shape import ModelShape, Subnet, network_of
from llama_nas.core.space import SearchSpace

# In the order of a table's rows.
BASE, FULL, MEMBER, OTHER = ROLES = ("pretrained", "full", "member", "other")
LABELS = {BASE: "pre-trained base", FULL: "full-size super-network"}  # the others are known by their names
OURS = (FULL, MEMBER)  # networks of the super-network


@dataclass(frozen=True)
class Contender:
    """A model folder with a name, a label and a size."""

    name: str  # in file names: `pretrained`, a subnet id, or that of a checkpoint in the config
    role: str
    folder: Path
    shape: ModelShape
    network: Subnet

    @property
    def label(self) -> str:
        """What the page calls it."""
        return LABELS.get(self.role, self.name)

    @property
    def parameters(self) -> int:
        """Exact parameter count."""
        return self.shape.parameters(self.network)

    def size_bytes(self, precision: str) -> int:
        """Bytes of the weights in a precision, by arithmetic."""
        return self.shape.size_bytes(self.network, precision)


def read_contenders(texts: Sequence[str], space: SearchSpace) -> dict[str, Contender]:
    """By name, in order, from `NAME=FOLDER` each; raises UserError for one without a config.json."""
    found = {}
    for text in texts:
        name, _, folder = text.partition("=")
        if not name or not folder:
            raise UserError(f"--contenders '{text}': expected NAME=FOLDER")
        shape, network = ModelShape.from_folder(folder), network_of(read_json(Path(folder, "config.json")))
        found[name] = Contender(name, _role(name, space), Path(folder), shape, network)
    return found


def _role(name: str, space: SearchSpace) -> str:
    if name == PRETRAINED:
        return BASE
    if name == space.id(space.full):
        return FULL
    try:
        space.parse(name)
    except UserError:
        return OTHER
    return MEMBER


def of_role(table: pd.DataFrame, *roles: str) -> pd.DataFrame:
    """The rows of a summary that are about contenders of these roles."""
    return table[table["role"].isin(roles)]
