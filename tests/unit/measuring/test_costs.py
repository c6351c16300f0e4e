"""The tables of layer costs: what is timed, how they are fitted, that they are of the networks an export has, and what
the search and the analysis make of a cost that they do not know by name."""

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import least_squares
from tests.support.judging import close_search, write_items
from tests.support.models import WIDTHS, write_supernet, zero_padded

from llama_nas.analysis import figures
from llama_nas.core.artifacts import read_json, read_table, write_json
from llama_nas.core.costs import UNITS, LayerCosts
from llama_nas.core.errors import UserError
from llama_nas.core.settings import Compute
from llama_nas.core.shape import ModelShape
from llama_nas.core.space import SearchSpace
from llama_nas.measuring import costs
from llama_nas.measuring.costs import Parts, layer_table, measure_costs, predict, uniform_networks
from llama_nas.measuring.settings import CostSettings
from llama_nas.models.folder import load_model
from llama_nas.search.goals import resolve
from llama_nas.search.pick import pick
from llama_nas.search.settings import GoalSettings
from llama_nas.search.tables import EVALUATION_COLUMNS, Task

TIMING = CostSettings(batch_size=2, sequence_length=16, new_tokens=3, repeats=3, checks=2)
PHASES = ("prefill", "decode")


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def base(request, tmp_path_factory) -> Path:
    return write_supernet(tmp_path_factory.mktemp("costs") / request.param, model_type=request.param)


def declared(model: Path, depths=(4, 6), widths=WIDTHS) -> SearchSpace:
    return SearchSpace.declare(ModelShape.from_folder(model), depths, widths, "even")


def measure(model: Path, folder: Path, space: SearchSpace | None = None, timing: CostSettings = TIMING) -> list[Path]:
    """Run the stage; returns the tables of a prefill and of a decode step."""
    (space or declared(model)).write(folder / "space.json")
    paths = [folder / f"latency-{phase}.json" for phase in PHASES]
    outputs = dict(zip(PHASES, paths, strict=True))
    settings = {"dtype": "fp32", "timing": timing, "seed": 1, "compute": Compute()}
    measure_costs(model=model, space=folder / "space.json", **settings, **outputs)
    return paths


def test_what_is_timed_computes_what_the_network_computes(base):
    """Put together from parts, in any order: the logits of a stock model whose dropped channels are zero."""
    space = declared(base)
    parts = Parts(load_model(base, "fp32"), space.blocks)
    tokens = torch.arange(24).reshape(2, 12)
    for subnet_id in ("012x10", "000000", "x1x222", "012x10"):
        subnet = space.parse(subnet_id)
        with torch.inference_mode():
            network = parts.network(subnet)
            expected = zero_padded(base, subnet)(tokens).logits
            cached = network(tokens[:, :-1], use_cache=True)
            step = network(tokens[:, -1:], past_key_values=cached.past_key_values).logits
        assert torch.allclose(cached.logits, expected[:, :-1], atol=1e-5)
        assert torch.allclose(step, expected[:, -1:], atol=1e-5)
        assert sum(p.numel() for p in network.parameters()) == space.shape.parameters(subnet)
        down = [layer.mlp.down_proj.weight for layer in network.model.layers]
        assert all(weight.is_contiguous() for weight in down)
        assert tuple(weight.shape[1] for weight in down) == subnet.widths


def test_a_table_of_sums_is_found_again(base):
    table = LayerCosts("latency", 0.5, (0.25, 0.125, 0.1))
    for space in (declared(base), declared(base, [6])):
        networks = uniform_networks(space)
        assert networks[0].layers < networks[-1].layers and networks[-1] == space.full
        assert len(networks) == 6 and all(len(set(network.widths)) == 1 for network in networks)
        found = layer_table(space, {network: predict(space, table, network) for network in networks})
        assert found.without == pytest.approx(0.5)
        assert found.of_block == pytest.approx(table.of_block)


