"""Llama 3, Mistral, Qwen2 and Qwen3, tiny and random, through every stage's own command, against stock software."""

import json
from pathlib import Path

import bitsandbytes
import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from llama_nas.base.pretrain import train_tokenizer
from llama_nas.cli import main
from llama_nas.models.elastic import load_elastic
from llama_nas.models.folder import load_model
from llama_nas.training.data import PROMPT_WITHOUT_INPUT

LLAMA_3_ROPE = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0}
LLAMA_3_ROPE |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 64}
FAMILIES = {
    "llama": {"tie_word_embeddings": True, "rope_parameters": LLAMA_3_ROPE},
    "mistral": {"sliding_window": 32},
    "qwen2": {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 2},
    "qwen3": {"tie_word_embeddings": True},
}
QUESTIONS = [
    ("The sky is", ["blue", "green"], 0),
    ("Grass is", ["blue", "green", "red"], 1),
    ("Snow is", ["white", "hot"], 0),
]
TASK = """task: mine
dataset_path: json
dataset_kwargs: {{ data_files: {folder}/mine.jsonl }}
test_split: train
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: "{{{{c}}}}"
doc_to_target: y
"""


def write_model(folder: Path, model_type: str) -> Path:
    tokenizer = train_tokenizer(["The sky is blue, grass is green and snow is white. Say hi! ### Response:"] * 9, 320)
    torch.manual_seed(0)
    settings = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "head_dim": 16}
    settings |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    settings |= {"initializer_range": 0.1, "bos_token_id": 0, "eos_token_id": 1}
    config = AutoConfig.for_model(model_type, **settings | FAMILIES[model_type])
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def stage(command: str) -> None:
    assert main(command.split()) == 0, command


@pytest.fixture(scope="module", params=FAMILIES)
def run(request, tmp_path_factory) -> Path:
    """A whole run of one family by hand, stage after stage."""
    folder = tmp_path_factory.mktemp(request.param)
    write_model(folder / "model", request.param)
    (folder / "mine.jsonl").write_text(
        "".join(json.dumps({"q": q, "c": c, "y": y}) + "\n" for q, c, y in QUESTIONS * 4)
    )
    (folder / "mine.yaml").write_text(TASK.format(folder=folder))
    (folder / "instructions.json").write_text(json.dumps([{"instruction": "Say hi", "input": "", "output": "hi!"}] * 8))
    f = folder
    declared = f"--space {f}/space.json"
    stage(f"take-base --source {f}/model --output {f}/base")
    stage(f"declare-space --model {f}/base --depths 3 4 --widths 96 48 --output {f}/space.json")
    stage(f"compile-task --task mine --lm-eval-task {f}/mine.yaml --metric acc --model {f}/base --output {f}/task")
    stage(f"tokenize --max-length 256 --base {f}/base --instructions {f}/instructions.json --output {f}/rows")
    stage(
        f"finetune --seed 1 {declared} --base {f}/base --rows {f}/rows --ranks 1 --zero-stage 0 "
        f"--dtype fp32 --epochs 2 --global-batch 8 --micro-batch 8 --learning-rate 0.001 --warmup 0 --weight-decay 0 "
        f"--max-grad-norm 0 --checkpoint-every 9 --checkpoints {f}/checkpoints --output {f}/supernet"
    )
    searched = f"{declared} --task {f}/task"
    stage(f"sample --seed 1 {searched} --algorithm linas --variant default --population 6 --output {f}/candidates.csv")
    stage(
        f"evaluate {searched} --supernet {f}/supernet --candidates {f}/candidates.csv --shard 1 --shards 1 "
        f"--dtype fp32 --output {f}/shard.csv --timings {f}/timings.json"
    )
    stage(
        f"gather {searched} --round 1 --candidates {f}/candidates.csv --shards {f}/shard.csv "
        f"--predictions {f}/predictions.json --output {f}/evaluations.csv"
    )
    stage(f"choose-finalists {searched} --evaluations {f}/evaluations.csv --output {f}/finalists.csv")
    stage(
        f"evaluate {searched} --supernet {f}/supernet --candidates {f}/finalists.csv --shard 1 --shards 1 --judged "
        f"--dtype fp32 --output {f}/judged.csv --timings {f}/timings.json"
    )
    stage(f"run-lm-eval --model {f}/base --task {f}/task --precision fp16 --batch-size 4 --output {f}/base.json")
    stage(
        f"find-front {searched} --evaluations {f}/evaluations.csv --candidates {f}/finalists.csv "
        f"--shards {f}/judged.csv --base {f}/base.json --max-drop 0.01 --judgement {f}/judgement.csv "
        f"--output {f}/front.csv"
    )
    for form in ("hf", "padded"):
        stage(f"export --supernet {f}/supernet {declared} --subnet 01x0 --form {form} --output {f}/{form}")
    for precision in ("int8", "nf4"):
        stage(f"quantize --model {f}/hf --precision {precision} --output {f}/{precision}")
    for precision, model in (("int8", "int8"), ("nf4", "nf4"), ("fp32", "hf")):
        stage(
            f"run-lm-eval --model {f}/{model} --task {f}/task --precision {precision} --batch-size 4 "
            f"--output {f}/{precision}.json"
        )
    stage(
        f"verify {searched} --supernet {f}/supernet --subnet 01x0 --benchmark {f}/fp32.json --dtype fp32 "
        f"--output {f}/agreement.json"
    )
    stage(
        f"measure-throughput --models x:fp16={f}/hf --batch-size 1 --sequence-length 8 --new-tokens 2 --max-batch 2 "
        f"--repeats 1 --output {f}/speed.csv"
    )
    return folder


