"""Exports load in a fresh process without this package and compute what the super-network computes."""

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tests.support.load_probe import TOKENS
from tests.support.models import FAMILIES as SHARED_FAMILIES
from tests.support.models import (
    IDS,
    WIDTHS,
    finish_probe,
    offline,
    probe,
    start_probe,
    write_space,
    write_supernet,
    zero_padded,
)

from llama_nas.core.artifacts import file_digest, folder_digest
from llama_nas.core.errors import UserError
from llama_nas.core.precisions import PRECISIONS
from llama_nas.core.shape import ModelShape
from llama_nas.core.space import SearchSpace
from llama_nas.exports.card import Provenance
from llama_nas.exports.export import export
from llama_nas.models.elastic import active, load_elastic
from llama_nas.models.folder import load_model

FAMILIES = SHARED_FAMILIES | {
    "llama-tied": {"tie_word_embeddings": True},
    "mistral": {"sliding_window": 8},
    "qwen2": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 4},
}
CASES = (
    [("llama", kind) for kind in IDS]
    + [("llama-tied", "depth-only")]
    + [(f, "mixed") for f in FAMILIES if f != "llama"]
)


PADDED = "1x21x2"
DECI_WIDTHS = [768, 512, 300]  # the last is no multiple of 256
DECI_ID = "012x10"
DECI = ("llama", "llama-tied", "llama-3")


def cut(supernet: Path, subnet_id: str, output: Path, widths=WIDTHS, **settings) -> None:
    """Export a network of the space that these widths declare on a super-network."""
    export(output, supernet=supernet, space=write_space(supernet, widths), subnet=subnet_id, **settings)


def space_of(model: Path, widths=WIDTHS) -> SearchSpace:
    shape = ModelShape.from_folder(model)
    return SearchSpace.declare(shape, [shape.num_hidden_layers], widths)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Every case exported, and what one fresh process found in all of them."""
    root = tmp_path_factory.mktemp("export")
    for family, config in FAMILIES.items():
        shard = "40KB" if family == "llama" else "5GB"
        write_supernet(root / "super" / family, family.split("-")[0], shard, **config)
    folders = []
    for family, kind in CASES:
        folders.append(root / family / IDS[kind])
        cut(root / "super" / family, IDS[kind], folders[-1])
    for family in FAMILIES:
        folders.append(root / "padded" / family)
        cut(root / "super" / family, PADDED, folders[-1], form="padded")
    for family in DECI:
        supernet = write_supernet(root / "wide" / family, intermediate_size=DECI_WIDTHS[0], **FAMILIES[family])
        folders.append(root / "deci" / family)
        cut(supernet, DECI_ID, folders[-1], widths=DECI_WIDTHS, form="deci")
    cases = [*CASES, *((family, "padded") for family in FAMILIES), *((family, "deci") for family in DECI)]
    return root, dict(zip(cases, probe(root, folders), strict=True))


def case(world, family, kind):
    root, found = world
    supernet = root / "super" / family
    subnet = space_of(supernet).parse(IDS[kind])
    return supernet, root / family / IDS[kind], subnet, found[family, kind]


def relative_error(left, right) -> float:
    return float(np.abs(left - right).max() / np.abs(right).max())


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_logits_equal_the_active_subnet_of_the_supernet(world, family, kind):
    supernet, _, subnet, found = case(world, family, kind)
    model = load_elastic(supernet)
    with active(model, subnet), torch.inference_mode():
        wanted = model(TOKENS).logits.numpy()
    assert np.abs(wanted).max() > 1
    assert relative_error(found["logits"], wanted) < 1e-5


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_logits_equal_a_zero_padded_stock_model(world, family, kind):
    supernet, _, subnet, found = case(world, family, kind)
    with torch.inference_mode():
        wanted = zero_padded(supernet, subnet)(TOKENS).logits.numpy()
    assert relative_error(found["logits"], wanted) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_padded_is_plain_and_computes_the_same(world, family):
    """Zeros up to the widest kept layer, which is not the super-network's full width."""
    root, found = world
    supernet, folder = root / "super" / family, root / "padded" / family
    subnet, loaded = space_of(supernet).parse(PADDED), found[family, "padded"]
    model = load_elastic(supernet)
    with active(model, subnet), torch.inference_mode():
        wanted = model(TOKENS).logits.numpy()
    assert relative_error(loaded["logits"], wanted) < 1e-5
    assert set(loaded["widths"]) == {WIDTHS[1]} and not (folder / "modeling_subnet.py").exists()
    record = json.loads((folder / "subnet.json").read_text())
    assert loaded["parameters"] == record["stored_parameters"] > record["parameters"]
    assert record["parameters"] == ModelShape.from_folder(supernet).parameters(subnet) and record["requires"] == {}


