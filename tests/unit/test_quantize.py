"""INT8 folders: what is stored is LLM.int8 of the weights, it reloads bit-equal, and its size is known to the byte."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from export_cases import WIDTHS, probe, write_supernet, zero_padded
from load_probe import TOKENS
from safetensors.torch import load_file

from llama_nas.artifacts import folder_digest
from llama_nas.errors import UserError
from llama_nas.export import export_subnet
from llama_nas.hf_folder import load_model
from llama_nas.quantize import quantize_folder
from llama_nas.space import ModelShape, parse_id

FOLDERS = {"mixed": "012x10", "uniform": "111111", "pretrained": "000000", "tied": "012x10"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Exports, and a super-network as it is, quantized."""
    root = tmp_path_factory.mktemp("quantize")
    untied = write_supernet(root / "super")
    tied = write_supernet(root / "super-tied", tie_word_embeddings=True)
    for name in ("mixed", "uniform"):
        export_subnet(root / "float" / name, supernet=untied, widths=WIDTHS, subnet_id=FOLDERS[name])
    export_subnet(root / "float" / "tied", supernet=tied, widths=WIDTHS, subnet_id=FOLDERS["tied"])
    (root / "float" / "pretrained").symlink_to(untied)
    for name in FOLDERS:
        quantize_folder(root / name / "int8", model=root / "float" / name)
    return root


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model(TOKENS).logits


def test_a_fresh_process_computes_what_this_one_does(world):
    for name, found in zip(FOLDERS, probe(world, [world / name / "int8" for name in FOLDERS]), strict=True):
        assert np.array_equal(found["logits"], logits(load_model(world / name / "int8", "int8")).float().numpy())
        assert found["module"].startswith("transformers_modules.") == (FOLDERS[name] == "012x10")


@pytest.mark.parametrize("name", FOLDERS)
def test_reload_is_bit_equal_to_quantizing_in_memory(world, name):
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=6.0, llm_int8_skip_modules=["lm_head"])
    in_memory = load_model(world / "float" / name, "fp16", quantization=config)
    assert torch.equal(logits(load_model(world / name / "int8", "int8")), logits(in_memory))


@pytest.mark.parametrize("name", FOLDERS)
def test_stored_integers_are_the_rows_scaled_to_127(world, name):
    """LLM.int8 by hand (arXiv 2208.07339, section 2.1): absolute maximum per output row."""
    stored = load_file(world / name / "int8/model.safetensors")
    weights = load_file(world / "float" / name / "model.safetensors")
    quantized = {key for key, tensor in stored.items() if tensor.dtype == torch.int8}
    assert quantized == {key for key in weights if key.endswith("_proj.weight")}
    for key, weight in weights.items():
        half = weight.half()
        if key not in quantized:
            assert torch.equal(stored[key], half)
            continue
        scale = half.float().abs().amax(dim=1)
        torch.testing.assert_close(stored[key.replace(".weight", ".SCB")], scale)
        torch.testing.assert_close(
            stored[key].float(), (half.float() * 127 / scale[:, None]).round(), rtol=0, atol=1
        )  # a tie may round either way
        assert (stored[key].float() * scale[:, None] / 127 - half.float()).abs().max() <= 0.51 * scale.max() / 127


def test_int8_of_a_mixed_export_equals_int8_of_the_zero_padded_stock_model(world, tmp_path):
    subnet = parse_id(FOLDERS["mixed"], 6, WIDTHS)
    zero_padded(world / "super", subnet).save_pretrained(tmp_path / "padded")
    quantize_folder(tmp_path / "int8", model=tmp_path / "padded")
    assert torch.equal(
        logits(load_model(world / "mixed" / "int8", "int8")), logits(load_model(tmp_path / "int8", "int8"))
    )


@pytest.mark.parametrize("name", FOLDERS)
def test_size_on_disk_is_the_arithmetic_plus_header_and_one_byte_per_linear(world, name):
    """bitsandbytes also stores `weight_format`, one byte for each of a layer's seven linear maps."""
    path = world / name / "int8/model.safetensors"
    subnet = parse_id(FOLDERS[name], 6, WIDTHS)
    shape = ModelShape.from_folder(world / ("super-tied" if name == "tied" else "super"))
    header = 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]
    assert path.stat().st_size == shape.size_bytes(subnet, "int8") + header + 7 * subnet.layers


def test_what_goes_with_the_weights(world):
    config = json.loads((world / "mixed/int8/config.json").read_text())
    assert config["quantization_config"]["llm_int8_threshold"] == 6.0
    for name in ("subnet.json", "modeling_subnet.py", "tokenizer.json", "tokenizer_config.json"):
        assert (world / "mixed/int8" / name).read_bytes() == (world / "float/mixed" / name).read_bytes()
    assert not (world / "pretrained/int8/subnet.json").exists()


def test_same_inputs_same_bytes(world, tmp_path):
    quantize_folder(tmp_path / "again", model=world / "float/mixed")
    assert folder_digest(tmp_path / "again") == folder_digest(world / "mixed/int8")


def test_bad_input_is_refused_in_one_line(world, tmp_path):
    cases: list[tuple[Path, str, str]] = [
        (world / "mixed/int8", "int8", "holds int8 weights"),
        (tmp_path / "nowhere", "int8", "config.json: not found"),
        (world / "float/mixed", "int4", "known: int8"),
    ]
    for folder, precision, message in cases:
        with pytest.raises(UserError, match=message):
            quantize_folder(tmp_path / "out", model=folder, precision=precision)
    with pytest.raises(UserError, match="holds float weights"):
        load_model(world / "float/mixed", "int8")
    assert not (tmp_path / "out").exists()
