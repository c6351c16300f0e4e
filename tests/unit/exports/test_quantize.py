"""INT8 and NF4 folders hold the published code of the weights, reload bit-equal, and are of the arithmetic's size."""

import json
import struct
from pathlib import Path

import bitsandbytes
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.support.load_probe import TOKENS
from tests.support.models import probe, write_space, write_supernet, zero_padded
from transformers import BitsAndBytesConfig

from llama_nas.cli import main
from llama_nas.core.artifacts import folder_digest
from llama_nas.core.errors import UserError
from llama_nas.core.precisions import QUANTIZED
from llama_nas.core.shape import Subnet
from llama_nas.core.space import SearchSpace
from llama_nas.exports.export import export
from llama_nas.exports.quantize import quantize
from llama_nas.models.folder import load_model, set_arithmetic

FOLDERS = {"mixed": "012x10", "uniform": "111111", "pretrained": "000000", "tied": "012x10"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Exports, and a super-network as it is, quantized."""
    root = tmp_path_factory.mktemp("quantize")
    untied = write_supernet(root / "super")
    tied = write_supernet(root / "super-tied", tie_word_embeddings=True)
    for name in ("mixed", "uniform"):
        export(root / "float" / name, supernet=untied, space=write_space(untied), subnet=FOLDERS[name])
    export(root / "float" / "tied", supernet=tied, space=write_space(tied), subnet=FOLDERS["tied"])
    (root / "float" / "pretrained").symlink_to(untied)
    for name in FOLDERS:
        for precision in QUANTIZED:
            quantize(root / name / precision, model=root / "float" / name, precision=precision)
    return root


def space_of(world: Path, name: str) -> SearchSpace:
    return SearchSpace.read(world / ("super-tied.space.json" if name == "tied" else "super.space.json"))


def network(world: Path, name: str) -> Subnet:
    return space_of(world, name).parse(FOLDERS[name])


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model(TOKENS).logits


def test_a_fresh_process_computes_what_this_one_does(world):
    cases = [(name, precision) for name in FOLDERS for precision in QUANTIZED]
    folders = [world / name / precision for name, precision in cases]
    for (name, precision), found in zip(cases, probe(world, folders), strict=True):
        assert np.array_equal(found["logits"], logits(load_model(world / name / precision, precision)).float().numpy())
        assert found["module"].startswith("transformers_modules.") == (FOLDERS[name] == "012x10")


SETTINGS = {
    "int8": {"load_in_8bit": True, "llm_int8_threshold": 6.0},
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float16},
}


@pytest.mark.parametrize("precision", QUANTIZED)
@pytest.mark.parametrize("name", FOLDERS)
def test_reload_is_bit_equal_to_quantizing_in_memory(world, name, precision):
    config = BitsAndBytesConfig(**SETTINGS[precision], llm_int8_skip_modules=["lm_head"])
    in_memory = load_model(world / "float" / name, "fp16", quantization=config)
    assert torch.equal(logits(load_model(world / name / precision, precision)), logits(in_memory))


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


# NF4's 16 values: quantiles of a normal distribution, scaled to [-1, 1] (QLoRA, arXiv 2305.14314, appendix E).
NF4_NEGATIVE = [-1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004]
NF4_POSITIVE = [0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0]
NF4 = torch.tensor([*NF4_NEGATIVE, 0.0, *NF4_POSITIVE])


@pytest.mark.parametrize("name", FOLDERS)
def test_stored_halves_of_bytes_are_the_nearest_nf4_values(world, name):
    """NF4 by hand: blocks of 64 weights over their largest magnitude, two codes to a byte, the first one high."""
    stored = load_file(world / name / "nf4/model.safetensors")
    weights = load_file(world / "float" / name / "model.safetensors")
    packed = {key for key, tensor in stored.items() if key.endswith("_proj.weight") and tensor.dtype == torch.uint8}
    assert packed == {key for key in weights if key.endswith("_proj.weight")}
    for key, weight in weights.items():
        if key not in packed:
            assert torch.equal(stored[key], weight.half())
            continue
        blocks = weight.half().float().view(-1, 64)
        scale = blocks.abs().amax(dim=1, keepdim=True)
        torch.testing.assert_close(stored[f"{key}.absmax"], scale[:, 0])
        byte = stored[key].flatten().int()
        values = NF4[torch.stack([byte >> 4, byte & 15], dim=1).view(-1, 64)]
        nearest = (blocks / scale)[..., None].sub(NF4).abs().amin(-1)
        torch.testing.assert_close((values - blocks / scale).abs(), nearest, rtol=0, atol=1e-3)


def test_int8_of_a_mixed_export_equals_int8_of_the_zero_padded_stock_model(world, tmp_path):
    zero_padded(world / "super", network(world, "mixed")).save_pretrained(tmp_path / "padded")
    quantize(tmp_path / "int8", model=tmp_path / "padded", precision="int8")
    assert torch.equal(
        logits(load_model(world / "mixed" / "int8", "int8")), logits(load_model(tmp_path / "int8", "int8"))
    )


@pytest.mark.parametrize("name", FOLDERS)
def test_size_on_disk_is_the_arithmetic_plus_header_and_one_byte_per_linear(world, name):
    """bitsandbytes also stores `weight_format`, one byte for each of a layer's seven linear maps."""
    path = world / name / "int8/model.safetensors"
    header = 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]
    assert path.stat().st_size == arithmetic(world, name, "int8") + header + 7 * network(world, name).layers


