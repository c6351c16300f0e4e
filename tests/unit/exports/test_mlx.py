"""MLX's own model of DeciLM (mlx-lm, nemotron-nas) reads deci exports and computes what the super-network computes.

It is the one published reader of block configs that runs on this CPU; vLLM, SGLang and TensorRT-LLM need a GPU server.
Installed by `make test-gguf`.
"""

import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from tests.support.load_probe import TOKENS
from tests.support.models import LLAMA_3_ROPE, write_space, write_supernet

from llama_nas.core.space import SearchSpace
from llama_nas.exports.export import export
from llama_nas.models.elastic import active, load_elastic

if find_spec("mlx_lm") is None:
    pytest.skip("SKIPPED FOR LACK OF MLX: run `make test-gguf`", allow_module_level=True)

WIDTHS, SUBNET_ID = [768, 512, 300], "012x10"
RUN = """
import sys
sys.modules["llama_nas"] = None
from pathlib import Path
import mlx.core as mx
import numpy as np
from mlx_lm.utils import load_model
folder, tokens, output = sys.argv[1:]
model, config = load_model(Path(folder))
assert type(model).__module__ == "mlx_lm.models.nemotron-nas"
np.save(output, np.array(model(mx.array(np.load(tokens))).astype(mx.float32)))
"""


@pytest.mark.parametrize(
    "config",
    [{}, {"tie_word_embeddings": True}, {"rope_parameters": LLAMA_3_ROPE}],
    ids=["plain", "tied", "llama-3"],
)
def test_mlx_reads_a_deci_export(tmp_path, config):
    supernet = write_supernet(tmp_path / "super", intermediate_size=WIDTHS[0], **config)
    space = write_space(supernet, WIDTHS)
    export(tmp_path / "deci", supernet=supernet, space=space, subnet=SUBNET_ID, form="deci")
    np.save(tmp_path / "tokens.npy", TOKENS.numpy())
    command = [sys.executable, "-c", RUN, tmp_path / "deci", tmp_path / "tokens.npy", tmp_path / "logits.npy"]
    result = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    model = load_elastic(supernet)
    with active(model, SearchSpace.read(space).parse(SUBNET_ID)), torch.inference_mode():
        wanted = model(TOKENS).logits.numpy()
    found = np.load(tmp_path / "logits.npy")
    assert np.abs(found - wanted).max() / np.abs(wanted).max() < 1e-4
