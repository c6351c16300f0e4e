"""The paper's model and search space, and networks written as the MLP widths of their layers."""

from collections.abc import Iterable, Sequence

from llama_nas.core.shape import Block, ModelShape, Subnet
from llama_nas.core.space import SearchSpace

LLAMA2_7B = ModelShape(
    model_type="llama",
    hidden_size=4096,
    intermediate_size=11008,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=32,
    head_dim=128,
    vocab_size=32000,
)
WIDE, NARROW = 11008, 5504
PAPER_SPACE = SearchSpace.declare(LLAMA2_7B, [24, 28, 32], [WIDE, NARROW])


def network(widths: Iterable[int | None]) -> Subnet:
    """The network whose layers have these MLP widths; None is a dropped layer."""
    return Subnet(tuple(None if width is None else Block(mlp_width=width) for width in widths))


def shape_of(layers: int, width: int) -> ModelShape:
    """A small Llama with this many layers and this MLP width."""
    return ModelShape(
        model_type="llama",
        hidden_size=32,
        intermediate_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=8,
        vocab_size=100,
    )


def small_space(depths: Sequence[int], widths: Sequence[int], layers: int | None = None) -> SearchSpace:
    """A space of a small Llama; layers: the deepest network's where not given."""
    return SearchSpace.declare(shape_of(layers or max(depths), widths[0]), depths, widths)
