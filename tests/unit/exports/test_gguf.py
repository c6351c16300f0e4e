"""GGUF files as stock transformers and the gguf package's own reader see them; llama.cpp itself: test_llama_cpp.py."""

import json
import shutil

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.support.models import FAMILIES
from transformers import AutoModelForCausalLM, AutoTokenizer

from llama_nas.core.errors import UserError
from llama_nas.exports.forms.gguf import write_gguf
from llama_nas.exports.quantize import quantize
from llama_nas.models.folder import load_model


@pytest.fixture(scope="module")
def world(gguf_exports):
    """Every export as a file of each type."""
    for family in FAMILIES:
        for kind in ("uniform", "mixed"):
            for kind_of_file in ("f16", "q8_0"):
                file = gguf_exports / f"{family}-{kind}-{kind_of_file}.gguf"
                write_gguf(file, model=gguf_exports / family / kind, type=kind_of_file)
    return gguf_exports


def fields(path) -> dict:
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


# transformers' own reader of GGUF knows no biases, no rope factors, no head size of Qwen3 but 128, and no `deci`
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
def test_stock_transformers_reads_a_uniform_file_and_computes_the_same(world, texts, family):
    folder = world / family / "uniform"
    read = AutoModelForCausalLM.from_pretrained(world, gguf_file=f"{family}-uniform-f16.gguf", dtype=torch.float32)
    tokens = torch.tensor([AutoTokenizer.from_pretrained(folder)(texts[0])["input_ids"][:40]])
    with torch.inference_mode():
        wanted = load_model(folder, "fp32")(tokens).logits
        difference = (read.eval()(tokens).logits - wanted).abs().max() / wanted.abs().max()
    assert wanted.abs().max() > 1 and difference < 2e-3  # weights rounded to FP16


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("file_type", ["f16", "q8_0"])
def test_every_tensor_is_there_rounded_as_its_type_says(world, family, file_type):
    reader = gguf.GGUFReader(world / f"{family}-mixed-{file_type}.gguf")
    widths = [96, 48, 40, 48, 96]
    arch = "deci" if family.split("-")[0] in ("llama", "mistral") else family
    known = fields(world / f"{family}-mixed-{file_type}.gguf")
    assert known["general.architecture"] == arch
    assert known[f"{arch}.feed_forward_length"] == (widths if arch == "deci" else 96)
    weights = load_file(world / family / "mixed/model.safetensors")
    config = json.loads((world / family / "mixed/config.json").read_text())
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, arch.upper()), 5)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert len(tensors) == len(weights) + (family == "llama-3")
    for source, weight in weights.items():
        tensor = tensors[names.get_name(source, try_suffixes=(".weight", ".bias"))]
        stored = gguf.dequantize(tensor.data, tensor.tensor_type)
        heads = config["num_attention_heads" if "q_proj" in source else "num_key_value_heads"]
        if arch == "deci" and ("q_proj" in source or "k_proj" in source):  # pairs beside each other -> halves
            stored = stored.reshape(heads, -1, 2, *stored.shape[1:]).swapaxes(1, 2).reshape(stored.shape)
        wanted = weight.numpy()
        if stored.shape != wanted.shape:
            assert arch != "deci" and ".mlp." in source
            assert not stored[wanted.shape[0] :].any() and not stored[..., wanted.shape[-1] :].any()
            stored = stored[tuple(slice(size) for size in wanted.shape)]
        kind = tensor.tensor_type.name
        rows = tensor.shape[0]
        assert kind == ("F32" if weight.dim() == 1 else "F16" if file_type == "f16" or rows % 32 else "Q8_0")
        # Q8_0: half a step of 1/127, and its FP16 scale rounded
        tolerance = {"F32": 0, "F16": 2**-11, "Q8_0": 1 / 254 + 2**-11}[kind] * np.abs(wanted).max()
        assert np.abs(stored - wanted).max() <= tolerance, source


def test_rope_factors_divide_each_frequency_as_transformers_scales_it(world):
    """llama.cpp computes base^(-2i/d) / factor; every factor of llama3's rule is at least 1."""
    file = world / "llama-3-uniform-f16.gguf"
    (factors,) = (t.data for t in gguf.GGUFReader(file).tensors if t.name == "rope_freqs.weight")
    known = fields(file)
    size = known["llama.rope.dimension_count"]
    plain = known["llama.rope.freq_base"] ** (-np.arange(0, size, 2) / size)
    wanted = load_model(world / "llama-3/uniform", "fp32").model.rotary_emb.inv_freq.numpy()
    assert plain / factors == pytest.approx(wanted, rel=1e-5)
    assert factors.min() >= 1 and factors.max() == pytest.approx(8)


@pytest.mark.parametrize("epsilon", [1e-6, 1e-5, 0.03])
def test_the_norms_epsilon_is_the_models(world, tmp_path, epsilon):
    shutil.copytree(world / "llama/uniform", tmp_path / "model")
    path = tmp_path / "model/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rms_norm_eps": epsilon}))
    write_gguf(tmp_path / "x.gguf", model=tmp_path / "model", type="f16")
    assert fields(tmp_path / "x.gguf")["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(epsilon)


def test_the_tokenizer_travels(world):
    known = fields(world / "llama-uniform-f16.gguf")
    tokenizer = AutoTokenizer.from_pretrained(world / "llama/uniform")
    assert known["tokenizer.ggml.tokens"][:320] == tokenizer.convert_ids_to_tokens(range(320))
    assert len(known["tokenizer.ggml.tokens"]) == 330 and known["tokenizer.ggml.pre"] == "dbrx"
    assert known["tokenizer.ggml.bos_token_id"] == tokenizer.bos_token_id and known["tokenizer.ggml.add_bos_token"]
    assert known["tokenizer.ggml.token_type"][:2] == [int(gguf.TokenType.CONTROL)] * 2


def test_same_inputs_same_bytes(world, tmp_path):
    write_gguf(tmp_path / "again.gguf", model=world / "llama/mixed", type="q8_0")
    assert (tmp_path / "again.gguf").read_bytes() == (world / "llama-mixed-q8_0.gguf").read_bytes()


def test_a_quantized_folder_is_refused(world, tmp_path):
    quantize(tmp_path / "int8", model=world / "llama/uniform", precision="int8")
    with pytest.raises(UserError, match="written from the float folder"):
        write_gguf(tmp_path / "x.gguf", model=tmp_path / "int8", type="f16")
    assert not (tmp_path / "x.gguf").exists()


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("tokenizer", lambda t: t["model"].update(type="WordLevel"), "type WordLevel"),
        ("tokenizer", lambda t: t["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex="x"), "no name"),
        ("config", lambda c: c.update(model_type="mistral", sliding_window=8), "sliding_window 8"),
        ("config", lambda c: c.update(model_type="gpt2"), "'gpt2' is not supported"),
        ("config", lambda c: c["rope_parameters"].update(rope_type="yarn", factor=2.0), "rope_type 'yarn'"),
    ],
)
def test_what_llama_cpp_cannot_express_is_refused_in_one_line(world, tmp_path, name, edit, message):
    shutil.copytree(world / "llama/uniform", tmp_path / "changed")
    path = tmp_path / f"changed/{name}.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message) as error:
        write_gguf(tmp_path / "x.gguf", model=tmp_path / "changed", type="f16")
    assert "\n" not in str(error.value) and not list(tmp_path.glob("*.gguf"))
