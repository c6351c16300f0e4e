"""Stock lm-eval on model folders: its own figures, on the settings asked for."""

from pathlib import Path

import bitsandbytes
import lm_eval
import numpy as np
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tests.support.models import write_space
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from llama_nas.core.artifacts import read_json, write_json
from llama_nas.core.errors import UserError
from llama_nas.core.items import Items
from llama_nas.core.judgement import Metric, read_item_values
from llama_nas.core.settings import Compute, TrieBounds
from llama_nas.exports.export import export
from llama_nas.exports.quantize import quantize
from llama_nas.measuring.lm_eval import run_lm_eval
from llama_nas.scoring.verify import verify
from llama_nas.tasks.compile import compile_task

WIDTHS = [96, 48]


@pytest.fixture(scope="module")
def stories(hub):
    return hub / "karpathy/stories260K"


@pytest.fixture(scope="module")
def tiny(stories, tmp_path_factory):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=WIDTHS[0],
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
    )
    folder = tmp_path_factory.mktemp("tiny")
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(stories).save_pretrained(folder)
    return folder


def compiled(output, lm_eval_task, metric, model, data_root, **settings):
    defaults = {"task": "t", "limit": 8, "bounds": TrieBounds(chunk_tokens=300, group_tokens=5000)}
    compile_task(
        output, lm_eval_task=lm_eval_task, metric=metric, model=model, data_root=data_root, **(defaults | settings)
    )
    return output


@pytest.fixture
def run(hub):
    """Run the stage on a model folder and a compiled task; returns its JSON."""

    def benchmark(output, model, task, precision="fp32"):
        settings = {"batch_size": 4, "compute": Compute(), "data_root": hub}
        run_lm_eval(output, model=model, task=task, precision=precision, **settings)
        return read_json(output)

    return benchmark


def test_figures_are_those_of_simple_evaluate(hub, stories, tmp_path, monkeypatch, run):
    task = compiled(tmp_path / "task", "winogrande", "acc", stories, hub, num_fewshot=2)
    record = run(tmp_path / "b.json", stories, task)
    monkeypatch.chdir(hub)
    model = HFLM(str(stories), dtype="float32", device="cpu", batch_size=4)
    folder = Path(lm_eval.__file__).parent / "tasks/winogrande"
    manager = TaskManager(include_defaults=False, include_path=str(folder))
    stock = lm_eval.simple_evaluate(model, tasks=["winogrande"], num_fewshot=2, limit=8, task_manager=manager)
    results = stock["results"]["winogrande"]
    assert record["metrics"] == {"acc": results["acc,none"], "acc_stderr": results["acc_stderr,none"]}
    samples = sorted(stock["samples"]["winogrande"], key=lambda sample: sample["doc_id"])
    assert record["loglikelihoods"] == [[r[0][0] for r in sample["resps"]] for sample in samples]
    assert record["item_values"] == [sample["acc"] for sample in samples]
    assert (record["num_fewshot"], record["limit"], record["items"]) == (2, 8, 8)
    assert record["bytes_on_disk"] == (stories / "model.safetensors").stat().st_size
    assert record["memory_bytes"] == model.model.get_memory_footprint()
    assert record["versions"]["lm_eval"] == lm_eval.__version__ and record["versions"]["winogrande"] == "1.0"
    assert record["int8_threshold"] is None


def test_same_bytes_twice_and_a_group_has_its_subtasks(hub, stories, tmp_path, run):
    subjects = ["anatomy", "virology"]
    task = compiled(tmp_path / "task", "mmlu", "acc", stories, hub, subtasks=subjects, limit=3)
    record = run(tmp_path / "1.json", stories, task)
    run(tmp_path / "2.json", stories, task)
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()
    assert set(record["subtasks"]) == {"mmlu_anatomy", "mmlu_virology"}
    assert record["metrics"]["acc"] == np.mean([part["acc"] for part in record["subtasks"].values()])
    assert len(record["loglikelihoods"]) == len(record["item_values"]) == record["items"] == 6
    assert np.mean(record["item_values"]) == pytest.approx(record["metrics"]["acc"])


def test_text_metrics_have_no_standard_error(hub, stories, tmp_path, run):
    task = compiled(tmp_path / "task", "tinystories", "bits_per_byte", stories, hub, limit=3)
    record = run(tmp_path / "b.json", stories, task, "fp16")
    assert 0.5 < record["metrics"]["bits_per_byte"] < 2 and record["metrics"]["bits_per_byte_stderr"] is None
    assert [len(item) for item in record["loglikelihoods"]] == [1, 1, 1]
    assert record["item_values"] == [item[0] for item in record["loglikelihoods"]]
    values = read_item_values(tmp_path / "b.json", "t", "bits_per_byte", 3)
    assert Metric("bits_per_byte", False).score(Items.read(task), values) == record["metrics"]["bits_per_byte"]


@pytest.mark.parametrize("key, value", [("num_fewshot", 5), ("limit", 4)])
def test_settings_that_lm_eval_did_not_use_are_refused(key, value, hub, stories, tmp_path, run):
    """TruthfulQA's shots are locked at 0; and a task.json whose limit is not that of its items is stale."""
    task = compiled(tmp_path / "task", "truthfulqa_mc1", "acc", stories, hub)
    write_json(task / "task.json", read_json(task / "task.json") | {key: value})
    with pytest.raises(UserError, match="compile it again"):
        run(tmp_path / "b.json", stories, task)


