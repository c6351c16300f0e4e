"""A Llama-family causal LM whose layers differ in MLP width: stock transformers classes, other MLPs.

This file is copied as it is into every exported sub-network of mixed widths and named in `auto_map` of its
`config.json`; load such a folder with `trust_remote_code=True`. It must not import anything but transformers.
The widths are in `per_layer_config` of `config.json`, which transformers reads from release 5.14 on.
"""

from transformers import LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM

if not hasattr(LlamaForCausalLM.config_class, "per_layer_config"):
    raise ImportError("this sub-network has layers of different widths and needs transformers >= 5.14")


class _MixedWidths:
    """Mixin before a causal LM class: builds the stock model, then every MLP anew at its own layer's width."""

    def __init__(self, config):
        layer_configs = list(config.per_layer_config)
        config.per_layer_config = None  # the stock constructors read one width, the global one
        super().__init__(config)  # type: ignore[call-arg]
        for layer, layer_config in zip(self.model.layers, layer_configs, strict=True):  # type: ignore[attr-defined]
            layer.mlp = type(layer.mlp)(layer_config)
        config.per_layer_config = {i: {"intermediate_size": c.intermediate_size} for i, c in enumerate(layer_configs)}


class LlamaSubnetForCausalLM(_MixedWidths, LlamaForCausalLM):
    pass


class MistralSubnetForCausalLM(_MixedWidths, MistralForCausalLM):
    pass


class Qwen2SubnetForCausalLM(_MixedWidths, Qwen2ForCausalLM):
    pass


class Qwen3SubnetForCausalLM(_MixedWidths, Qwen3ForCausalLM):
    pass
