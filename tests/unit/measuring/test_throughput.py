"""Throughput: models take turns, the statistics are right, the columns are the contract's."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.support.models import write_space, write_supernet
from torch.utils.flop_counter import FlopCounterMode

from llama_nas.core.artifacts import read_table
from llama_nas.core.errors import UserError
from llama_nas.core.settings import Compute
from llama_nas.exports.export import export
from llama_nas.exports.quantize import quantize
from llama_nas.measuring import throughput
from llama_nas.measuring.settings import SpeedSettings
from llama_nas.measuring.throughput import Phase, measure_throughput
from llama_nas.models.folder import load_model

COLUMNS = "model,precision,phase,batch_size,sequence_length,new_tokens,tokens_per_second,tokens_per_second_q1"
COLUMNS += ",tokens_per_second_q3,limit_tokens_per_second,device,threads,repeats"
PHASES = ["prefill", "decode", "decode_saturated"]
SPEED = SpeedSettings(batch_size=2, sequence_length=16, new_tokens=4, max_batch=4, repeats=7)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[str]:
    root = tmp_path_factory.mktemp("throughput")
    supernet = write_supernet(root / "super")
    export(root / "012x10", supernet=supernet, space=write_space(supernet), subnet="012x10")
    quantize(root / "int8", model=root / "012x10", precision="int8")
    return [f"pretrained:fp32={supernet}", f"b:fp16={root / '012x10'}", f"x:y:int8={root / 'int8'}"]


@pytest.mark.parametrize("short_of_memory", [False, True])
def test_every_model_precision_and_phase_is_measured(models, tmp_path, monkeypatch, short_of_memory):
    if short_of_memory:
        monkeypatch.setattr(throughput, "_free_bytes", lambda device: 0)
    measure_throughput(tmp_path / "t.csv", models=models, speed=SPEED, compute=Compute())
    table = read_table(tmp_path / "t.csv")
    assert list(table) == COLUMNS.split(",")
    assert table["phase"].tolist() == PHASES * 3
    assert table["model"].unique().tolist() == ["pretrained", "b", "x:y"]
    assert table["precision"].unique().tolist() == ["fp32", "fp16", "int8"]
    quartiles = ["tokens_per_second_q1", "tokens_per_second", "tokens_per_second_q3"]
    assert (table[quartiles[0]] > 0).all() and (table[quartiles].diff(axis=1).iloc[:, 1:] >= 0).all(axis=None)
    assert (table["limit_tokens_per_second"] > 0).all()
    saturated = table[table["phase"] == "decode_saturated"]["batch_size"].unique()
    assert len(saturated) == 1 and saturated[0] in (1, 2, 4)


@pytest.mark.parametrize(("repeats", "turns"), [(7, [3, 3, 1]), (6, [3, 3]), (2, [2])])
def test_models_take_turns_and_the_median_is_of_tokens_per_second(models, tmp_path, monkeypatch, repeats, turns):
    order: list[tuple] = []

    def clock(network, phase, runs):
        order.append((network.config.num_hidden_layers, phase.name, runs))
        return [1.0, 2.0, 4.0][:runs]

    monkeypatch.setattr(throughput, "run_seconds", clock)
    monkeypatch.setattr(throughput, "_saturating_batch", lambda *arguments: 4)
    speed = replace(SPEED, repeats=repeats)
    measure_throughput(tmp_path / "t.csv", models=models[:2], speed=speed, compute=Compute())
    pairs = [(layers, phase) for layers in (6, 5) for phase in PHASES]
    assert order == [(*pair, runs) for runs in (3, *turns) for pair in pairs]  # warm-up, then turns
    table = read_table(tmp_path / "t.csv").set_index(["model", "phase"])
    for phase, tokens in (("prefill", 2 * 16), ("decode", 4), ("decode_saturated", 4 * 4)):
        rates = tokens / np.array([1, 2, 4, 1, 2, 4, 1])[:repeats]
        row = table.loc[("b", phase)]
        assert row["tokens_per_second"] == np.median(rates)
        assert row["tokens_per_second_q1"] == np.percentile(rates, 25)


def test_the_batch_is_doubled_while_that_pays(models, monkeypatch):
    def saturating(rates: dict[int, float], max_batch: int) -> int:
        def clock(network, phase, runs):
            if phase.batch not in rates:
                raise torch.OutOfMemoryError
            return [phase.batch * phase.steps / rates[phase.batch]]

        monkeypatch.setattr(throughput, "run_seconds", clock)
        return throughput._saturating_batch(throughput._parse(models[0]), 16, 4, max_batch, "cpu")

    assert saturating({1: 10, 2: 19, 4: 35, 8: 38, 16: 60}, 64) == 4  # 8 gains 9 %
    assert saturating({1: 10, 2: 19, 4: 35}, 4) == 4
    assert saturating({1: 10}, 1) == 1
    assert saturating({1: 10, 2: 19}, 64) == 2  # 4 does not fit
    with pytest.raises(UserError, match="too large for the device with 16 tokens"):
        saturating({}, 64)


def test_arithmetic_and_bytes_of_a_pass_are_those_of_the_model(models):
    """FLOPs as torch counts them on the stock model; bytes of its own tensors."""
    entry = throughput._parse(models[0])
    model = load_model(entry.folder, "fp32")
    model.set_attn_implementation("eager")
    prefill = Phase("prefill", 3, 16, 1, 0)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.ones(3, 16, dtype=torch.long), logits_to_keep=1)
    heads = 6 * 8 * 8  # layers, heads and their size; torch counts attention to later positions, too: 16, not 8.5
    masked = 3 * 16 * 4 * heads * (16 - 8.5)
    rotary = counter.get_total_flops() - masked - prefill.flops(entry)
    assert 0 <= rotary < 0.001 * counter.get_total_flops()
    decode = Phase("decode", 3, 1, 4, 16)
    weights = sum(p.nbytes for name, p in model.named_parameters() if "embed_tokens" not in name)
    cached = 3 * 2 * 6 * 4 * 8 * 4 * (17 + 18 + 19 + 20)  # rows, keys and values, layers, key heads, size, bytes
    assert decode.bytes(entry, "cpu") == 4 * weights + cached

    half = replace(entry, precision="fp16")
    assert decode.bytes(half, "cpu") == 4 * weights + cached  # computed in float32
    assert decode.bytes(half, "cuda") == (4 * weights + cached) / 2
    linears = [p for name, p in model.named_parameters() if "_proj" in name]
    matrices, scales = sum(p.numel() for p in linears), sum(4 * p.shape[0] for p in linears)
    quantized = decode.bytes(replace(entry, precision="int8"), "cpu")
    assert quantized == 4 * (matrices + scales) + 4 * (weights - 4 * matrices) + cached


@pytest.mark.parametrize(
    ("given", "speed", "message"),
    [
        ("pretrained=somewhere", {}, "NAME:PRECISION=FOLDER"),
        ("a:fp8=somewhere", {}, "NAME:PRECISION=FOLDER"),
        ("a:fp16=nowhere", {}, "nowhere"),
        (None, {"sequence_length": 61}, r"throughput\.sequence_length 61 .* the 64 positions"),
        (None, {"repeats": 0}, "at least 1"),
    ],
)
def test_bad_input_is_refused(models, tmp_path, given, speed, message):
    given = [given] if given else models[:1]
    with pytest.raises(UserError, match=message):
        measure_throughput(tmp_path / "t.csv", models=given, speed=replace(SPEED, **speed), compute=Compute())
    assert not (tmp_path / "t.csv").exists()