@pytest.mark.parametrize("subnet_id", ["010", "01x"])
def test_exported_mixed_widths_agree_with_the_search(subnet_id, hub, tiny, tmp_path, run):
    """The export runs its own code through stock lm-eval; the search scores the super-network."""
    task = compiled(tmp_path / "task", "arc_easy", "acc_norm", tiny, hub)
    space = write_space(tiny, WIDTHS)
    export(tmp_path / subnet_id, supernet=tiny, space=space, subnet=subnet_id)
    run(tmp_path / "b.json", tmp_path / subnet_id, task)
    verify(
        tmp_path / "agreement.json",
        supernet=tiny,
        space=space,
        subnet=subnet_id,
        task=task,
        benchmark=tmp_path / "b.json",
        dtype="fp32",
        compute=Compute(),
    )
    record = read_json(tmp_path / "agreement.json")
    assert record["agrees"] is True and record["search_scorer"] == record["lm_eval"]
    assert record["max_difference_per_token"] < 1e-4


def test_fp16_is_how_weights_are_stored_and_a_cpu_computes_them_in_float32(hub, tiny, tmp_path, run):
    """The very log-likelihoods of a float32 folder whose weights were rounded to FP16."""
    task = compiled(tmp_path / "task", "arc_easy", "acc", tiny, hub)
    record = run(tmp_path / "fp16.json", tiny, task, "fp16")
    model = LlamaForCausalLM.from_pretrained(tiny, dtype=torch.float16)
    assert record["memory_bytes"] == model.get_memory_footprint()
    model.float().save_pretrained(tmp_path / "rounded")
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path / "rounded")
    rounded = run(tmp_path / "rounded.json", tmp_path / "rounded", task)
    assert record["loglikelihoods"] == rounded["loglikelihoods"]
    assert (record["dtype"], record["arithmetic"]) == ("float16", "float32")
    assert (rounded["dtype"], rounded["arithmetic"]) == ("float32", "float32")
    assert run(tmp_path / "bf16.json", tiny, task, "bf16")["arithmetic"] == "bfloat16"


def test_int8_folder_says_itself_how_it_is_quantized(hub, tiny, tmp_path, run):
    task = compiled(tmp_path / "task", "arc_easy", "acc", tiny, hub)
    export(tmp_path / "net", supernet=tiny, space=write_space(tiny, WIDTHS), subnet="011")
    quantize(tmp_path / "int8", model=tmp_path / "net", precision="int8")
    half = run(tmp_path / "fp16.json", tmp_path / "net", task, "fp16")
    int8 = run(tmp_path / "int8.json", tmp_path / "int8", task, "int8")
    assert (
        int8["int8_threshold"] == read_json(tmp_path / "int8/config.json")["quantization_config"]["llm_int8_threshold"]
    )
    assert (int8["dtype"], int8["arithmetic"]) == ("float16", "float32")
    assert int8["memory_bytes"] < half["memory_bytes"] and int8["bytes_on_disk"] < half["bytes_on_disk"]
    difference = np.abs(np.concatenate(int8["loglikelihoods"]) - np.concatenate(half["loglikelihoods"]))
    assert 0 < difference.max() < 0.2 * np.abs(np.concatenate(half["loglikelihoods"])).max()
    with pytest.raises(UserError, match="holds int8 weights, asked for fp32"):
        run(tmp_path / "b.json", tmp_path / "int8", task)
    with pytest.raises(UserError, match="holds float weights, asked for int8"):
        run(tmp_path / "b.json", tmp_path / "net", task, "int8")


def test_nf4_folder_is_computed_in_float32_on_every_processor(hub, tiny, tmp_path, monkeypatch, run):
    """bitsandbytes would compute in bfloat16 where a processor can, and refuse rows of 32 and 96."""
    task = compiled(tmp_path / "task", "arc_easy", "acc", tiny, hub)
    quantize(tmp_path / "nf4", model=tiny, precision="nf4")
    found = []
    for can in (True, False):
        monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda can=can: can)
        found.append(run(tmp_path / f"{can}.json", tmp_path / "nf4", task, "nf4"))
    assert found[0] == found[1]
    assert (found[0]["arithmetic"], found[0]["int8_threshold"]) == ("float32", None)
    half = run(tmp_path / "fp16.json", tiny, task, "fp16")
    difference = np.abs(np.concatenate(found[0]["loglikelihoods"]) - np.concatenate(half["loglikelihoods"]))
    assert 0 < difference.max() < 0.5 * np.abs(np.concatenate(half["loglikelihoods"])).max()


def test_only_safetensors_are_loaded(hub, stories, tmp_path, run):
    task = compiled(tmp_path / "task", "arc_easy", "acc", stories, hub)
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled/config.json").write_text((stories / "config.json").read_text())
    (tmp_path / "pickled/pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="only safetensors"):
        run(tmp_path / "b.json", tmp_path / "pickled", task)
