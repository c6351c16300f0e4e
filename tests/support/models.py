"""Tiny super-networks, their spaces, and the process that loads them as a user without this project would."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from llama_nas.core.shape import ModelShape, Subnet
from llama_nas.core.space import SearchSpace

VOCABULARY = 64
WIDTHS = [96, 48, 32]
IDS = {"full": "000000", "depth-only": "0000xx", "uniform": "111111", "uniform-gap": "x1x111", "mixed": "012x10"}
LLAMA_3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
FAMILIES = {  # name -> keys of its config.json; the model type comes before the dash
    "llama": {},
    "llama-3": {"tie_word_embeddings": True, "rope_parameters": LLAMA_3_ROPE},
    "llama-biases": {"attention_bias": True, "mlp_bias": True},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {"tie_word_embeddings": True},
}


def write_supernet(folder: Path, model_type: str = "llama", shard: str = "5GB", dtype=torch.float32, **config) -> Path:
    """A random model of six layers, with fewer key than query heads and weights large enough for logits to matter."""
    torch.manual_seed(0)
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": WIDTHS[0],
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 8,
        "max_position_embeddings": 64,
        "initializer_range": 0.1,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings | config), dtype=dtype)
    with torch.no_grad():  # norms and biases start at 1 and 0, where many mistakes would not show
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder, max_shard_size=shard)
    words = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", *map(str, range(VOCABULARY - 3))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    return folder


def write_space(folder: Path, widths: Sequence[int] = WIDTHS, depths: Sequence[int] | None = None) -> Path:
    """Write the space.json of the super-network in a folder, beside the folder; depths: all layers where not given."""
    shape = ModelShape.from_folder(folder)
    path = folder.with_name(f"{folder.name}.space.json")
    SearchSpace.declare(shape, depths or [shape.num_hidden_layers], widths).write(path)
    return path


def zero_padded(supernet: Path, subnet: Subnet) -> torch.nn.Module:
    """Oracle: a stock model of the kept layers at full width, its unused MLP channels zero (exact: silu(0) = 0)."""
    whole = AutoModelForCausalLM.from_pretrained(supernet)
    whole.model.layers = torch.nn.ModuleList(whole.model.layers[i] for i in subnet.kept)
    for layer, width in zip(whole.model.layers, subnet.widths, strict=True):
        with torch.no_grad():
            layer.mlp.gate_proj.weight[width:] = 0
            layer.mlp.up_proj.weight[width:] = 0
            layer.mlp.down_proj.weight[:, width:] = 0
    for position, layer in enumerate(whole.model.layers):
        layer.self_attn.layer_idx = position
    whole.config.num_hidden_layers = subnet.layers
    if getattr(whole.config, "layer_types", None):
        whole.config.layer_types = [whole.config.layer_types[i] for i in subnet.kept]
    return whole.eval()


def offline(scratch: Path) -> dict[str, str]:
    """Environment of a fresh process: no network, its own cache of remote code."""
    return os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_MODULES_CACHE": str(scratch / "modules"),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }


def start_probe(scratch: Path, name: str, folders: list[Path]) -> subprocess.Popen:
    """Let a fresh process load model folders (`load_probe.py`)."""
    command = [sys.executable, Path(__file__).with_name("load_probe.py"), scratch / f"{name}.npz", *folders]
    return subprocess.Popen(command, cwd=scratch, env=offline(scratch), stderr=subprocess.PIPE, text=True)


def finish_probe(process: subprocess.Popen, scratch: Path, name: str) -> list[dict]:
    """What the probe found, one dict per folder."""
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    found: dict[int, dict] = {}
    for key, value in np.load(scratch / f"{name}.npz").items():
        folder, _, what = key.partition(".")
        found.setdefault(int(folder), {})[what] = value if value.ndim else value.item()
    return [found[i] for i in sorted(found)]


def probe(scratch: Path, folders: list[Path]) -> list[dict]:
    """`start_probe` and `finish_probe` in one."""
    return finish_probe(start_probe(scratch, "probe", folders), scratch, "probe")
