"""Run by tests in a process of its own: load model folders as a user without this project would.

    python load_probe.py OUTPUT.npz FOLDER...

A folder with a modelling file is loaded with `trust_remote_code`, any other one as plain stock software does. Writes
for every folder the logits of fixed tokens, the parameter count, the class, and greedy continuations with and without
cache; and, for a folder with a modelling file, whether stock code refuses it.
"""

import sys

if __name__ == "__main__":
    sys.modules["llama_nas"] = None  # importing it fails, here and in the exported code

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

TOKENS = torch.arange(1, 25).reshape(2, 12) * 7 % 60


def probe(folder: Path) -> dict:
    remote = (folder / "modeling_subnet.py").exists()
    options = {"local_files_only": True, "use_safetensors": True}
    found = {}
    if remote:
        try:
            AutoModelForCausalLM.from_pretrained(folder, **options)
            found["stock"] = "loads it"
        except Exception as error:
            found["stock"] = type(error).__name__
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


if __name__ == "__main__":
    output, *folders = sys.argv[1:]
    found = {f"{i}.{key}": value for i, folder in enumerate(folders) for key, value in probe(Path(folder)).items()}
    assert sys.modules["llama_nas"] is None
    np.savez(output, **found)