def test_a_table_fits_relative_errors(base):
    """Seconds that no sum meets, of small and of large networks: the solution is that of an independent optimiser."""
    space = declared(base)
    networks = uniform_networks(space)
    off = np.array([1.3, 1.0, 0.8, 1.1, 1.0, 0.9])
    measured = off * [predict(space, LayerCosts("latency", 0.1, (5.0, 0.5, 0.02)), network) for network in networks]

    def errors(terms: np.ndarray) -> np.ndarray:
        table = LayerCosts("latency", terms[0], tuple(terms[1:]))
        return np.array([predict(space, table, network) for network in networks]) / measured - 1

    found = layer_table(space, dict(zip(networks, measured.tolist(), strict=True)))
    best = least_squares(errors, np.ones(4), xtol=1e-12, ftol=1e-12, gtol=1e-12)
    assert (found.without, *found.of_block) == pytest.approx(best.x, rel=1e-5)
    assert 0.001 < best.cost < 0.1  # there is an error to share out


def test_a_measurement_has_every_field(base, tmp_path):
    space = declared(base)
    for phase, path in zip(PHASES, measure(base, tmp_path), strict=True):
        table = read_json(path)
        assert (table["cost"], table["unit"], table["phase"]) == ("latency", "s", phase)
        assert table["device"] == "cpu" and table["device_name"] and table["threads"] == 1 and table["dtype"] == "fp32"
        assert table["versions"].keys() == {"torch", "transformers"}
        assert {key: table[key] for key in dataclasses.asdict(TIMING)} == dataclasses.asdict(TIMING)
        assert table["blocks"] == [{"mlp_width": width} for width in WIDTHS]
        assert table["shape"] == dataclasses.asdict(space.shape)
        rows = table["networks"]
        assert [row["use"] for row in rows] == ["fit"] * 6 + ["check"] * 4
        smallest = space.id(space.subnet((0, *[2] * 6)))
        assert [row["subnet_id"] for row in rows[6:8]] == [smallest, "000000"]
        for row in rows:
            assert 0 < row["measured_q1"] <= row["measured_seconds"] <= row["measured_q3"]
            error = row["predicted_seconds"] / row["measured_seconds"] - 1
            assert row["relative_error"] == pytest.approx(error, abs=1e-9)
        errors = [abs(row["relative_error"]) for row in rows if row["use"] == "check"]
        assert table["largest_error"] == max(errors)


def test_a_table_that_does_not_hold_is_warned_about_and_read_by_the_search(base, tmp_path, monkeypatch, caplog):
    """Seconds that are no sum over layers: mixed networks take twice as long as the table says."""

    def clock(network, phase, runs):
        widths = [layer.mlp.gate_proj.out_features for layer in network.model.layers]
        return [phase.steps * (1 + sum(widths) / 96) * (2 if len(set(widths)) > 1 else 1)] * runs

    monkeypatch.setattr(costs, "run_seconds", clock)
    with caplog.at_level(logging.WARNING):
        paths = measure(base, tmp_path)
    assert caplog.text.count("this table is off by -50 %") == 4  # two networks, two phases

    space = declared(base)
    for path in paths:
        table = LayerCosts.read("latency", path, space)
        assert table.without == pytest.approx(1)
        assert table.of_block == pytest.approx((1, 0.5, 1 / 3))
        assert read_json(path)["largest_error"] == pytest.approx(0.5)
        settings = GoalSettings(objectives=["metric", "latency"], measured=[f"latency={path}"])
        goals = resolve(settings, space, Task("toy", "acc", True))
        rows = read_json(path)["networks"]
        genotypes = np.array([space.genotype(space.parse(row["subnet_id"])) for row in rows])
        seconds = goals.objectives(space, genotypes, np.zeros(len(rows)))[:, 0]
        assert seconds == pytest.approx([row["predicted_seconds"] for row in rows])


def test_settings_beyond_the_models_positions_are_one_line(base, tmp_path):
    message = r"costs\.sequence_length 62 and costs\.new_tokens 3 are beyond the 64 positions"
    with pytest.raises(UserError, match=message):
        measure(base, tmp_path, timing=dataclasses.replace(TIMING, sequence_length=62))
    assert not list(tmp_path.glob("latency*"))


def test_a_space_of_another_model_is_one_line(base, tmp_path):
    other = write_supernet(tmp_path / "other", intermediate_size=48)
    with pytest.raises(UserError, match="another shape than the space was declared on"):
        measure(base, tmp_path, declared(other, widths=[48, 32]))
    assert not list(tmp_path.glob("latency*"))


