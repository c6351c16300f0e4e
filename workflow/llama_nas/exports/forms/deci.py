"""The form deci: the `block_configs` of DeciLM (Nemotron-NAS), read by vLLM, SGLang, TensorRT-LLM, MLX and others.

Their readers know widths in multiples of 256 only; other widths are filled up with zeros: silu(0) * 0 = 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llama_nas.core.errors import UserError
from llama_nas.core.shape import Block, ModelShape, Subnet

CONFIGURATION = Path(__file__).parent / "configuration_decilm.py"
MULTIPLE = 256  # of a width that `ffn_mult` can express (vLLM, nemotron_nas.py)


def stored(subnet: Subnet) -> Subnet:
    def padded(block: Block) -> Block:
        return Block(mlp_width=-(-block.mlp_width // MULTIPLE) * MULTIPLE)

    return Subnet(tuple(None if block is None else padded(block) for block in subnet.blocks))


def config(config: dict[str, Any], stored: Subnet, shape: ModelShape) -> dict[str, Any]:
    """The form's config.json; widths are multiples of MULTIPLE.

    Keys as in the published Nemotron-NAS checkpoints; vLLM prefers `ffn_mult` to a width where it finds both, and the
    other readers know nothing else, so it is the only one written. Raises UserError for anything but a Llama without
    biases: that is all these readers compute alike.
    """
    reasons = {
        f"model_type is '{shape.model_type}'": shape.model_type != "llama",
        "it has biases": shape.attention_bias or shape.mlp_bias,
        "head_dim is not hidden_size / num_attention_heads": (
            shape.head_dim * shape.num_attention_heads != shape.hidden_size
        ),
    }
    for reason, applies in reasons.items():
        if applies:
            raise UserError(f"config.json: {reason}, which the form 'deci' has no way to say; use hf or padded")
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = rope.pop("rope_theta", None) or config.get("rope_theta", 10000.0)
    scaled = rope.get("rope_type", rope.get("type", "default")) != "default"
    attention = {
        "no_op": False,
        "replace_with_linear": False,
        "n_heads_in_group": shape.num_attention_heads // shape.num_key_value_heads,
    }
    unused = ("_name_or_path", "rope_parameters", "dtype", "torch_dtype")
    return {key: value for key, value in config.items() if key not in unused} | {
        "architectures": ["DeciLMForCausalLM"],
        "model_type": "nemotron-nas",
        "auto_map": {"AutoConfig": f"{CONFIGURATION.stem}.DeciLMConfig"},
        "num_hidden_layers": stored.layers,
        "intermediate_size": max(stored.widths),
        "rope_theta": theta,  # beside each other as before transformers 5: what every reader knows
        "rope_scaling": rope if scaled else None,
        "torch_dtype": config.get("dtype") or config.get("torch_dtype") or "float32",
        "block_configs": [
            {
                "attention": attention,
                "ffn": {
                    "no_op": False,
                    "replace_with_linear": False,
                    "ffn_mult": round(1.5 * width / shape.hidden_size, 6),  # readers round up from int(2 / 3 of it)
                },
            }
            for width in stored.widths
        ],
    }


def files(config: dict[str, Any]) -> list[Path]:
    return [CONFIGURATION]


def requires(stored: Subnet) -> dict[str, Any]:
    return {}


def loading(record: dict[str, Any]) -> list[str]:
    return [
        "vLLM, SGLang and TensorRT-LLM have this architecture (`DeciLMForCausalLM`, `block_configs`); give them",
        "`--trust-remote-code` for the configuration file in this folder. transformers has no model of it: use the",
        "form `hf` there.",
    ]
