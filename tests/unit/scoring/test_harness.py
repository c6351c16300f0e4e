"""The scorer as lm-eval's model class and as a command: the same answers as stock HFLM, the same table."""

from pathlib import Path

import lm_eval
import numpy as np
import pytest
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import make_table

from llama_nas.cli import main
from llama_nas.core.artifacts import read_json, write_json
from llama_nas.core.errors import UserError
from llama_nas.core.shape import ModelShape
from llama_nas.core.space import SearchSpace
from llama_nas.exports.export import export
from llama_nas.exports.quantize import quantize
from llama_nas.scoring.harness import TrieLM
from llama_nas.tasks.definitions import load_task
from llama_nas.tasks.simple_evaluate import simple_evaluate

TASKS = Path(lm_eval.__file__).parent / "tasks"


@pytest.fixture(autouse=True)
def in_the_hub(hub, monkeypatch):
    monkeypatch.chdir(hub)  # there, the stock tasks' dataset names are paths


def evaluate(model, task, **settings):
    manager = TaskManager(include_defaults=False, include_path=[str(TASKS / "arc"), str(TASKS / "truthfulqa")])
    return lm_eval.simple_evaluate(model=model, tasks=[task], task_manager=manager, **settings)


def responses(results):
    (samples,) = results["samples"].values()
    return [r[0] for sample in sorted(samples, key=lambda sample: sample["doc_id"]) for r in sample["resps"]]


def test_simple_evaluate_takes_the_class_and_gives_stock_answers(stories):
    ours = evaluate(TrieLM(str(stories), device="cpu", chunk_tokens=200), "arc_easy", limit=20)
    by_name = evaluate("llama-nas", "arc_easy", limit=20, model_args={"pretrained": str(stories), "device": "cpu"})
    stock = evaluate(HFLM(str(stories), device="cpu", dtype="float32", batch_size=8), "arc_easy", limit=20)
    for results in (ours, by_name):
        values, expected = responses(results), responses(stock)
        np.testing.assert_allclose([v for v, _ in values], [v for v, _ in expected], rtol=1e-5)
        assert [greedy for _, greedy in values] == [greedy for _, greedy in expected]
        assert results["results"] == stock["results"]


def test_a_stage_gets_all_of_lm_eval_but_its_report_on_the_machine(stories, hub):
    model = HFLM(str(stories), device="cpu", dtype="float32", batch_size=8)
    stock = evaluate(model, "arc_easy", limit=5)
    ours = simple_evaluate(model, load_task("arc_easy", data_root=hub), None, 5)
    assert ours["results"]["arc_easy"] == stock["results"]["arc_easy"]
    assert "n-shot" in ours and "pretty_env_info" not in ours


def test_rolling_texts_share_one_trie(stories, tmp_path):
    yaml = tmp_path / "stock.yaml"
    yaml.write_text(
        "task: stock\ndataset_path: roneneldan/TinyStories\noutput_type: loglikelihood_rolling\n"
        "validation_split: validation\ndoc_to_text: ''\ndoc_to_target: '{{text}}'\n"
    )
    model = TrieLM(str(stories), device="cpu", batch_size=3)
    ours = evaluate(model, str(yaml), limit=6)
    stock = evaluate(HFLM(str(stories), device="cpu", dtype="float32", batch_size=3), str(yaml), limit=6)
    for metric, value in stock["results"]["stock"].items():
        if isinstance(value, float):
            assert ours["results"]["stock"][metric] == pytest.approx(value, rel=1e-6)
    assert model.batch_size == 3


def test_command_prints_what_lm_eval_prints(stories, hub, tmp_path, capsys):
    output = tmp_path / "results.json"
    arguments = ["--model", str(stories), "--task", "truthfulqa_mc1", "--data", str(hub), "--limit", "30"]
    assert main(["score", *arguments, "--output", str(output)]) == 0
    stock = evaluate(HFLM(str(stories), device="cpu", dtype="float32", batch_size=8), "truthfulqa_mc1", limit=30)
    assert make_table(stock) in capsys.readouterr().out
    record = read_json(output)
    assert record["results"]["truthfulqa_mc1"]["acc,none"] == stock["results"]["truthfulqa_mc1"]["acc,none"]
    assert record["dtype"] == "fp32" and record["n-samples"]["truthfulqa_mc1"]["effective"] == 30


def test_exported_and_int8_folders_need_no_foreign_code(stories, hub, tmp_path, capsys):
    shape = ModelShape.from_folder(stories)
    SearchSpace.declare(shape, [5], [shape.intermediate_size, 64]).write(tmp_path / "space.json")
    export(tmp_path / "net", supernet=stories, space=tmp_path / "space.json", subnet="0101x")
    quantize(tmp_path / "int8", model=tmp_path / "net", precision="int8")
    for folder in ("net", "int8"):
        arguments = ["--model", str(tmp_path / folder), "--task", "arc_easy", "--data", str(hub), "--limit", "20"]
        assert main(["score", *arguments, "--output", str(tmp_path / f"{folder}.json")]) == 0
        own = HFLM(str(tmp_path / folder), device="cpu", batch_size=4, trust_remote_code=True, softmax_dtype="float32")
        stock = evaluate(own, "arc_easy", limit=20)["results"]["arc_easy"]
        out = capsys.readouterr().out
        value = read_json(tmp_path / f"{folder}.json")["results"]["arc_easy"]["acc,none"]
        assert value == pytest.approx(stock["acc,none"], abs=0.1 if folder == "int8" else 1e-12)
        assert ("a result depends on what is computed together" in out) == (folder == "int8")


def test_model_of_another_family_is_refused_by_name(stories, tmp_path):
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=512, n_positions=64)).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(stories).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="model_type 'gpt2' is not supported"):
        TrieLM(str(tmp_path), device="cpu")
    write_json(tmp_path / "config.json", {"model_type": "gemma"})
    assert main(["score", "--model", str(tmp_path), "--task", "arc_easy", "--data", str(tmp_path)]) == 2
