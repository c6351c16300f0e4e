"""The order in which layers are dropped, by the loss without them."""

import json

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from llama_nas.core.errors import UserError
from llama_nas.core.settings import Compute
from llama_nas.core.space import SearchSpace, declare_space
from llama_nas.training.calibration import CALIBRATION_ROWS, calibration_rows
from llama_nas.training.data import TokenRows, load_rows
from llama_nas.training.layer_order import order_layers


@pytest.fixture(scope="module")
def layer_order(config, tmp_path_factory):
    """JSON of `order-layers` down to two of the four layers."""
    path = tmp_path_factory.mktemp("layers") / "layer_order.json"
    order_layers(path, base=config.base, rows=config.rows, smallest_depth=2, seed=1, compute=Compute())
    return path


@torch.no_grad()
def test_the_first_layer_dropped_is_the_one_without_which_the_loss_is_lowest(config, layer_order):
    """By a stock model with each single layer taken out of its list."""
    found = json.loads(layer_order.read_text())
    rows = calibration_rows(load_rows(config.rows, config.base), seed=1)
    losses = []
    for layer in range(4):
        model = LlamaForCausalLM.from_pretrained(config.base)
        del model.model.layers[layer]
        model.config.num_hidden_layers = 3
        total = 0.0
        for x, y in rows:
            kept = y >= 0
            probabilities = model(x, use_cache=False).logits.log_softmax(-1)[kept]
            total += float(probabilities.gather(1, y[kept][:, None]).sum())
        losses.append(-total / sum(int((y >= 0).sum()) for _, y in rows))
    assert found["layer_order"][0] == int(np.argmin(losses))
    assert found["losses"][1] == pytest.approx(min(losses), rel=1e-5)
    assert len(set(found["layer_order"])) == 2 and len(found["losses"]) == 3


def test_a_space_by_importance_drops_the_layers_in_the_measured_order(config, layer_order, tmp_path):
    declare_space(
        tmp_path / "space.json",
        model=config.base,
        depths=[2, 3, 4],
        widths=[48, 24],
        depth_selection="importance",
        layer_order=layer_order,
    )
    first, second = json.loads(layer_order.read_text())["layer_order"]
    dropped = [set(range(4)) - set(kept) for kept in SearchSpace.read(tmp_path / "space.json").kept]
    assert dropped == [{first, second}, {first}, set()]


@pytest.mark.parametrize("depth", [0, 5])
def test_a_depth_that_the_model_has_not_is_refused(config, tmp_path, depth):
    with pytest.raises(UserError, match=rf"--smallest-depth {depth}: must be in 1\.\.4, the model has 4 layers"):
        order_layers(
            tmp_path / "a.json", base=config.base, rows=config.rows, smallest_depth=depth, seed=1, compute=Compute()
        )


def test_calibration_is_a_draw_of_the_rows_by_the_seed():
    """Rows of one prompt token and one response token each, numbered by the latter."""
    count = 2 * CALIBRATION_ROWS
    numbered = np.stack([np.zeros(count), np.arange(count)], axis=1).astype(np.int32).ravel()
    rows = TokenRows(numbered, np.arange(count + 1) * 2, np.ones(count, dtype=np.int32))

    def drawn(seed: int) -> list[int]:
        return [int(label) for _, labels in calibration_rows(rows, seed) for label in labels[:, 0]]

    assert len(set(drawn(1))) == len(drawn(1)) == CALIBRATION_ROWS
    assert drawn(1) == drawn(1) != drawn(2)


def test_rows_of_one_length_are_computed_together_and_nothing_is_padding():
    lengths = np.array([2, 5, 2, 3, 5, 2] * 10)
    tokens = np.ones(lengths.sum(), dtype=np.int32)
    rows = TokenRows(tokens, np.concatenate([[0], np.cumsum(lengths)]), np.ones(len(lengths), dtype=np.int32))
    batches = calibration_rows(rows, seed=1)
    assert sum(len(inputs) for inputs, _ in batches) == len(lengths) and len(batches) < len(lengths) / 4
    assert all(bool((inputs == 1).all()) for inputs, _ in batches)
