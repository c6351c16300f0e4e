"""Hugging Face model folders: which files one consists of, and loading one without running code from it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llama_nas.core.artifacts import read_json
from llama_nas.core.errors import UserError
from llama_nas.core.precisions import QUANTIZED
from llama_nas.core.shape import ModelShape, network_of

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
# Licences travel with the weights: Llama's demands it.
SIDE_FILES = ("generation_config.json", *TOKENIZER_FILES, "LICENSE*", "NOTICE*", "USE_POLICY*")

CHANNEL_ORDER_FILE = "channel_order.json"  # per layer: the base's number of each MLP channel, if they were sorted

# Torch dtype of a precision's floats: of all weights, or of those that are not quantized.
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "int8": "float16", "nf4": "float16"}


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model, in order; raises UserError where there are none or one is missing."""
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if not (folder / WEIGHTS_INDEX).exists():
        raise UserError(f"{folder}: neither {WEIGHTS} nor {WEIGHTS_INDEX} found; only safetensors weights are read")
    names = sorted(set(read_json(folder / WEIGHTS_INDEX)["weight_map"].values()))
    for name in names:
        if not (folder / name).exists():
            raise UserError(f"{folder / name}: not found, but {WEIGHTS_INDEX} names it")
    return [folder / name for name in names]


def matching_files(folder: Path, patterns: Iterable[str]) -> list[Path]:
    """The files of a folder, not of its sub-folders, that match a pattern."""
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})


def copy_files(source: Path, target: Path, patterns: Iterable[str]) -> None:
    """Copy contents, not permissions: a read-only source still gives files that can be replaced."""
    for path in matching_files(source, patterns):
        shutil.copyfile(path, target / path.name)


def check_base(folder: Path) -> ModelShape:
    """The shape of a model that can become a super-network; raises UserError for a mixed, quantized or unknown one."""
    shape = ModelShape.from_folder(folder)
    path = folder / "config.json"
    config = read_json(path)
    for key in ("per_layer_config", "quantization_config"):
        if key in config:
            raise UserError(f"{path}: has '{key}', but a base or super-network is of one width and unquantized")
    if config.get("use_sliding_window") and not config.get("layer_types"):
        raise UserError(f"{path}: use_sliding_window needs layer_types, the kind of attention of each layer")
    return shape


def stored_quantization(config: dict) -> str | None:
    """The precision that a config.json's `quantization_config` means: int8, nf4, or None for floats."""
    quantization = config.get("quantization_config")
    if quantization is None:
        return None
    return "int8" if quantization.get("load_in_8bit") else str(quantization.get("bnb_4bit_quant_type", "unknown"))


def arithmetic(precision: str, device: str) -> str:
    """Name of the torch dtype in which a device computes weights of a precision, which is how they are stored.

    GPUs compute FP16 weights, and what is not quantized beside INT8 and NF4 ones, in FP16. CPUs compute them in
    float32, which is faster there and rounds less (studies/arithmetic/arithmetic.py).
    """
    return "float32" if device == "cpu" and DTYPES[precision] == "float16" else DTYPES[precision]


def set_arithmetic(model: Any, precision: str, device: str) -> str:
    """Let a loaded model compute as `arithmetic` says; returns that dtype's name.

    Weights keep their FP16 values, quantized ones their bytes. LLM.int8 quantizes its inputs from FP16 all the same.
    """
    import torch

    if (dtype := arithmetic(precision, device)) == DTYPES[precision]:
        return dtype
    torch.nn.Module.float(model)  # transformers' own refuses quantized models; integers stay integers
    _keep_packing(model)
    for module in model.modules():
        if hasattr(module, "compute_dtype"):  # a 4-bit linear
            module.compute_dtype = torch.float32
    # It would say at every call of an INT8 linear that its input becomes FP16.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    return dtype


def _keep_packing(model: Any) -> None:
    """Compute 4-bit weights on every processor the same way.

    On one with AVX512-BF16 bitsandbytes would pack them anew at the first pass: in bfloat16, and only where the rows
    of a matrix are a multiple of 64 long.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def check_precision(folder: Path, precision: str) -> None:
    """Raise UserError if a folder's weights cannot be used in `precision`: quantized ones only in their own."""
    stored = stored_quantization(read_json(folder / "config.json")) or "float"
    if stored != (precision if precision in QUANTIZED else "float"):
        raise UserError(f"{folder}: holds {stored} weights, asked for {precision}")


def load_model(folder: Path, precision: str, device: str = "cpu", quantization: Any = None) -> Any:
    """Load a plain, exported or quantized folder in eval mode, by our own copy of the modelling code.

    precision: fp32, bf16 or fp16, or int8 or nf4 for a folder written by `llama-nas quantize`. quantization: a
    transformers quantization config, to quantize a folder of floats while loading. Nothing is downloaded, unpickled or
    run from the folder. Raises UserError if the weights are not exactly those that the config means.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = read_json(folder / "config.json")
    shape = ModelShape.from_folder(folder)
    weight_files(folder)
    check_precision(folder, precision)
    loader: Any = AutoModelForCausalLM
    if "per_layer_config" in config:
        from llama_nas.models import modeling_subnet

        loader = getattr(modeling_subnet, config["architectures"][0])
    dtype = getattr(torch, DTYPES[precision])
    options: dict[str, Any] = {"dtype": dtype, "local_files_only": True, "use_safetensors": True}
    if precision in QUANTIZED or quantization is not None:
        options["device_map"] = {"": device}
    if quantization is not None:
        options["quantization_config"] = quantization
    try:
        model, report = loader.from_pretrained(folder, **options, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder}: cannot load the model: {str(error).splitlines()[0]}") from error
    wrong = {kind: sorted(names) for kind, names in report.items() if names}
    parameters = model.num_parameters()  # of packed 4-bit weights, too
    expected = shape.parameters(network_of(config))
    if wrong or parameters != expected:
        raise UserError(f"{folder}: has {parameters} parameters where config.json means {expected}; {wrong}")
    _keep_packing(model)
    return model.to(device).eval() if "device_map" not in options else model.eval()
