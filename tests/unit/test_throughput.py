"""Throughput: models take turns, the statistics are right, the columns are the contract's."""

import numpy as np
import pytest
from export_cases import WIDTHS, write_supernet

from llama_nas import throughput
from llama_nas.artifacts import read_table
from llama_nas.errors import UserError
from llama_nas.export import export_subnet
from llama_nas.quantize import quantize_folder
from llama_nas.throughput import measure_throughput

COLUMNS = "model,precision,device,threads,batch_size,sequence_length,repeats"
SETTINGS = {"batch_size": 2, "sequence_length": 16, "repeats": 3, "device": "cpu", "threads": 1}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[str]:
    root = tmp_path_factory.mktemp("throughput")
    supernet = write_supernet(root / "super")
    export_subnet(root / "012x10", supernet=supernet, widths=WIDTHS, subnet_id="012x10")
    quantize_folder(root / "int8", model=root / "012x10")
    return [f"pretrained:fp32={supernet}", f"b:fp16={root / '012x10'}", f"x:y:int8={root / 'int8'}"]


@pytest.mark.parametrize("short_of_memory", [False, True])
def test_every_model_and_precision_is_measured(models, tmp_path, monkeypatch, short_of_memory):
    if short_of_memory:
        monkeypatch.setattr(throughput, "_free_bytes", lambda device: 0)
    measure_throughput(tmp_path / "t.csv", models=models, **SETTINGS)
    table = read_table(tmp_path / "t.csv")
    quartiles = ["tokens_per_second_q1", "tokens_per_second", "tokens_per_second_q3"]
    assert list(table) == [*COLUMNS.split(","), quartiles[1], quartiles[0], quartiles[2]]
    assert table["model"].tolist() == ["pretrained", "b", "x:y"]
    assert table["precision"].tolist() == ["fp32", "fp16", "int8"]
    assert (table[quartiles[0]] > 0).all() and (table[quartiles].diff(axis=1).iloc[:, 1:] >= 0).all(axis=None)


def test_models_take_turns_and_the_median_is_of_tokens_per_second(models, tmp_path, monkeypatch):
    order: list[str] = []
    seconds = {"float32": iter([9, 9, 1.0, 2.0, 4.0]), "float16": iter([9, 9, 8.0, 8.0, 8.0])}

    def clock(network, batch_size, sequence_length):
        name = str(network.dtype).removeprefix("torch.")
        order.append(name)
        return next(seconds[name])

    monkeypatch.setattr(throughput, "_prefill_seconds", clock)
    measure_throughput(tmp_path / "t.csv", models=models[:2], **SETTINGS)
    assert order == ["float32", "float16"] * 5  # two warm-up turns and three timed ones
    first = read_table(tmp_path / "t.csv").iloc[0]
    assert first["tokens_per_second"] == 16
    assert first["tokens_per_second_q1"] == np.percentile([32, 16, 8], 25)
    assert first["tokens_per_second_q3"] == np.percentile([32, 16, 8], 75)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": ["pretrained=somewhere"]}, "NAME:PRECISION=FOLDER"),
        ({"models": ["a:fp8=somewhere"]}, "NAME:PRECISION=FOLDER"),
        ({"models": ["a:fp16=nowhere"]}, "nowhere"),
        ({"sequence_length": 65}, "64 positions"),
        ({"repeats": 0}, "at least 1"),
    ],
)
def test_bad_input_is_refused(models, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        measure_throughput(tmp_path / "t.csv", **({"models": models[:1]} | SETTINGS | change))
    assert not (tmp_path / "t.csv").exists()