@pytest.mark.parametrize("name", FOLDERS)
def test_nf4_on_disk_is_the_arithmetic_plus_what_bitsandbytes_says_of_each_linear(world, name):
    """For each of a layer's seven linear maps: NF4's 16 values in fp32, and a few words of JSON."""
    path = world / name / "nf4/model.safetensors"
    header = 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]
    about = [tensor.nbytes for key, tensor in load_file(path).items() if ".quant_" in key]
    assert len(about) == 14 * network(world, name).layers and max(about) < 200
    assert path.stat().st_size == arithmetic(world, name, "nf4") + header + sum(about)


@pytest.mark.parametrize("precision", QUANTIZED)
@pytest.mark.parametrize("name", FOLDERS)
def test_weights_in_memory_are_the_arithmetic(world, name, precision):
    """Every tensor that the loaded model holds, its scales among them; a tied head is one tensor with the embedding."""
    model = load_model(world / name / precision, precision)
    tensors = list(model.parameters())
    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear8bitLt):
            tensors.append(module.weight.SCB)
        elif isinstance(module, bitsandbytes.nn.Linear4bit):
            tensors.append(module.weight.quant_state.absmax)
    assert sum(tensor.nbytes for tensor in tensors) == arithmetic(world, name, precision)


def arithmetic(world: Path, name: str, precision: str) -> int:
    return space_of(world, name).shape.size_bytes(network(world, name), precision)


@pytest.mark.parametrize("precision", QUANTIZED)
def test_float32_arithmetic_leaves_the_quantized_weights_alone(world, precision):
    """And what it changes is less than what the quantization did."""
    model = load_model(world / "mixed" / precision, precision)
    in_fp16 = logits(model).float()
    integers = {name: tensor.clone() for name, tensor in model.named_parameters() if not tensor.is_floating_point()}
    assert set_arithmetic(model, precision, "cpu") == "float32"
    found = logits(model)
    assert found.dtype == torch.float32
    assert len(integers) == 35 and all(torch.equal(model.get_parameter(name), integers[name]) for name in integers)
    exact = logits(load_model(world / "float/mixed", "fp32"))
    assert 0 < (found - in_fp16).abs().mean() < (in_fp16 - exact).abs().mean()


def test_nf4_is_the_same_network_on_a_processor_with_bfloat16(world, monkeypatch):
    """bitsandbytes would pack the weights anew there, and refuse rows of 48 and 32."""
    found = []
    for has_it in (True, False):
        monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda has_it=has_it: has_it)
        found.append(logits(load_model(world / "mixed/nf4", "nf4")))
    assert torch.equal(*found)


def test_nf4_in_float32_is_a_plain_network_of_the_dequantized_weights(world):
    model = load_model(world / "mixed/nf4", "nf4")
    set_arithmetic(model, "nf4", "cpu")
    found = logits(model)
    plain = load_model(world / "float/mixed", "fp16").float()
    for name, linear in model.named_modules():
        if isinstance(linear, bitsandbytes.nn.Linear4bit):
            linear.weight.quant_state.dtype = torch.float32  # what it would give them back in
            weight = bitsandbytes.functional.dequantize_4bit(linear.weight.data, linear.weight.quant_state)
            plain.get_submodule(name).weight.data = weight
    torch.testing.assert_close(found, logits(plain), rtol=1e-4, atol=1e-4)


def test_what_goes_with_the_weights(world):
    config = json.loads((world / "mixed/int8/config.json").read_text())
    assert config["quantization_config"]["llm_int8_threshold"] == 6.0
    for name in ("subnet.json", "modeling_subnet.py", "tokenizer.json", "tokenizer_config.json"):
        assert (world / "mixed/int8" / name).read_bytes() == (world / "float/mixed" / name).read_bytes()
    assert not (world / "pretrained/int8/subnet.json").exists()
    card = (world / "mixed/int8/README.md").read_text()
    assert "INT8 (LLM.int8, arXiv 2208.07339, outlier threshold 6)" in card and "trust_remote_code=True" in card
    assert not (world / "pretrained/int8/README.md").exists()


@pytest.mark.parametrize("precision", QUANTIZED)
def test_same_inputs_same_bytes(world, tmp_path, precision):
    quantize(tmp_path / "again", model=world / "float/mixed", precision=precision)
    assert folder_digest(tmp_path / "again") == folder_digest(world / "mixed" / precision)


def test_bad_input_is_refused_in_one_line(world, tmp_path, capsys):
    for folder, message in (
        (world / "mixed/int8", "holds int8 weights"),
        (tmp_path / "nowhere", "config.json: not found"),
    ):
        with pytest.raises(UserError, match=message):
            quantize(tmp_path / "out", model=folder, precision="int8")
    with pytest.raises(UserError, match="holds float weights"):
        load_model(world / "float/mixed", "int8")
    words = ["quantize", "--model", str(world / "float/mixed"), "--precision", "int4", "--output"]
    assert main([*words, str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("llama-nas quantize: error: ") and "int8" in line and "nf4" in line
    assert not (tmp_path / "out").exists()