@pytest.mark.parametrize("family", DECI)
def test_deci_is_read_as_servers_read_it_and_computes_the_same(world, family):
    """Reader: load_probe.served_model, the published rules on stock layers. No server runs here."""
    root, found = world
    supernet, folder, loaded = root / "wide" / family, root / "deci" / family, found[family, "deci"]
    subnet = space_of(supernet, DECI_WIDTHS).parse(DECI_ID)
    model = load_elastic(supernet)
    with active(model, subnet), torch.inference_mode():
        wanted = model(TOKENS).logits.numpy()
    assert relative_error(loaded["logits"], wanted) < 1e-5
    assert loaded["cache_True"].tolist() == loaded["cache_False"].tolist()
    assert list(loaded["widths"]) == [768, 512, 512, 512, 768]
    record = json.loads((folder / "subnet.json").read_text())
    assert record["stored_widths"] == [768, 512, 512, 512, 768] and record["widths"] == [768, 512, 300, 512, 768]
    assert loaded["parameters"] == record["stored_parameters"] == record["parameters"] + 3 * 64 * 212
    assert "zeros" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "qwen2"}, "model_type is 'qwen2'.*use hf or padded"),
        ({"attention_bias": True}, "it has biases"),
        ({"head_dim": 16}, "head_dim is not"),
    ],
)
def test_deci_refuses_what_its_readers_cannot_compute(tmp_path, config, message):
    supernet = write_supernet(tmp_path / "super", **config)
    with pytest.raises(UserError, match=message):
        cut(supernet, IDS["mixed"], tmp_path / "out", form="deci")
    assert not (tmp_path / "out").exists()


def test_the_card_says_what_the_network_is_made_of(tmp_path):
    supernet = write_supernet(tmp_path / "super")
    provenance = Provenance("meta-llama/Llama-2-7b-hf@01c7", "tatsu-lab/alpaca@dce0", "1")
    cut(supernet, IDS["mixed"], tmp_path / "out", provenance=provenance)
    card = (tmp_path / "out/README.md").read_text()
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front)["base_model"] == "meta-llama/Llama-2-7b-hf"
    for fact in ("Llama 2 Community License", "CC BY-NC 4.0", "numbers 0, 1, 2, 4, 5", "96, 48, 32, 48, 96"):
        assert fact in text
    assert file_digest(supernet / "model.safetensors") in text and "trust_remote_code=True" in text


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_generation_with_and_without_cache_agrees(world, family, kind):
    found = case(world, family, kind)[3]
    assert found["cache_True"].tolist() == found["cache_False"].tolist()
    assert found["cache_True"].shape == (1, 22)


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_size_is_the_spaces_arithmetic(world, family, kind):
    supernet, folder, subnet, found = case(world, family, kind)
    shape = ModelShape.from_folder(supernet)
    assert found["parameters"] == shape.parameters(subnet)
    assert tuple(found["widths"]) == subnet.widths
    stored = load_file(folder / "model.safetensors")
    assert sum(tensor.nbytes for tensor in stored.values()) == shape.size_bytes(subnet, "fp32")
    record = json.loads((folder / "subnet.json").read_text())
    assert record["parameters"] == found["parameters"]
    assert record["size_bytes"] == {p: shape.size_bytes(subnet, p) for p in PRECISIONS}
    assert (record["subnet_id"], tuple(record["kept_layers"])) == (IDS[kind], subnet.kept)
    assert record["supernet_sha256"] == {p.name: file_digest(p) for p in supernet.glob("*.safetensors")}


def test_only_mixed_widths_need_our_code(world):
    for family, kind in CASES:
        _, folder, _, found = case(world, family, kind)
        mixed = kind == "mixed"
        config = json.loads((folder / "config.json").read_text())
        assert mixed == ("auto_map" in config) == (folder / "modeling_subnet.py").exists() == ("stock" in found)
        assert found["module"].startswith("transformers_modules." if mixed else "transformers.models.")
        if mixed:  # never silently the wrong network
            assert found["stock"] == "AmbiguousGlobalPerLayerAttributeError"


def test_our_loader_runs_no_code_of_the_folder_and_equals_the_fresh_process(world):
    for family in FAMILIES:
        _, folder, _, found = case(world, family, "mixed")
        model = load_model(folder, "fp32")
        assert type(model).__module__ == "llama_nas.models.modeling_subnet"
        with torch.inference_mode():
            assert np.array_equal(model(TOKENS).logits.numpy(), found["logits"])


