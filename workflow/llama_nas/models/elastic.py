"""The super-network: a stock Hugging Face causal LM whose active sub-network can be set.

Nothing is copied and no parameter is renamed. Each decoder layer gets a subclass of its own class that is the
identity while the layer is dropped, and each linear map of an MLP one that uses the first `width` channels of its
matrix as a view. At full size the model computes what the stock model computes, bit for bit, and its state dict loads
in stock software. Derived from the elastic BERT/ViT of DyNAS-T (arXiv 2202.12954); paper section 2.1.

Shape suffixes: T tokens, D hidden size, W active MLP width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch.nn import functional

from llama_nas.core.errors import UserError
from llama_nas.core.shape import Block, ModelShape, Subnet

LAYERS = "model.layers."  # how the names of a decoder layer's weights begin
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class _ElasticLayer:
    """Mixin before a decoder layer class: identity while `active` is False."""

    active: bool = True

    def forward(self, hidden_states: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        if not self.active:
            return hidden_states
        return super().forward(hidden_states, *args, **kwargs)  # type: ignore[misc]


class _ElasticOutput:
    """Mixin before nn.Linear: computes the first `active_width` outputs (the MLP's gate and up)."""

    active_width: int | None = None  # None: all
    weight: torch.Tensor
    bias: torch.Tensor | None

    def forward(self, x_TD: torch.Tensor) -> torch.Tensor:
        width = self.active_width
        if width is None:
            return super().forward(x_TD)  # type: ignore[misc]
        return functional.linear(x_TD, self.weight[:width], None if self.bias is None else self.bias[:width])


class _ElasticInput:
    """Mixin before nn.Linear: has only the first `active_width` inputs (the MLP's down)."""

    active_width: int | None = None  # None: all
    weight: torch.Tensor
    bias: torch.Tensor | None

    def forward(self, x_TW: torch.Tensor) -> torch.Tensor:
        width = self.active_width
        if width is None:
            return super().forward(x_TW)  # type: ignore[misc]
        return functional.linear(x_TW, self.weight[:, :width], self.bias)


@cache
def _elastic_class(mixin: Any, base: Any) -> Any:
    return type(f"Elastic{base.__name__}", (mixin, base), {})


def make_elastic(model: Any) -> Any:
    """Make a Hugging Face Llama-family causal LM elastic, in place; returns it with the full network active.

    Raises UserError for an architecture whose layers or MLPs are not of the Llama form.
    """
    ModelShape.from_config(model.config.to_dict())  # refuses unknown architectures by name
    for layer in model.model.layers:
        layer.__class__ = _elastic_class(_ElasticLayer, layer.__class__)
        for linear, mixin in _elastic_linears(layer):
            linear.__class__ = _elastic_class(mixin, linear.__class__)
    return model


def _elastic_linears(layer: Any) -> tuple[tuple[Any, type], ...]:
    """The linear maps with an elastic width, each with its mixin.

    Each slices its own weight: DeepSpeed ZeRO-3 fetches a weight when the module that owns it runs, and fails in the
    backward pass where an MLP sometimes calls its linear maps and sometimes takes slices of their weights.
    """
    mlp = layer.mlp
    return (mlp.gate_proj, _ElasticOutput), (mlp.up_proj, _ElasticOutput), (mlp.down_proj, _ElasticInput)


def set_active(model: Any, subnet: Subnet | None) -> None:
    """Set the active sub-network of an elastic model; None is the full network."""
    layers = model.model.layers
    if subnet is not None and len(subnet.blocks) != len(layers):
        raise ValueError(f"sub-network describes {len(subnet.blocks)} layers, the model has {len(layers)}")
    for i, layer in enumerate(layers):
        block = full_block(layer) if subnet is None else subnet.blocks[i]
        layer.active = block is not None
        if block is not None:
            set_block(layer, block)


def set_block(layer: Any, block: Block) -> None:
    """Set what one layer of an elastic model computes."""
    width = None if block == full_block(layer) else block.mlp_width
    for linear, _ in _elastic_linears(layer):
        linear.active_width = width


def full_block(layer: Any) -> Block:
    """A decoder layer as it is stored."""
    return Block(mlp_width=layer.mlp.gate_proj.out_features)


def full_network(model: Any) -> Subnet:
    """All layers of a model, each as it is stored."""
    return Subnet(tuple(full_block(layer) for layer in model.model.layers))


@contextlib.contextmanager
def active(model: Any, subnet: Subnet | None) -> Iterator[None]:
    """Activate a sub-network, and the full network again afterwards."""
    set_active(model, subnet)
    try:
        yield
    finally:
        set_active(model, None)


def load_elastic(folder: str | Path, dtype: str = "fp32", device: str = "cpu") -> Any:
    """Load a Hugging Face folder as an elastic model in eval mode; safetensors only, nothing is downloaded.

    dtype: fp32, bf16 or fp16. Raises UserError if the folder is not a supported model or lacks weights of it.
    """
    from transformers import AutoModelForCausalLM

    ModelShape.from_folder(folder)
    loader: Any = AutoModelForCausalLM  # its annotations leave out what output_loading_info does
    try:
        model, report = loader.from_pretrained(
            folder,
            dtype=DTYPES[dtype],
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder}: cannot load the model: {str(error).splitlines()[0]}") from error
    missing = sorted(report["missing_keys"])
    if missing:  # transformers fills them with random numbers and says so in a warning
        raise UserError(f"{folder}: has no weights for {', '.join(missing[:3])}, {len(missing)} missing in all")
    return make_elastic(model.to(device).eval())


def active_part(name: str, tensor: torch.Tensor, subnet: Subnet) -> torch.Tensor | None:
    """The part of the full network's weight `name` that a sub-network uses, as a view; None in a dropped layer."""
    if not name.startswith(LAYERS):
        return tensor
    layer, rest = name.removeprefix(LAYERS).split(".", 1)
    block = subnet.blocks[int(layer)]
    if block is None:
        return None
    width = block.mlp_width
    if rest.startswith(("mlp.gate_proj.", "mlp.up_proj.")):
        return tensor[:width]
    return tensor[:, :width] if rest == "mlp.down_proj.weight" else tensor


def subnet_state_dict(state_dict: dict[str, torch.Tensor], subnet: Subnet) -> dict[str, torch.Tensor]:
    """The weights of a sub-network on its own: kept layers renumbered from 0, MLPs cut to their widths.

    Tensors are contiguous copies, so that a file saved from them holds nothing else.
    """
    position = {layer: new for new, layer in enumerate(subnet.kept)}
    cut = {}
    for name, tensor in state_dict.items():
        part = active_part(name, tensor, subnet)
        if not name.startswith(LAYERS):
            cut[name] = tensor
        elif part is not None:
            layer, rest = name.removeprefix(LAYERS).split(".", 1)
            cut[f"{LAYERS}{position[int(layer)]}.{rest}"] = part.clone().contiguous()
    return cut
