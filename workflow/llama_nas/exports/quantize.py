"""A model folder quantized by bitsandbytes: decoder linears INT8 or NF4; embedding, head and norms FP16."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from transformers import BitsAndBytesConfig

from llama_nas.core.artifacts import atomic_folder, read_json
from llama_nas.core.layout import CARD_FILE, SUBNET_FILE
from llama_nas.core.precisions import QuantizedPrecision
from llama_nas.exports.card import quantized_card
from llama_nas.models import MODELING_SUBNET
from llama_nas.models.folder import SIDE_FILES, copy_files, load_model

log = logging.getLogger(__name__)

# Activations beyond it stay FP16: the value of the LLM.int8 paper (arXiv 2208.07339) and bitsandbytes' default.
OUTLIER_THRESHOLD = 6.0
KEPT = ["lm_head"]
# int8: LLM.int8, what the paper uses (section 4.4). nf4: the 4-bit type of QLoRA (arXiv 2305.14314).
CONFIGS = {
    "int8": {"load_in_8bit": True, "llm_int8_threshold": OUTLIER_THRESHOLD, "llm_int8_skip_modules": KEPT},
    "nf4": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_compute_dtype": torch.float16,
        "llm_int8_skip_modules": KEPT,
    },
}
METHODS = {
    "int8": f"LLM.int8, arXiv 2208.07339, outlier threshold {OUTLIER_THRESHOLD:g}",
    "nf4": "QLoRA's 4-bit type, arXiv 2305.14314, no double quantization",
}


def quantize(output: Path, *, model: Path, precision: QuantizedPrecision) -> None:
    """Quantize an exported folder with bitsandbytes: decoder linears INT8 or NF4, the rest FP16.

    Always on the CPU, so that bytes are equal. Raises UserError for a folder that cannot be loaded or is quantized
    already.

    Args:
        model: plain or exported folder of floats
        precision: of the decoder's linear layers
        output: folder in the same layout
    """
    network = load_model(model, "fp16", quantization=BitsAndBytesConfig(**CONFIGS[precision]))
    with atomic_folder(output) as folder:
        network.save_pretrained(folder, max_shard_size="5GB")
        copy_files(model, folder, [*SIDE_FILES, SUBNET_FILE, MODELING_SUBNET.name])
        if (model / SUBNET_FILE).is_file() and (model / CARD_FILE).is_file():  # an export of ours
            name, card = read_json(model / SUBNET_FILE)["subnet_id"], (model / CARD_FILE).read_text(encoding="utf-8")
            written = quantized_card(card, name, precision, METHODS[precision])
            (folder / CARD_FILE).write_text(written, encoding="utf-8")
        log.info("%s: %d bytes of weights", output, sum(path.stat().st_size for path in folder.glob("*.safetensors")))
