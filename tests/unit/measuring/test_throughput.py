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
from llama_nas.measuring.throughput import Phase, Ratio, measure_throughput
from llama_nas.models.folder import load_model

COLUMNS = "model,precision,phase,batch_size,sequence_length,new_tokens,tokens_per_second,tokens_per_second_q1"
COLUMNS += ",tokens_per_second_q3,limit_tokens_per_second,ratio,ratio_lower,ratio_upper,speed_verdict,control"
COLUMNS += ",device,threads,repeats"
PHASES = ["prefill", "decode", "decode_saturated"]
SPEED = SpeedSettings(batch_size=2, sequence_length=16, new_tokens=4, max_batch=4, repeats=7)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[str]:
    root = tmp_path_factory.mktemp("throughput")
    supernet = write_supernet(root / "super")
    export(root / "012x10", supernet=supernet, space=write_space(supernet), subnet="012x10")
    quantize(root / "int8", model=root / "012x10", precision="int8")
    return [f"pretrained:fp32={supernet}", f"b:fp16={root / '012x10'}", f"x:y:int8={root / 'int8'}"]


@pytest.mark.parametrize("free", [10**9, 2 * 10**6, 0])
def test_every_model_precision_and_phase_is_measured(models, tmp_path, monkeypatch, free):
    """Whether all models fit into memory together, each beside the base, or one alone."""
    monkeypatch.setattr(throughput, "_free_bytes", lambda device: free)
    measure_throughput(tmp_path / "t.csv", models=models, control="b:fp16", speed=SPEED, compute=Compute())
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
    base, others = table[table["model"] == "pretrained"], table[table["model"] != "pretrained"]
    assert (base["ratio"] == 1).all() and base[["ratio_lower", "ratio_upper", "speed_verdict"]].isna().all(axis=None)
    ends = others[["ratio_lower", "ratio", "ratio_upper"]]
    assert (ends > 0).all(axis=None) and (ends.diff(axis=1).iloc[:, 1:] >= 0).all(axis=None)
    assert table.loc[table["control"], "model"].tolist() == ["b"] * 3
    assert (table.loc[table["control"], "speed_verdict"] == "about the same").all()


def test_models_share_the_memory_that_there_is(models, monkeypatch):
    """All together where that fits, else each beside the base, else alone; twice the files of each are needed."""
    entries = [throughput._parse(text) for text in models]
    sizes = [2 * (entry.folder / "model.safetensors").stat().st_size for entry in entries]
    for free, groups in (
        (sum(sizes) + 1, [[0, 1, 2]]),
        (sizes[0] + max(sizes[1:]) + 1, [[0, 1], [0, 2]]),
        (sizes[0] + max(sizes[1:]), [[0], [1], [2]]),
    ):
        monkeypatch.setattr(throughput, "_free_bytes", lambda device, free=free: free)
        assert throughput._groups(entries, "cpu") == [[entries[i] for i in group] for group in groups]


def test_each_turn_runs_every_model_once_in_an_order_of_its_own(models, tmp_path, monkeypatch):
    order: list[tuple] = []

    def clock(network, phase, runs):
        layers = network.config.num_hidden_layers
        order.append((layers, phase.name, runs))
        turn = (len(order) - 7) // 6  # six runs of warm-up, then six a turn
        return [(2.0 if layers == 6 else 1.0) * (1, 2, 4)[turn % 3]] * runs

    monkeypatch.setattr(throughput, "run_seconds", clock)
    monkeypatch.setattr(throughput, "_saturating_batch", lambda *arguments: 4)
    measure_throughput(tmp_path / "t.csv", models=models[:2], speed=SPEED, compute=Compute())
    assert [run[2] for run in order] == [throughput.WARMUP_RUNS] * 6 + [1] * 6 * 7
    first = [order[6 + 6 * turn][0] for turn in range(7)]
    assert set(first) == {5, 6}  # now the one, now the other begins
    for turn in range(7):
        runs = order[6 + 6 * turn : 12 + 6 * turn]
        layers = [first[turn]] * 3 + [11 - first[turn]] * 3
        assert runs == [(n, phase, 1) for n, phase in zip(layers, 2 * PHASES[::-1], strict=True)]
    table = read_table(tmp_path / "t.csv").set_index(["model", "phase"])
    for phase, tokens in (("prefill", 2 * 16), ("decode", 4), ("decode_saturated", 4 * 4)):
        rates = tokens / np.array([1, 2, 4, 1, 2, 4, 1])
        row = table.loc[("b", phase)]
        assert row["tokens_per_second"] == np.median(rates)
        assert row["tokens_per_second_q1"] == np.percentile(rates, 25)
        # The machine's drift meets both alike: in every turn the ratio is 2.
        assert row[["ratio", "ratio_lower", "ratio_upper"]].tolist() == [2, 2, 2]
        assert row["speed_verdict"] == "faster"


def test_a_ratio_has_the_interval_of_a_median():
    """Of 20 turns the sixth and the fifteenth in size (binomial: 95.9 %); a few wild turns move nothing."""
    own = np.ones(20)
    base = np.arange(1.0, 21.0)
    assert throughput.ratio(base, own) == Ratio(10.5, 6, 15)
    base[19] = 1000
    assert throughput.ratio(base, own) == Ratio(10.5, 6, 15)
    few = throughput.ratio(base[:5], own[:5])
    assert few.value == 3 and np.isnan([few.lower, few.upper]).all()


def test_the_interval_holds_the_true_ratio_as_often_as_it_says():
    rng = np.random.default_rng(1)
    noise = rng.lognormal(sigma=0.3, size=(2, 600, 12)) * rng.choice([1, 5], p=[0.9, 0.1], size=(2, 600, 12))
    ratios = [throughput.ratio(1.1 * base, own) for base, own in zip(*noise, strict=True)]
    covered = np.mean([own.lower <= 1.1 <= own.upper for own in ratios])
    assert 0.94 <= covered <= 0.98  # 12 turns: exactly 96.1 %


@pytest.mark.parametrize(
    ("own", "control", "expected"),
    [
        (Ratio(1.2, 1.1, 1.3), Ratio(1.0, 0.95, 1.05), "faster"),
        (Ratio(0.8, 0.7, 0.9), Ratio(1.0, 0.95, 1.05), "slower"),
        (Ratio(1.2, 0.99, 1.3), Ratio(1.0, 0.95, 1.05), "about the same"),  # covers 1
        (Ratio(1.2, 1.1, 1.3), Ratio(1.1, 1.02, 1.25), "about the same"),  # within what the control shows
        (Ratio(0.85, 0.8, 0.9), Ratio(1.1, 1.02, 1.25), "about the same"),  # which is no direction
        (Ratio(0.75, 0.7, 0.79), Ratio(1.1, 1.02, 1.25), "slower"),
        (Ratio(1.1, 1.02, 1.25), Ratio(1.1, 1.02, 1.25), "about the same"),  # the control itself
        (Ratio(1.2, 1.1, 1.3), None, "faster"),
        (Ratio(3.0, np.nan, np.nan), None, "about the same"),  # too few turns
        (Ratio(3.0, 2.0, 4.0), Ratio(1.0, np.nan, np.nan), "about the same"),
    ],
)
def test_a_speed_is_called_by_its_interval_and_the_control(own, control, expected):
    assert throughput.verdict(own, control) == expected


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


def test_a_control_that_is_not_measured_is_refused(models, tmp_path):
    with pytest.raises(UserError, match="--control full:fp16"):
        measure_throughput(tmp_path / "t.csv", models=models, control="full:fp16", speed=SPEED, compute=Compute())
