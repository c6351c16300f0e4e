"""Costs of networks that are sums over their layers, and hence known exactly of every network before it is evaluated.

A cost that a search can minimise is a name and a unit here. Its values are arithmetic (`parameters`, `size`), or stand
in a table that a stage measured, one file per cost (`llama-nas measure-costs`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llama_nas.core.artifacts import read_json, write_json
from llama_nas.core.errors import UserError
from llama_nas.core.space import SearchSpace

UNITS = {"parameters": "", "size": "B", "latency": "s"}


@dataclass(frozen=True)
class LayerCosts:
    """A cost of the model without layers, and of one layer as each of the space's blocks."""

    name: str  # a key of UNITS
    without: float
    of_block: tuple[float, ...]

    def write(self, path: Path, space: SearchSpace, about: dict[str, Any]) -> None:
        """Write the table with the space's shape and blocks. about: how it was measured."""
        table = {"cost": self.name, "unit": UNITS[self.name], "without": self.without, "of_block": list(self.of_block)}
        declared = {"blocks": [asdict(block) for block in space.blocks], "shape": asdict(space.shape)}
        write_json(path, table | declared | about)

    @classmethod
    def read(cls, name: str, path: Path, space: SearchSpace) -> LayerCosts:
        """A measured table; raises UserError if it is not of this cost, model and blocks, or cannot be right."""
        table = read_json(path)
        try:
            costs = cls(str(table["cost"]), float(table["without"]), tuple(map(float, table["of_block"])))
            shape, blocks = table["shape"], table["blocks"]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: not a table of layer costs ({error}); measure it again") from None
        if costs.name != name:
            raise UserError(f"{path}: is a table of {costs.name}, not of {name}")
        if shape != asdict(space.shape):
            raise UserError(f"{path}: was measured on a model of another shape; run `llama-nas measure-costs` again")
        if len(costs.of_block) != len(space.blocks) or blocks != [asdict(block) for block in space.blocks]:
            raise UserError(
                f"{path}: was measured on other blocks than the space's; run `llama-nas measure-costs` again"
            )
        if min(costs.of_block) <= 0:
            raise UserError(
                f"{path}: a layer that takes {min(costs.of_block):.1e} {UNITS[name]} is noise; delete the file and "
                "measure on an idle machine, or with more costs.repeats or a larger costs.batch_size"
            )
        return costs
