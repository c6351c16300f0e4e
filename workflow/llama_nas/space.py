"""The search space: genotype <-> network <-> id, and the exact size of every network.

A *sub-network* keeps some layers of the base model and gives each kept layer an MLP width (paper, Table 1).
Size is arithmetic on the model's own config (reference: paper section 4.1, Tables 2-5), never an estimate.
This module imports nothing of the package but the error type, and no torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from llama_nas.errors import UserError

Genotype = tuple[int, ...]

DROPPED = "x"
WIDTH_CODES = "0123456789abcdefghijklmnopqrstuvwyz"  # one character per width index; `x` means dropped
GIB = 2**30
GB = 10**9

BYTES_PER_WEIGHT = {"fp32": 4, "bf16": 2, "fp16": 2}
QUANTIZED = ("int8", "nf4")
PRECISIONS = (*BYTES_PER_WEIGHT, *QUANTIZED)
NF4_BLOCK = 64  # weights that share one fp32 scale
# What transformers takes for a key that config.json leaves out, where it is not the value derived from the others.
DEFAULTS: dict[str, dict[str, int]] = {
    "llama": {},
    "mistral": {"num_key_value_heads": 8},
    "qwen2": {"num_key_value_heads": 32},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128},
}
SUPPORTED_MODEL_TYPES = tuple(DEFAULTS)


@dataclass(frozen=True)
class Subnet:
    """One network: `widths[i]` is the MLP width of base layer i, or None where the layer is dropped."""

    widths: tuple[int | None, ...]

    @property
    def kept(self) -> tuple[int, ...]:
        """Indices of the kept base layers, ascending."""
        return tuple(i for i, width in enumerate(self.widths) if width is not None)

    @property
    def layers(self) -> int:
        return len(self.kept)

    @property
    def kept_widths(self) -> tuple[int, ...]:
        """MLP width of each kept layer, in order."""
        return tuple(width for width in self.widths if width is not None)


@dataclass(frozen=True)
class ModelShape:
    """What the size of a Llama-family model depends on, read from its `config.json`."""

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False

    @classmethod
    def from_config(cls, config: dict) -> ModelShape:
        """Read a Hugging Face config dict; raises UserError for an architecture this project does not know."""
        model_type = config.get("model_type", "<missing>")
        if model_type not in SUPPORTED_MODEL_TYPES:
            raise UserError(
                f"config.json: model_type '{model_type}' is not supported; known: {', '.join(SUPPORTED_MODEL_TYPES)}"
            )
        config = {**DEFAULTS[model_type], **config}
        heads = config["num_attention_heads"]
        return cls(
            model_type=model_type,
            hidden_size=config["hidden_size"],
            intermediate_size=config["intermediate_size"],
            num_hidden_layers=config["num_hidden_layers"],
            num_attention_heads=heads,
            num_key_value_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            vocab_size=config["vocab_size"],
            tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
            attention_bias=bool(config.get("attention_bias", False)),
            mlp_bias=bool(config.get("mlp_bias", False)),
        )

    @classmethod
    def from_folder(cls, folder: str | Path) -> ModelShape:
        """Read `folder/config.json`."""
        path = Path(folder) / "config.json"
        try:
            config = json.loads(path.read_text())
        except FileNotFoundError:
            raise UserError(f"{path}: not found; expected a Hugging Face model folder") from None
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: not valid JSON ({error})") from None
        try:
            return cls.from_config(config)
        except KeyError as error:
            raise UserError(f"{path}: key {error} is missing") from None

    def _linears(self, width: int) -> list[tuple[int, int, int]]:
        """(rows, columns, bias entries) of the seven linear maps of a decoder layer with this MLP width.

        Mistral has no bias and Qwen2 biases on q, k and v alone, whatever their configs say; Llama and Qwen3 read
        `attention_bias`, and Llama alone `mlp_bias`.
        """
        queries = self.num_attention_heads * self.head_dim
        keys = self.num_key_value_heads * self.head_dim
        out_bias = self.attention_bias and self.model_type in ("llama", "qwen3")
        qkv_bias = out_bias or self.model_type == "qwen2"
        mlp_bias = self.mlp_bias and self.model_type == "llama"
        return [
            (queries, self.hidden_size, queries * qkv_bias),
            (keys, self.hidden_size, keys * qkv_bias),
            (keys, self.hidden_size, keys * qkv_bias),
            (self.hidden_size, queries, self.hidden_size * out_bias),
            (width, self.hidden_size, width * mlp_bias),
            (width, self.hidden_size, width * mlp_bias),
            (self.hidden_size, width, self.hidden_size * mlp_bias),
        ]

    def _norms_per_layer(self) -> int:
        """Two RMSNorms; Qwen3 also normalises query and key heads."""
        return 2 * self.hidden_size + (2 * self.head_dim if self.model_type == "qwen3" else 0)

    def parameters(self, subnet: Subnet) -> int:
        """Exact parameter count; a tied output head is counted once."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        layers = sum(
            sum(rows * columns + bias for rows, columns, bias in self._linears(width)) + self._norms_per_layer()
            for width in subnet.kept_widths
        )
        return embeddings + self.hidden_size + layers

    def decoder_weights(self, subnet: Subnet) -> int:
        """Entries of the decoder layers' matrices: one multiplication and one addition each per token."""
        return sum(rows * columns for width in subnet.kept_widths for rows, columns, _ in self._linears(width))

    def size_bytes(self, subnet: Subnet, precision: str = "fp16") -> int:
        """Bytes of the weights.

        What bitsandbytes stores, everything but the decoder linears' matrices (embedding, head, norms, biases) at
        2 bytes. `int8`: 1 byte plus one fp32 scale per output row. `nf4`: half a byte plus one fp32 scale per
        NF4_BLOCK weights (QLoRA, arXiv 2305.14314, without double quantization).
        """
        total = self.parameters(subnet)
        if precision in BYTES_PER_WEIGHT:
            return total * BYTES_PER_WEIGHT[precision]
        if precision not in QUANTIZED:
            raise ValueError(f"precision '{precision}' is not one of {', '.join(PRECISIONS)}")
        stored = 0
        for width in subnet.kept_widths:
            for rows, columns, _bias in self._linears(width):
                if precision == "int8":
                    stored += rows * columns + 4 * rows
                else:
                    stored += -(-rows * columns // 2) + 4 * -(-rows * columns // NF4_BLOCK)
        return stored + 2 * (total - self.decoder_weights(subnet))


def kept_layers(depth_selection: str, depth: int, num_layers: int) -> tuple[int, ...]:
    """The base layers that a network of this depth keeps; a smaller depth keeps a subset of what a larger one keeps.

    depth_selection: `first`, layers 0..depth-1, as DyNAS-T does; `even`, the dropped layers lie far from each other
    and from both ends; or layer numbers joined by commas in the order in which layers are dropped, as measured by
    `llama-nas order-layers`.
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
            "or a list of layers to drop"
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


@dataclass(frozen=True)
class SearchSpace:
    """All networks with a layer count from `depths` and per-layer MLP widths from `widths` (full width first).

    A genotype is (depth index, width index of layer 0, ..., of layer num_layers-1). Genes of dropped layers do
    not exist in the network: the canonical genotype has 0 there.
    """

    num_layers: int
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    depth_selection: str = "first"

    @classmethod
    def for_model(
        cls, shape: ModelShape, depths: Sequence[int], widths: Sequence[int], depth_selection: str = "first"
    ) -> SearchSpace:
        """Check the declared space against the model; raises UserError naming the config key."""
        if not depths or sorted(set(depths)) != list(depths):
            raise UserError(f"config.yaml: space.depths {list(depths)} must be distinct and ascending")
        if depths[0] < 1 or depths[-1] > shape.num_hidden_layers:
            raise UserError(
                f"config.yaml: space.depths {list(depths)} must lie in 1..{shape.num_hidden_layers}, "
                "the model's layer count"
            )
        if not widths or len(set(widths)) != len(widths) or len(widths) > len(WIDTH_CODES):
            raise UserError(f"config.yaml: space.widths {list(widths)} must be 1 to {len(WIDTH_CODES)} distinct widths")
        if widths[0] != shape.intermediate_size:
            raise UserError(
                f"config.yaml: space.widths must start with the model's full MLP width {shape.intermediate_size}, "
                f"not {widths[0]}"
            )
        if min(widths) < 1 or max(widths) > shape.intermediate_size:
            raise UserError(
                f"config.yaml: space.widths {list(widths)} must lie in 1..{shape.intermediate_size}, "
                "the model's MLP width"
            )
        kept_layers(depth_selection, depths[0], shape.num_hidden_layers)  # refuses one that it does not know
        return cls(shape.num_hidden_layers, tuple(depths), tuple(widths), depth_selection)

    @cached_property
    def kept(self) -> tuple[tuple[int, ...], ...]:
        """Kept layers for each entry of `depths`."""
        return tuple(kept_layers(self.depth_selection, depth, self.num_layers) for depth in self.depths)

    @property
    def bounds(self) -> np.ndarray:
        """Number of values of each gene, shape [1 + num_layers]."""
        return np.array([len(self.depths)] + [len(self.widths)] * self.num_layers)

    @property
    def num_networks(self) -> int:
        return sum(len(self.widths) ** len(kept) for kept in self.kept)

    @property
    def full(self) -> Subnet:
        """The largest network: every layer at full width, whether or not the space lists that depth."""
        return Subnet((self.widths[0],) * self.num_layers)

    def canonical(self, genotype: Sequence[int]) -> Genotype:
        """The genotype with the genes of dropped layers reset to 0: equal for equal networks."""
        depth, *genes = (int(gene) for gene in genotype)
        kept = set(self.kept[depth])
        return (depth, *(gene if i in kept else 0 for i, gene in enumerate(genes)))

    def subnet(self, genotype: Sequence[int]) -> Subnet:
        depth, *genes = (int(gene) for gene in genotype)
        kept = set(self.kept[depth])
        return Subnet(tuple(self.widths[gene] if i in kept else None for i, gene in enumerate(genes)))

    def genotype(self, subnet: Subnet) -> Genotype:
        """Canonical genotype; raises UserError if the network is not in the space."""
        if subnet.kept not in self.kept:
            raise UserError(f"sub-network keeps layers {subnet.kept}, which is none of the space's choices")
        return (
            self.kept.index(subnet.kept),
            *(0 if width is None else self.widths.index(width) for width in subnet.widths),
        )

    def id(self, subnet: Subnet) -> str:
        """Reversible code, one character per base layer: `x` dropped, else the index of the width in `widths`."""
        return "".join(DROPPED if w is None else WIDTH_CODES[self.widths.index(w)] for w in subnet.widths)

    def parse(self, subnet_id: str) -> Subnet:
        """The network an id means. Any set of kept layers is allowed: an id can be exported without a search."""
        return parse_id(subnet_id, self.num_layers, self.widths)

    def random(self, rng: np.random.Generator) -> Genotype:
        """Uniform per gene, not canonical (DyNAS-T `random_sample`)."""
        return tuple(int(gene) for gene in rng.integers(0, self.bounds))


def parse_id(subnet_id: str, num_layers: int, widths: Sequence[int]) -> Subnet:
    """Decode a subnet id; raises UserError with what would be right."""
    codes = WIDTH_CODES[: len(widths)]
    if len(subnet_id) != num_layers or any(c != DROPPED and c not in codes for c in subnet_id):
        raise UserError(
            f"subnet id '{subnet_id}' is not valid here: expected {num_layers} characters, each '{DROPPED}' (dropped) "
            f"or one of '{codes}' (index into widths {list(widths)})"
        )
    if set(subnet_id) == {DROPPED}:
        raise UserError(f"subnet id '{subnet_id}' drops every layer")
    return Subnet(tuple(None if c == DROPPED else widths[codes.index(c)] for c in subnet_id))


def format_bytes(size: int) -> str:
    """Both readings of "GB", as the paper's sizes are GiB: `13.48 GB (12.55 GiB)`; MB and MiB below 0.1 GB."""
    if size < GB // 10:
        return f"{size / 1e6:.3g} MB ({size / 2**20:.3g} MiB)"
    return f"{size / GB:.2f} GB ({size / GIB:.2f} GiB)"
