"""Run by tests in a process of its own: load model folders as a user without this project would.

    python load_probe.py OUTPUT.npz FOLDER...

A folder with a modelling file is loaded with `trust_remote_code`, one with block configs as inference servers read it,
any other one as plain stock software does. Writes
for every folder the logits of fixed tokens, the parameter count, the class, and greedy continuations with and without
cache; and, for a folder with a modelling file, whether stock code refuses it.
"""

import json
import sys

if __name__ == "__main__":
    sys.modules["llama_nas"] = None  # importing it fails, here and in the exported code

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

TOKENS = torch.arange(1, 25).reshape(2, 12) * 7 % 60


def probe(folder: Path) -> dict:
    if "quantization_config" in json.loads((folder / "config.json").read_text()):
        compute_as_every_processor_does()
    remote = (folder / "modeling_subnet.py").exists()
    options = {"local_files_only": True, "use_safetensors": True}
    found = {}
    if remote:
        try:
            AutoModelForCausalLM.from_pretrained(folder, **options)
            found["stock"] = "loads it"
        except Exception as error:
            found["stock"] = type(error).__name__
    if (folder / "configuration_decilm.py").exists():
        model = served_model(folder)
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=remote, **options).eval()
    with torch.inference_mode():
        found["logits"] = model(TOKENS).logits.float().numpy()
        for cache in (True, False):
            found[f"cache_{cache}"] = model.generate(
                TOKENS[:1], max_new_tokens=10, min_new_tokens=10, do_sample=False, use_cache=cache
            ).numpy()
    found["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    found["module"] = type(model).__module__
    found["widths"] = [layer.mlp.gate_proj.out_features for layer in model.model.layers]
    return found


def compute_as_every_processor_does() -> None:
    """bitsandbytes refuses our short rows where a processor has AVX512-BF16: it would pack 4-bit weights anew there."""
    import bitsandbytes

    bitsandbytes.nn.modules.has_avx512bf16 = lambda: False


def served_model(folder: Path) -> torch.nn.Module:
    """A DeciLM checkpoint by the rules of vLLM 0.33 (nemotron_nas.py) and SGLang 0.5, on stock Llama layers.

    Attribute access on the blocks, key heads from n_heads_in_group, MLP width from ffn_mult rounded up to a multiple of
    256, every tensor of the file used and none missing.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True, local_files_only=True)
    raw = json.loads((folder / "config.json").read_text())
    assert config.rope_theta == raw["rope_theta"]
    blocks = config.block_configs
    assert len(blocks) == config.num_hidden_layers
    assert not any(block.attention.no_op or block.ffn.no_op for block in blocks)
    assert not any(block.attention.replace_with_linear or block.ffn.replace_with_linear for block in blocks)
    assert not any(hasattr(block.ffn, "intermediate_size") for block in blocks)
    (group,) = {block.attention.n_heads_in_group for block in blocks}
    plain = {key: getattr(config, key) for key in ("vocab_size", "hidden_size", "num_hidden_layers", "rms_norm_eps")}
    plain |= {"num_attention_heads": config.num_attention_heads, "tie_word_embeddings": config.tie_word_embeddings}
    plain |= {"num_key_value_heads": config.num_attention_heads // group, "rope_theta": raw["rope_theta"]}
    plain |= {"rope_scaling": raw["rope_scaling"], "max_position_embeddings": config.max_position_embeddings}
    plain |= {"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id}
    model = LlamaForCausalLM(LlamaConfig(**plain)).to(config.dtype)
    for layer, block in zip(model.model.layers, blocks, strict=True):
        width = int(2 * block.ffn.ffn_mult * config.hidden_size / 3)
        width += -width % 256
        layer_config = LlamaConfig(**plain | {"intermediate_size": width})
        layer.mlp = type(layer.mlp)(layer_config).to(config.dtype)
    stored = load_file(folder / "model.safetensors")
    if config.tie_word_embeddings:
        assert "lm_head.weight" not in stored
        stored["lm_head.weight"] = stored["model.embed_tokens.weight"]
    model.load_state_dict(stored)
    return model.eval()


if __name__ == "__main__":
    output, *folders = sys.argv[1:]
    found = {f"{i}.{key}": value for i, folder in enumerate(folders) for key, value in probe(Path(folder)).items()}
    assert sys.modules["llama_nas"] is None
    np.savez(output, **found)