def test_attention_implementation_can_be_changed_after_loading(world):
    model = load_model(case(world, "llama", "mixed")[1], "fp32")
    with torch.inference_mode():
        before = model(TOKENS).logits.numpy()
        model.set_attn_implementation("eager")
        assert {layer.self_attn.config._attn_implementation for layer in model.model.layers} == {"eager"}
        assert relative_error(model(TOKENS).logits.numpy(), before) < 1e-5


def test_a_saved_copy_of_a_mixed_export_is_the_same_network(world, tmp_path):
    model = load_model(case(world, "llama", "mixed")[1], "fp32")
    model.save_pretrained(tmp_path)
    with torch.inference_mode():
        assert torch.equal(load_model(tmp_path, "fp32")(TOKENS).logits, model(TOKENS).logits)


def test_same_inputs_same_bytes_and_tokenizer_travels(world, tmp_path):
    supernet, folder, _, _ = case(world, "llama", "mixed")
    (tmp_path / "again").mkdir()  # an older result is replaced
    (tmp_path / "again" / "stale.txt").touch()
    cut(supernet, IDS["mixed"], tmp_path / "again")
    assert folder_digest(tmp_path / "again") == folder_digest(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (folder / name).read_bytes() == (supernet / name).read_bytes()


def test_stored_dtype_is_kept_and_large_exports_are_sharded(tmp_path, monkeypatch):
    supernet = write_supernet(tmp_path / "super", shard="40KB", dtype=torch.bfloat16)
    cut(supernet, IDS["mixed"], tmp_path / "one")
    monkeypatch.setattr("llama_nas.exports.export.SHARD_BYTES", 50_000)
    cut(supernet, IDS["mixed"], tmp_path / "many")
    one = load_file(tmp_path / "one/model.safetensors")
    files = sorted((tmp_path / "many").glob("*.safetensors"))
    assert len(files) > 2 and max(path.stat().st_size for path in files) < 55_000
    many = {name: tensor for path in files for name, tensor in load_file(path).items()}
    assert {tensor.dtype for tensor in one.values()} == {torch.bfloat16}
    assert one.keys() == many.keys() and all(torch.equal(one[name], many[name]) for name in one)
    with torch.inference_mode():
        logits = [load_model(tmp_path / name, "bf16")(TOKENS).logits for name in ("one", "many")]
    assert torch.equal(*logits)


def test_what_old_checkpoints_store_needlessly_is_dropped(tmp_path):
    supernet = write_supernet(tmp_path / "super", tie_word_embeddings=True)
    cut(supernet, IDS["mixed"], tmp_path / "clean")
    weights = load_file(supernet / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(weights, supernet / "model.safetensors", metadata={"format": "pt"})
    cut(supernet, IDS["mixed"], tmp_path / "old")
    assert file_digest(tmp_path / "old/model.safetensors") == file_digest(tmp_path / "clean/model.safetensors")


def test_remote_code_of_exports_loaded_at_once_does_not_collide(tmp_path):
    """Two 12-layer exports in two processes at once and both in each, also where the folders have one name."""
    supernet = write_supernet(tmp_path / "super", num_hidden_layers=12)
    ids = ["0101x0x0-1110", "1x000021-2x01"]
    folders = [tmp_path / subnet_id / name for subnet_id in ids for name in (subnet_id, "int8")]
    for folder in folders:
        cut(supernet, folder.parent.name, folder)
    orders = {"forth": folders, "back": folders[::-1]}
    processes = {name: start_probe(tmp_path, name, order) for name, order in orders.items()}
    forth, back = (finish_probe(process, tmp_path, name) for name, process in processes.items())
    for folder, one, other in zip(folders, forth, back[::-1], strict=True):
        assert tuple(one["widths"]) == space_of(supernet).parse(folder.parent.name).widths
        assert np.array_equal(one["logits"], other["logits"])


LM_EVAL = """
import sys
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
lm = HFLM(pretrained=sys.argv[1], trust_remote_code=True, dtype="float32", device="cpu", batch_size=2)
requests = [("5 6 7", " 8 9"), ("5 6", " 30 31 32"), ("1", " 2")]
instances = [Instance("loglikelihood", {}, arguments, i) for i, arguments in enumerate(requests)]
print(*(value for value, _ in lm.loglikelihood(instances)), type(lm.model).__name__)
"""


def test_stock_lm_eval_runs_a_mixed_export(world):
    supernet, folder, subnet, _ = case(world, "llama", "mixed")
    result = subprocess.run(
        [sys.executable, "-c", LM_EVAL, folder], cwd=world[0], env=offline(world[0]), capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    *values, name = result.stdout.split()[-4:]
    assert name == "LlamaSubnetForCausalLM"
    model = load_elastic(supernet)
    for value, (context, continuation) in zip(
        map(float, values), [("5 6 7", "8 9"), ("5 6", "30 31 32"), ("1", "2")], strict=True
    ):
        tokens = torch.tensor([[int(word) + 3 for word in f"{context} {continuation}".split()]])
        with active(model, subnet), torch.inference_mode():
            logprobs = model(tokens).logits.log_softmax(-1)[0, :-1].gather(1, tokens[0, 1:, None])
        assert value == pytest.approx(logprobs[-len(continuation.split()) :].sum().item(), rel=1e-5)


def test_the_real_small_llama_at_full_size_is_itself(hub, tmp_path):
    source = hub / "karpathy/stories260K"
    declared, space = space_of(source, [172, 86]), tmp_path / "space.json"
    declared.write(space)
    export(tmp_path / "00000", supernet=source, space=space, subnet="00000")
    stored, original = load_file(tmp_path / "00000/model.safetensors"), load_file(source / "model.safetensors")
    assert stored.keys() == original.keys()
    assert all(torch.equal(stored[name], original[name]) for name in stored)
    export(tmp_path / "01x10", supernet=source, space=space, subnet="01x10")
    elastic, subnet = load_elastic(source), declared.parse("01x10")
    with active(elastic, subnet), torch.inference_mode():
        wanted = elastic(TOKENS).logits
        torch.testing.assert_close(load_model(tmp_path / "01x10", "fp32")(TOKENS).logits, wanted, rtol=1e-5, atol=1e-4)


def broken(supernet: Path, target: Path, breakage: str) -> Path:
    shutil.copytree(supernet, target)
    weights = target / "model.safetensors"
    config = json.loads((target / "config.json").read_text())
    tensors = load_file(weights)
    if breakage == "truncated":
        os.truncate(weights, weights.stat().st_size - 10)
    elif breakage == "none":
        weights.unlink()
    elif breakage == "shard":
        (target / "model.safetensors.index.json").write_text(
            '{"weight_map": {"a": "model-00001-of-00001.safetensors"}}'
        )
        weights.unlink()
    elif breakage == "lacking":
        del tensors["model.layers.0.mlp.up_proj.weight"]
        save_file(tensors, weights)
    elif breakage == "int8":
        tensors["lm_head.weight"] = tensors["lm_head.weight"].to(torch.int8)
        save_file(tensors, weights)
    else:
        config[breakage] = {"use_sliding_window": True}.get(breakage, {})
    (target / "config.json").write_text(json.dumps(config))
    return target


@pytest.mark.parametrize(
    ("breakage", "message"),
    [
        ("truncated", "not a complete safetensors file"),
        ("none", "only safetensors"),
        ("shard", "model-00001-of-00001.safetensors: not found"),
        ("lacking", "parameters where config.json means"),
        ("int8", "lm_head.weight is stored as I8"),
        ("per_layer_config", "of one width"),
        ("use_sliding_window", "needs layer_types"),
        ("quantization_config", "unquantized"),
    ],
)
def test_a_broken_supernet_is_refused_in_one_line_and_nothing_is_left(tmp_path, breakage, message):
    supernet = broken(write_supernet(tmp_path / "super"), tmp_path / "broken", breakage)
    with pytest.raises(UserError, match=message) as error:
        cut(supernet, IDS["mixed"], tmp_path / "out" / "id")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize(
    ("subnet_id", "message"),
    [
        ("00000", "expected 6 characters"),
        ("xxxxxx", "every layer"),
        ("000003", "one of '012'"),
        ("000-000", "must be written 000000"),
    ],
)
def test_an_id_that_does_not_fit_is_refused(tmp_path, subnet_id, message):
    supernet = write_supernet(tmp_path / "super")
    with pytest.raises(UserError, match=message):
        cut(supernet, subnet_id, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_space_of_another_model_is_refused(tmp_path):
    supernet, other = write_supernet(tmp_path / "super"), write_supernet(tmp_path / "other", intermediate_size=64)
    space = write_space(other, [64, 48])
    with pytest.raises(UserError, match="another shape than the space was declared on"):
        export(tmp_path / "out", supernet=supernet, space=space, subnet="000000")
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_those_of_the_config_do_not_load(world, tmp_path):
    shutil.copytree(case(world, "llama", "depth-only")[1], tmp_path / "copy")
    weights = load_file(tmp_path / "copy/model.safetensors")
    del weights["model.norm.weight"]  # stock loading would make one up, with a warning
    save_file(weights, tmp_path / "copy/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"model\.norm\.weight"):
        load_model(tmp_path / "copy", "fp32")


def test_file_sizes_are_tensors_plus_header(world):
    supernet, folder, subnet, _ = case(world, "llama", "mixed")
    path = folder / "model.safetensors"
    header = 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]
    assert path.stat().st_size - header == ModelShape.from_folder(supernet).size_bytes(subnet, "fp32")
