"""The form hf: a Hugging Face folder.

A network whose kept layers are equally wide is a plain Llama of that depth and width, which any software loads. One of
mixed widths carries `modeling_subnet.py`, which builds each MLP at the width that `per_layer_config` states.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llama_nas.core.families import family
from llama_nas.core.shape import ModelShape, Subnet
from llama_nas.models import MODELING_SUBNET

REQUIRES = {"transformers": ">=5.14", "trust_remote_code": True}


def stored(subnet: Subnet) -> Subnet:
    return subnet


def config(config: dict[str, Any], stored: Subnet, shape: ModelShape) -> dict[str, Any]:
    config = {key: value for key, value in config.items() if key not in ("_name_or_path", "auto_map")}
    config["num_hidden_layers"] = stored.layers
    if config.get("layer_types"):
        config["layer_types"] = [config["layer_types"][layer] for layer in stored.kept]
    if len(set(stored.widths)) == 1:
        return config | {"intermediate_size": stored.widths[0]}
    name = f"{family(config['model_type']).classes}SubnetForCausalLM"
    digits = len(str(stored.layers - 1))  # as transformers writes the keys, so that they sort by number
    return config | {
        "architectures": [name],
        "auto_map": {"AutoModelForCausalLM": f"{MODELING_SUBNET.stem}.{name}"},
        "per_layer_config": {
            str(layer).zfill(digits): {"intermediate_size": width}
            for layer, width in enumerate(stored.widths)
            if width != config["intermediate_size"]
        },
    }


def files(config: dict[str, Any]) -> list[Path]:
    return [MODELING_SUBNET] if "auto_map" in config else []


def requires(stored: Subnet) -> dict[str, Any]:
    return REQUIRES if len(set(stored.widths)) > 1 else {}


def loading(record: dict[str, Any]) -> list[str]:
    remote = ", trust_remote_code=True" if record["requires"] else ""
    lines = ["```python", f'AutoModelForCausalLM.from_pretrained("<this folder>"{remote})', "```"]
    if record["requires"]:
        lines.append(
            "Its layers differ in width: `modeling_subnet.py` in this folder builds them. transformers >= 5.14 needed."
        )
    return lines
