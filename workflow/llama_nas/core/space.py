"""The search space: which networks there are, as genotypes, as ids and as the file `space.json`.

A *sub-network* keeps some layers of the base model, each as one of the space's blocks (paper, Table 1). Every stage
after the base model reads the space from results/space.json, which the stage `declare-space` writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llama_nas.core.artifacts import read_json, write_json
from llama_nas.core.errors import UserError
from llama_nas.core.shape import Block, ModelShape, Subnet
from llama_nas.core.units import format_bytes, parse_size

Genotype = tuple[int, ...]

DROPPED = "x"
BLOCK_CODES = "0123456789abcdefghijklmnopqrstuvwyz"  # one character per block index; `x` means dropped
# Snakemake refuses a wildcard value whose end repeats 20 times or more. In groups of eight no id of a model with up to
# 128 layers does, whatever its blocks.
ID_GROUP = 8
MEASURED_ORDER = "importance"


def declare_space(
    output: Path,
    *,
    model: Path,
    depths: Sequence[int],
    widths: Sequence[int],
    depth_selection: str = "first",
    layer_order: Path | None = None,
) -> None:
    """Check the declared space against the base model and write it as JSON: what every later stage reads.

    Args:
        model: the base model's folder
        depths: layer counts of the space, ascending
        widths: MLP widths of the space, full width first; append-only, as ids count positions in this list
        depth_selection: which layers a depth keeps: first, even, importance, or the layers to drop, joined by commas
        layer_order: JSON of `llama-nas order-layers`, for depth selection importance
        output: space.json
    """
    if depth_selection == MEASURED_ORDER:
        if layer_order is None:
            raise UserError("--layer-order: is missing; depth selection importance is read from it")
        measured = read_json(layer_order)
        if "layer_order" not in measured:
            raise UserError(f"{layer_order}: key layer_order is missing; expected a file of `llama-nas order-layers`")
        depth_selection = ",".join(map(str, measured["layer_order"]))
    SearchSpace.declare(ModelShape.from_folder(model), depths, widths, depth_selection).write(output)


@dataclass(frozen=True)
class SearchSpace:
    """All networks that keep the layers of one entry of `kept`, each layer as any of `blocks`.

    Args:
        blocks: what a layer can be; the first is the layer as it is in the base model
        kept: the base layers that a network of each depth keeps, depths ascending

    A genotype is (depth index, block index of layer 0, ..., of layer num_layers-1). Genes of dropped layers do not
    exist in the network: the canonical genotype has 0 there.
    """

    shape: ModelShape
    blocks: tuple[Block, ...]
    kept: tuple[tuple[int, ...], ...]

    @classmethod
    def declare(
        cls, shape: ModelShape, depths: Sequence[int], widths: Sequence[int], depth_selection: str = "first"
    ) -> SearchSpace:
        """The space of these layer counts and MLP widths on a model; raises UserError naming the config key."""
        layers, width = shape.num_hidden_layers, shape.intermediate_size
        if not depths or sorted(set(depths)) != list(depths):
            raise UserError(f"config.yaml: space.depths {list(depths)} must be distinct and ascending")
        if depths[0] < 1 or depths[-1] > layers:
            raise UserError(
                f"config.yaml: space.depths {list(depths)} must lie in 1..{layers}, the model's layer count"
            )
        if not widths or len(set(widths)) != len(widths) or len(widths) > len(BLOCK_CODES):
            raise UserError(f"config.yaml: space.widths {list(widths)} must be 1 to {len(BLOCK_CODES)} distinct widths")
        if widths[0] != width:
            raise UserError(
                f"config.yaml: space.widths must start with the model's full MLP width {width}, not {widths[0]}"
            )
        if min(widths) < 1 or max(widths) > width:
            raise UserError(f"config.yaml: space.widths {list(widths)} must lie in 1..{width}, the model's MLP width")
        kept = tuple(kept_layers(depth_selection, depth, layers) for depth in depths)
        return cls(shape, tuple(Block(mlp_width=width) for width in widths), kept)

    @classmethod
    def read(cls, path: Path) -> SearchSpace:
        """Read space.json; raises UserError if it is not one."""
        return cls.from_stored(read_json(path), path)

    @classmethod
    def from_stored(cls, stored: dict[str, Any], path: Path) -> SearchSpace:
        """The space of the contents of space.json; path: for what is said of wrong ones."""
        try:
            blocks = tuple(Block(**block) for block in stored["blocks"])
            kept = tuple(tuple(depth["kept_layers"]) for depth in stored["depths"])
            return cls(ModelShape(**stored["shape"]), blocks, kept)
        except (KeyError, TypeError) as error:
            raise UserError(f"{path}: not a file written by `llama-nas declare-space` ({error})") from None

    def write(self, path: Path) -> None:
        """Write space.json."""
        depths = [{"layers": len(kept), "kept_layers": list(kept)} for kept in self.kept]
        write_json(
            path, {"shape": asdict(self.shape), "blocks": [asdict(block) for block in self.blocks], "depths": depths}
        )

    def check_model(self, folder: Path) -> None:
        """Raise UserError if the model in a folder has another shape than the space was declared on."""
        if ModelShape.from_folder(folder) != self.shape:
            raise UserError(f"{folder}: its config.json has another shape than the space was declared on")

    @property
    def num_layers(self) -> int:
        """Layers of the base model."""
        return self.shape.num_hidden_layers

    @property
    def depths(self) -> tuple[int, ...]:
        """Layer counts, ascending."""
        return tuple(map(len, self.kept))

    @property
    def bounds(self) -> np.ndarray:
        """Number of values of each gene, int [1 + num_layers]."""
        return np.array([len(self.kept)] + [len(self.blocks)] * self.num_layers)

    @property
    def num_networks(self) -> int:
        """Distinct networks of the space."""
        return sum(len(self.blocks) ** len(kept) for kept in self.kept)

    @property
    def full(self) -> Subnet:
        """The largest network: every layer as in the base, whether or not the space lists that depth."""
        return Subnet((self.blocks[0],) * self.num_layers)

    @property
    def smallest(self) -> Subnet:
        """The smallest depth with the smallest block in every layer."""
        return self.subnet((0, *[self.blocks_by_size[0]] * self.num_layers))

    @cached_property
    def blocks_by_size(self) -> tuple[int, ...]:
        """Indices of the blocks, fewest parameters first."""
        sizes = [self.shape.parameters(Subnet((block,))) for block in self.blocks]
        return tuple(sorted(range(len(sizes)), key=lambda i: sizes[i]))

    def canonical(self, genotype: Sequence[int]) -> Genotype:
        """The genotype with the genes of dropped layers reset to 0: equal for equal networks."""
        depth, *genes = (int(gene) for gene in genotype)
        kept = set(self.kept[depth])
        return (depth, *(gene if i in kept else 0 for i, gene in enumerate(genes)))

    def subnet(self, genotype: Sequence[int]) -> Subnet:
        """The network that a genotype means."""
        depth, *genes = (int(gene) for gene in genotype)
        kept = set(self.kept[depth])
        return Subnet(tuple(self.blocks[gene] if i in kept else None for i, gene in enumerate(genes)))

    def genotype(self, subnet: Subnet) -> Genotype:
        """Canonical genotype; raises UserError if the network is not in the space."""
        if subnet.kept not in self.kept:
            raise UserError(f"sub-network keeps layers {subnet.kept}, which is none of the space's choices")
        return (
            self.kept.index(subnet.kept),
            *(0 if block is None else self.blocks.index(block) for block in subnet.blocks),
        )

    def id(self, subnet: Subnet) -> str:
        """Reversible name, one character per base layer: `x` dropped, else the index of its block in `blocks`."""
        codes = (DROPPED if block is None else BLOCK_CODES[self.blocks.index(block)] for block in subnet.blocks)
        return grouped("".join(codes))

    def parse(self, subnet_id: str) -> Subnet:
        """The network an id means; any set of kept layers is allowed, as an id can be exported without a search.

        Raises UserError with what would be right.
        """
        codes = BLOCK_CODES[: len(self.blocks)]
        letters = ungrouped(subnet_id)
        if any(code != DROPPED and code not in codes for code in letters) or len(letters) != self.num_layers:
            raise UserError(
                f"subnet id '{subnet_id}' is not valid here: expected {self.num_layers} characters in groups of "
                f"{ID_GROUP}, as {self.id(self.full)}, each '{DROPPED}' (dropped) or one of '{codes}' (a block's index)"
            )
        if subnet_id != grouped(letters):
            raise UserError(f"subnet id '{subnet_id}' must be written {grouped(letters)}, in groups of {ID_GROUP}")
        if set(letters) == {DROPPED}:
            raise UserError(f"subnet id '{subnet_id}' drops every layer")
        return Subnet(tuple(None if code == DROPPED else self.blocks[codes.index(code)] for code in letters))

    def random(self, rng: np.random.Generator) -> Genotype:
        """Uniform per gene, not canonical (DyNAS-T `random_sample`)."""
        return tuple(int(gene) for gene in rng.integers(0, self.bounds))


def check_max_size(max_size: str, precision: str, space: SearchSpace) -> int:
    """The limit in bytes; raises UserError if it is no size or no network of the space is that small."""
    limit = parse_size(max_size, "config.yaml: search.max_size")
    smallest = space.shape.size_bytes(space.smallest, precision)
    if limit < smallest:
        raise UserError(
            f"config.yaml: search.max_size {max_size}: the smallest network of the space has "
            f"{format_bytes(smallest)} in {precision}"
        )
    return limit


def grouped(codes: str) -> str:
    """One character per layer as a subnet id: `000011110xxx` -> `00001111-0xxx`."""
    return "-".join(codes[i : i + ID_GROUP] for i in range(0, len(codes), ID_GROUP))


def ungrouped(subnet_id: str) -> str:
    """A subnet id as one character per layer."""
    return subnet_id.replace("-", "")


def full_id(subnet_id: str) -> str:
    """The id of the full network of the model that a subnet id is of."""
    return grouped(BLOCK_CODES[0] * len(ungrouped(subnet_id)))


def kept_layers(depth_selection: str, depth: int, num_layers: int) -> tuple[int, ...]:
    """The base layers that a network of this depth keeps; a smaller depth keeps a subset of what a larger one keeps.

    depth_selection: `first`, layers 0..depth-1, as DyNAS-T does; `even`, the dropped layers lie far from each other
    and from both ends; or layer numbers joined by commas in the order in which layers are dropped.
    """
    count = max(num_layers - depth, 0)
    dropped = set(drop_order(depth_selection, num_layers)[:count])
    if len(dropped) < count:
        raise UserError(
            f"config.yaml: space.depth_selection {depth_selection}: lists {len(dropped)} layers, but a network of "
            f"{depth} layers drops {count}"
        )
    return tuple(layer for layer in range(num_layers) if layer not in dropped)


def drop_order(depth_selection: str, num_layers: int) -> tuple[int, ...]:
    """Layers in the order in which ever shallower networks drop them; raises UserError naming the config key."""
    if depth_selection == "first":
        return tuple(range(num_layers - 1, 0, -1))
    if depth_selection == "even":
        return _even_drop_order(num_layers)
    try:
        order = tuple(int(layer) for layer in depth_selection.split(","))
    except ValueError:
        raise UserError(
            f"config.yaml: space.depth_selection '{depth_selection}' is not known; known: first, even, "
            f"{MEASURED_ORDER}, or a list of layers to drop"
        ) from None
    if len(set(order)) < len(order) or not all(0 <= layer < num_layers for layer in order):
        raise UserError(
            f"config.yaml: space.depth_selection {depth_selection}: must be distinct layers in 0..{num_layers - 1}"
        )
    return order


def _even_drop_order(num_layers: int) -> tuple[int, ...]:
    """Each time the layer farthest from both ends and from all dropped before it, the lower one on ties."""
    order: list[int] = []
    inner = range(1, num_layers - 1)
    while len(order) < len(inner):
        marks = [0, num_layers - 1, *order]
        order.append(max(set(inner) - set(order), key=lambda layer: (min(abs(layer - m) for m in marks), -layer)))
    return (*order, num_layers - 1)