@pytest.fixture
def energy(tmp_path, monkeypatch) -> Path:
    """A finished search for metric and energy, a cost that is nothing but a unit and a table; returns its results.

    The middle width costs least, so that the networks of the front are not those that are on it for their size.
    """
    monkeypatch.setitem(UNITS, "energy", "J")
    config = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 6}
    shape = ModelShape.from_config(config | {"num_attention_heads": 8, "vocab_size": 64})
    space = SearchSpace.declare(shape, [4, 6], WIDTHS)
    space.write(tmp_path / "space.json")
    table = tmp_path / "energy.json"
    LayerCosts("energy", 2.0, (8.0, 1.0, 4.0)).write(table, space, {"device_name": "a meter"})
    assert read_json(table)["unit"] == "J" and LayerCosts.read("energy", table, space).without == 2.0

    accuracy = {"000000": 0.9, "111111": 0.7, "222222": 0.6, "0111xx": 0.8, "2222xx": 0.5}
    networks = [space.parse(subnet_id) for subnet_id in accuracy]
    evaluations = pd.DataFrame({"subnet_id": accuracy.keys(), "acc": accuracy.values(), "items": 100, "round": 1})
    evaluations["layers"] = [network.layers for network in networks]
    evaluations["parameters"] = [shape.parameters(network) for network in networks]
    evaluations["size_bytes"] = [shape.size_bytes(network) for network in networks]
    evaluations = evaluations.reindex(columns=[*EVALUATION_COLUMNS, "acc", "items"], fill_value=0)
    evaluations.to_csv(tmp_path / "evaluations.csv", index=False)
    results = tmp_path / "results"
    space.write(results / "space.json")
    write_json(results / "tasks/toy/task.json", {"task": "toy", "metric": "acc", "higher_is_better": True})
    write_items(results / "tasks/toy", 1000)
    inputs = {
        "space": tmp_path / "space.json",
        "task": results / "tasks/toy",
        "evaluations": tmp_path / "evaluations.csv",
        "goals": GoalSettings(objectives=["metric", "energy"], measured=[f"energy={table}"]),
    }
    close_search(results / "search/toy", inputs, lambda ids: np.array([accuracy[id] for id in ids]), base=0.9)
    return results


JOULES = {"111111": 2.0 + 6 * 1.0, "0111xx": 2.0 + 8.0 + 3 * 1.0, "000000": 2.0 + 6 * 8.0}  # of the front's networks


def test_a_cost_that_no_code_names_is_a_column_of_the_front(energy):
    front = read_table(energy / "search/toy/front.csv")
    assert front.columns[-1] == "energy"
    assert dict(zip(front["subnet_id"], front["energy"], strict=True)) == JOULES


def test_a_cost_that_no_code_names_is_part_of_the_answer_to_a_question(energy, capsys):
    space = SearchSpace.read(energy / "space.json")
    limit = str(space.shape.size_bytes(space.parse("0111xx")))
    pick(task="toy", results=energy, max_size=limit, min_accuracy=0.75, output=energy / "answer.json")
    assert "\nenergy 13 J, by the layers' costs\n" in capsys.readouterr().out
    answer = read_json(energy / "answer.json")
    assert answer["subnet_id"] == "0111xx" and answer["costs"] == {"energy": 13.0}


def test_a_cost_that_no_code_names_has_a_panel_in_the_figure(energy, monkeypatch):
    summary = pd.DataFrame(
        [{"task": "toy", "model": "000000", "label": "toy", "role": "member", "precision": "fp16", "value": 0.9}]
    )
    summary = summary.assign(stderr=0.01, size_bytes=10**6, metric="acc", higher_is_better=True, chance=0.25)
    evaluations, front = read_table(energy.parent / "evaluations.csv"), read_table(energy / "search/toy/front.csv")
    monkeypatch.setattr(figures, "svg", lambda figure: figure)
    _, panel = figures.front_figure(summary.assign(recommended=False), evaluations, front, "GB").axes
    assert panel.get_xlabel().startswith("energy by the layers' costs (J)")
    assert panel.lines[0].get_xdata().tolist() == sorted(JOULES.values())