def test_the_searchs_scorer_agrees_with_stock_lm_eval(run):
    """`verify` compares the search's scorer on the super-network with lm-eval on the exported folder."""
    agreement = json.loads((run / "agreement.json").read_text())
    assert agreement["agrees"] and agreement["requests"] == 28 and agreement["flipped_items"] == []


def test_the_first_training_step_has_the_stock_models_loss(run):
    training = pd.read_csv(run / "supernet/training.csv", dtype={"subnet_id": str})
    assert training["kind"].tolist() == ["full", "subnet"]
    tokenizer = AutoTokenizer.from_pretrained(run / "base")
    prompt = PROMPT_WITHOUT_INPUT.format(instruction="Say hi")
    row = torch.tensor([[*tokenizer(prompt + "hi!")["input_ids"], tokenizer.eos_token_id]])
    labels = row.clone()
    labels[:, : len(tokenizer(prompt)["input_ids"])] = -100
    model = AutoModelForCausalLM.from_pretrained(run / "base")
    with torch.inference_mode():
        loss = model(row, labels=labels).loss.item()
    assert training["loss"][0] == pytest.approx(loss, rel=1e-4)


def test_every_trained_weight_is_of_the_stock_architecture(run):
    trained, stock = load_elastic(run / "supernet"), AutoModelForCausalLM.from_pretrained(run / "base")
    assert trained.state_dict().keys() == stock.state_dict().keys()
    moved = [not torch.equal(value, stock.state_dict()[name]) for name, value in trained.state_dict().items()]
    assert np.mean(moved) > 0.9


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_quantized_exports_are_what_stock_software_quantizes(run, precision, monkeypatch):
    """The folder written by `quantize`, and the plain padded network quantized by transformers while loading.

    Where a processor has AVX512-BF16, bitsandbytes packs 4-bit weights anew, which fails on the network's rows of 48.
    """
    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: False)
    tokens = torch.arange(1, 25).reshape(2, 12)
    form = "padded" if precision == "int8" else "hf"  # zeros shift the borders of NF4's blocks
    settings = {"load_in_8bit": True} if precision == "int8" else {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    config = BitsAndBytesConfig(**settings, bnb_4bit_compute_dtype=torch.float16, llm_int8_skip_modules=["lm_head"])
    stock = AutoModelForCausalLM.from_pretrained(
        run / form, quantization_config=config, dtype=torch.float16, trust_remote_code=form == "hf"
    )
    with torch.inference_mode():
        assert torch.equal(load_model(run / precision, precision)(tokens).logits, stock.eval()(tokens).logits)
    record = json.loads((run / f"{precision}.json").read_text())
    assert record["items"] == 12 and 0 <= record["metrics"]["acc"] <= 1


def test_the_front_is_made_of_evaluated_networks(run):
    front = pd.read_csv(run / "front.csv", dtype={"subnet_id": str})
    evaluated = pd.read_csv(run / "evaluations.csv", dtype={"subnet_id": str})
    assert set(front["subnet_id"]) <= set(evaluated["subnet_id"]) and len(evaluated) == 6
    assert (pd.read_csv(run / "speed.csv")["tokens_per_second"] > 0).all()


STAGES_THAT_TAKE_A_MODEL = [
    "take-base --source FOLDER --output OUT",
    "declare-space --model FOLDER --depths 3 4 --widths 96 48 --output OUT",
    "export --supernet FOLDER --space FOLDER/space.json --subnet 0000 --output OUT",
    "write-gguf --model FOLDER --type f16 --output OUT",
    "quantize --model FOLDER --precision int8 --output OUT",
    "measure-throughput --models x:fp16=FOLDER --batch-size 1 --sequence-length 8 --new-tokens 2 --max-batch 2 "
    "--repeats 1 --output OUT",
]


@pytest.mark.parametrize("command", STAGES_THAT_TAKE_A_MODEL, ids=lambda command: command.split()[0])
def test_another_architecture_is_refused_by_name(tmp_path, command, capsys):
    write_model(tmp_path / "model", "llama")
    path = tmp_path / "model/config.json"
    config = json.loads(path.read_text()) | {"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"]}
    path.write_text(json.dumps(config))
    capsys.readouterr()
    words = command.replace("FOLDER", str(tmp_path / "model")).replace("OUT", str(tmp_path / "out")).split()
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "'gemma2' is not supported; known: llama, mistral, qwen2, qwen3" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
