"""LLM.int8 (bitsandbytes) of a model folder: decoder linears INT8, embedding, head and norms FP16."""

from __future__ import annotations

import logging
from pathlib import Path

from transformers import BitsAndBytesConfig

from llama_nas.artifacts import atomic_folder
from llama_nas.errors import UserError
from llama_nas.hf_folder import MODELING_FILE, SIDE_FILES, SUBNET_FILE, copy_files, load_model

log = logging.getLogger(__name__)

# Activations beyond it stay FP16: the value of the LLM.int8 paper (arXiv 2208.07339) and bitsandbytes' default.
OUTLIER_THRESHOLD = 6.0


def quantize_folder(output: Path, model: Path, precision: str = "int8") -> None:
    """Quantize a plain or exported folder and write it in the same layout; always on the CPU, so that bytes are equal.

    Raises UserError for a folder that cannot be loaded or is quantized already.
    """
    if precision != "int8":
        raise UserError(f"--precision '{precision}' is not known; known: int8")
    quantization = BitsAndBytesConfig(
        load_in_8bit=True, llm_int8_threshold=OUTLIER_THRESHOLD, llm_int8_skip_modules=["lm_head"]
    )
    network = load_model(model, "fp16", quantization=quantization)
    with atomic_folder(output) as folder:
        network.save_pretrained(folder, max_shard_size="5GB")
        copy_files(model, folder, [*SIDE_FILES, SUBNET_FILE, MODELING_FILE])
        log.info("%s: %d bytes of weights", output, sum(path.stat().st_size for path in folder.glob("*.safetensors")))
