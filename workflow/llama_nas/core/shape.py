"""Networks and their exact sizes: what a layer can be, which layers a network keeps, how many parameters that makes.

Size is arithmetic on the model's own config.json (paper, section 4.1, Tables 2 to 5), never an estimate.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llama_nas.core.errors import UserError
from llama_nas.core.families import family
from llama_nas.core.precisions import BYTES_PER_WEIGHT, NF4_BLOCK, PRECISIONS, QUANTIZED


@dataclass(frozen=True, order=True)
class Block:
    """What one layer is in a sub-network. Another elastic axis is another field (docs/extending.md)."""

    mlp_width: int

    def __str__(self) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in asdict(self).items())


@dataclass(frozen=True)
class Subnet:
    """One network: `blocks[i]` is what base layer i is in it, or None where the layer is dropped."""

    blocks: tuple[Block | None, ...]

    @property
    def kept(self) -> tuple[int, ...]:
        """Indices of the kept base layers, ascending."""
        return tuple(i for i, block in enumerate(self.blocks) if block is not None)

    @property
    def layers(self) -> int:
        """How many layers are kept."""
        return len(self.kept)

    @property
    def kept_blocks(self) -> tuple[Block, ...]:
        """The block of each kept layer, in order."""
        return tuple(block for block in self.blocks if block is not None)

    @property
    def widths(self) -> tuple[int, ...]:
        """MLP width of each kept layer, in order."""
        return tuple(block.mlp_width for block in self.kept_blocks)


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
        config = {**family(model_type).defaults, **config}
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

    @property
    def full_block(self) -> Block:
        """A layer as it is in the base model."""
        return Block(mlp_width=self.intermediate_size)

    @property
    def full(self) -> Subnet:
        """The base model seen as a network: every layer, each as it is."""
        return Subnet((self.full_block,) * self.num_hidden_layers)

    def linears(self, block: Block) -> list[tuple[int, int, int]]:
        """(rows, columns, bias entries) of each linear map of a decoder layer."""
        queries = self.num_attention_heads * self.head_dim
        keys = self.num_key_value_heads * self.head_dim
        own = family(self.model_type)
        qkv_bias = _bias(own.query_key_value_bias, self.attention_bias)
        out_bias = _bias(own.output_bias, self.attention_bias)
        mlp_bias = _bias(own.mlp_bias, self.mlp_bias)
        width = block.mlp_width
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
        """Two RMSNorms; some families also normalise query and key heads."""
        return 2 * self.hidden_size + (2 * self.head_dim if family(self.model_type).head_norms else 0)

    def parameters(self, subnet: Subnet) -> int:
        """Exact parameter count; a tied output head is counted once."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        layers = sum(
            sum(rows * columns + bias for rows, columns, bias in self.linears(block)) + self._norms_per_layer()
            for block in subnet.kept_blocks
        )
        return embeddings + self.hidden_size + layers

    def decoder_weights(self, subnet: Subnet) -> int:
        """Entries of the decoder layers' matrices: one multiplication and one addition each per token."""
        return sum(rows * columns for block in subnet.kept_blocks for rows, columns, _ in self.linears(block))

    def size_bytes(self, subnet: Subnet, precision: str = "fp16") -> int:
        """Bytes of the weights as bitsandbytes stores them.

        Everything but the decoder linears' matrices (embedding, head, norms, biases) takes 2 bytes. `int8`: 1 byte
        plus one fp32 scale per output row. `nf4`: half a byte plus one fp32 scale per NF4_BLOCK weights (QLoRA,
        arXiv 2305.14314, without double quantization).
        """
        total = self.parameters(subnet)
        if precision in BYTES_PER_WEIGHT:
            return total * BYTES_PER_WEIGHT[precision]
        if precision not in QUANTIZED:
            raise ValueError(f"precision '{precision}' is not one of {', '.join(PRECISIONS)}")
        stored = 0
        for block in subnet.kept_blocks:
            for rows, columns, _bias in self.linears(block):
                if precision == "int8":
                    stored += rows * columns + 4 * rows
                else:
                    stored += -(-rows * columns // 2) + 4 * -(-rows * columns // NF4_BLOCK)
        return stored + 2 * (total - self.decoder_weights(subnet))


def _bias(fixed: bool | None, declared: bool) -> bool:
    return declared if fixed is None else fixed


def network_of(config: dict[str, Any]) -> Subnet:
    """The network that a config.json describes, seen as one that keeps all its layers."""
    overrides = {int(layer): values for layer, values in config.get("per_layer_config", {}).items()}
    full = config["intermediate_size"]
    return with_widths(overrides.get(i, {}).get("intermediate_size", full) for i in range(config["num_hidden_layers"]))


def with_widths(widths: Iterable[int]) -> Subnet:
    """A network that keeps all its layers, with these MLP widths."""
    return Subnet(tuple(Block(mlp_width=width) for width in widths))
