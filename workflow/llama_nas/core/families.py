"""The model families that can become a super-network: one record each.

A new family is a record here and a class in `models/modeling_subnet.py`; docs/extending.md has the recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llama_nas.core.errors import UserError


@dataclass(frozen=True)
class Family:
    """A model type of transformers whose decoder layers have Llama's form.

    A bias is True or False where the model's code fixes it, None where it follows `attention_bias` or `mlp_bias` of
    config.json.
    """

    classes: str  # how transformers' class names begin
    gguf: str  # llama.cpp's architecture
    query_key_value_bias: bool | None
    output_bias: bool | None
    mlp_bias: bool | None
    head_norms: bool = False  # queries and keys are normalised per head
    # What transformers takes for a key that config.json leaves out, where other keys do not imply it.
    defaults: Mapping[str, int] = field(default_factory=dict)


FAMILIES = {
    "llama": Family("Llama", "llama", query_key_value_bias=None, output_bias=None, mlp_bias=None),
    "mistral": Family(
        "Mistral", "llama", query_key_value_bias=False, output_bias=False, mlp_bias=False,
        defaults={"num_key_value_heads": 8},
    ),
    "qwen2": Family(
        "Qwen2", "qwen2", query_key_value_bias=True, output_bias=False, mlp_bias=False,
        defaults={"num_key_value_heads": 32},
    ),
    "qwen3": Family(
        "Qwen3", "qwen3", query_key_value_bias=None, output_bias=None, mlp_bias=False, head_norms=True,
        defaults={"num_key_value_heads": 32, "head_dim": 128},
    ),
}  # fmt: skip


def family(model_type: str) -> Family:
    """The family of a config.json's `model_type`; raises UserError for an unknown one."""
    if model_type not in FAMILIES:
        raise UserError(f"config.json: model_type '{model_type}' is not supported; known: {', '.join(FAMILIES)}")
    return FAMILIES[model_type]
