"""The table of layer costs: what is timed, how it is fitted, and that it is of the networks an export has."""

import json
import logging

import numpy as np
import pytest
import torch
from export_cases import WIDTHS, write_supernet, zero_padded

from llama_nas import costs
from llama_nas.core.artifacts import read_json
from llama_nas.core.errors import UserError
from llama_nas.core.space import ModelShape, SearchSpace
from llama_nas.measuring.costs import Parts, layer_table, measure_costs, predict, uniform_networks
from llama_nas.models.folder import load_model
from llama_nas.search.goals import Declared
from llama_nas.search.tables import Task

SPACE = SearchSpace(6, (4, 6), tuple(WIDTHS))
SETTINGS = {"depths": [4, 6], "widths": WIDTHS, "depth_selection": "even", "dtype": "fp32", "batch_size": 2}
SETTINGS |= {
    "sequence_length": 16,
    "new_tokens": 3,
    "repeats": 3,
    "checks": 2,
    "seed": 1,
    "device": "cpu",
    "threads": 1,
}


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def base(request, tmp_path_factory):
    return write_supernet(tmp_path_factory.mktemp("costs") / request.param, model_type=request.param)


def test_what_is_timed_computes_what_the_network_computes(base):
    """Put together from parts, in any order: the logits of a stock model whose dropped channels are zero."""
    parts = Parts(load_model(base, "fp32"), SPACE.widths)
    tokens = torch.arange(24).reshape(2, 12)
    for subnet_id in ("012x10", "000000", "x1x222", "012x10"):
        subnet = SPACE.parse(subnet_id)
        with torch.inference_mode():
            network = parts.network(subnet)
            expected = zero_padded(base, subnet)(tokens).logits
            cached = network(tokens[:, :-1], use_cache=True)
            step = network(tokens[:, -1:], past_key_values=cached.past_key_values).logits
        assert torch.allclose(cached.logits, expected[:, :-1], atol=1e-5)
        assert torch.allclose(step, expected[:, -1:], atol=1e-5)
        shape = ModelShape.from_folder(base)
        assert sum(p.numel() for p in network.parameters()) == shape.parameters(subnet)
        down = [layer.mlp.down_proj.weight for layer in network.model.layers]
        assert all(weight.is_contiguous() for weight in down)
        assert tuple(weight.shape[1] for weight in down) == subnet.kept_widths


def test_a_table_of_sums_is_found_again():
    table = {"overhead_seconds": 0.5, "layer_seconds": {"96": 0.25, "48": 0.125, "32": 0.1}}
    for space in (SPACE, SearchSpace(6, (6,), tuple(WIDTHS))):
        networks = uniform_networks(space)
        assert networks[0].layers < networks[-1].layers and networks[-1] == space.full
        assert len(networks) == 6 and all(len(set(network.kept_widths)) == 1 for network in networks)
        found = layer_table(space, {network: predict(table, network) for network in networks})
        assert found["overhead_seconds"] == pytest.approx(0.5)
        assert found["layer_seconds"] == pytest.approx(table["layer_seconds"])


def test_a_measurement_has_every_field(base, tmp_path):
    measure_costs(tmp_path / "layers.json", model=base, **SETTINGS)
    table = read_json(tmp_path / "layers.json")
    assert table["device"] == "cpu" and table["device_name"] and table["threads"] == 1 and table["dtype"] == "fp32"
    assert table["versions"].keys() == {"torch", "transformers"}
    assert [table[key] for key in ("batch_size", "sequence_length", "new_tokens", "repeats")] == [2, 16, 3, 3]
    space = SearchSpace.for_model(ModelShape.from_folder(base), [4, 6], WIDTHS, "even")
    for phase in ("prefill", "decode"):
        rows = [row for row in table["networks"] if row["phase"] == phase]
        assert [row["use"] for row in rows] == ["fit"] * 6 + ["check"] * 4
        smallest = space.id(space.subnet((0, *[2] * 6)))
        assert [row["subnet_id"] for row in rows[6:8]] == [smallest, "000000"]
        for row in rows:
            assert 0 < row["measured_q1"] <= row["measured_seconds"] <= row["measured_q3"]
            error = row["predicted_seconds"] / row["measured_seconds"] - 1
            assert row["relative_error"] == pytest.approx(error, abs=1e-9)
        errors = [abs(row["relative_error"]) for row in rows if row["use"] == "check"]
        assert table["phases"][phase]["largest_error"] == max(errors)


def test_a_table_that_does_not_hold_is_warned_about(base, tmp_path, monkeypatch, caplog):
    """Seconds that are no sum over layers: mixed networks take twice as long as the table says. The search reads it."""

    def clock(network, phase, runs):
        widths = [layer.mlp.gate_proj.out_features for layer in network.model.layers]
        return [phase.steps * (1 + sum(widths) / 96) * (2 if len(set(widths)) > 1 else 1)] * runs

    monkeypatch.setattr(costs, "run_seconds", clock)
    with caplog.at_level(logging.WARNING):
        measure_costs(tmp_path / "layers.json", model=base, **SETTINGS)
    table = json.loads((tmp_path / "layers.json").read_text())
    assert table["phases"]["decode"]["overhead_seconds"] == pytest.approx(1)
    assert table["phases"]["decode"]["layer_seconds"] == pytest.approx({"96": 1, "48": 0.5, "32": 1 / 3})
    assert table["phases"]["decode"]["largest_error"] == pytest.approx(0.5)
    assert caplog.text.count("this table is off by -50 %") == 4  # two networks, two phases

    shape = ModelShape.from_folder(base)
    space = SearchSpace.for_model(shape, [4, 6], WIDTHS, "even")
    goals = Declared(["metric", "latency"], costs=tmp_path / "layers.json").on(space, shape, Task("toy", "acc", True))
    rows = [row for row in table["networks"] if row["phase"] == "decode"]
    genotypes = np.array([space.genotype(space.parse(row["subnet_id"])) for row in rows])
    seconds = goals.objectives(space, genotypes, np.zeros(len(rows)))[:, 0]
    assert seconds == pytest.approx([row["predicted_seconds"] for row in rows])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sequence_length": 62}, r"costs\.sequence_length 62 and costs\.new_tokens 3 are beyond the 64 positions"),
        ({"widths": [48, 96]}, r"space\.widths must start with the model's full MLP width 96"),
    ],
)
def test_bad_settings_are_one_line(base, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        measure_costs(tmp_path / "layers.json", model=base, **(SETTINGS | change))
    assert not (tmp_path / "layers.json").exists()
