"""The order of the MLP channels: the same function, and the channels sorted by what they contribute."""

import json

import pytest
import torch
from transformers import LlamaForCausalLM

from llama_nas.core.settings import Compute
from llama_nas.models.folder import CHANNEL_ORDER_FILE
from llama_nas.training.channel_order import order_channels


@pytest.fixture
def ordered(config, tmp_path):
    """A function that orders a base's channels; it returns the folder and the order of each layer's."""

    def run(base):
        output = tmp_path / "ordered"
        order_channels(output, base=base, rows=config.rows, seed=1, compute=Compute())
        return output, json.loads((output / CHANNEL_ORDER_FILE).read_text())

    return run


def test_ordered_channels_are_the_same_function(config, ordered):
    """Permuting rows of gate and up with columns of down changes the order of sums alone: fp32 tolerance 1e-5."""
    folder, order = ordered(config.base)
    before, after = (LlamaForCausalLM.from_pretrained(path) for path in (config.base, folder))
    inputs = torch.randint(0, 256, (4, 50), generator=torch.Generator().manual_seed(0))
    assert not torch.equal(before.model.layers[0].mlp.up_proj.weight, after.model.layers[0].mlp.up_proj.weight)
    torch.testing.assert_close(before(inputs).logits, after(inputs).logits, rtol=1e-5, atol=1e-5)
    for layer, own, new in zip(order, before.model.layers, after.model.layers, strict=True):
        assert sorted(layer) == list(range(48))
        assert torch.equal(own.mlp.gate_proj.weight[layer], new.mlp.gate_proj.weight)
        assert torch.equal(own.mlp.up_proj.weight[layer], new.mlp.up_proj.weight)
        assert torch.equal(own.mlp.down_proj.weight[:, layer], new.mlp.down_proj.weight)


def test_channels_are_ordered_by_their_contribution(config, ordered, tmp_path):
    """Against a hand-made model: its channels differ in nothing but the size of their way out."""
    model = LlamaForCausalLM.from_pretrained(config.base)
    shuffled = torch.randperm(48, generator=torch.Generator().manual_seed(1))
    for layer in model.model.layers:
        layer.mlp.gate_proj.weight.data[:] = layer.mlp.gate_proj.weight.data[:1]
        layer.mlp.up_proj.weight.data[:] = layer.mlp.up_proj.weight.data[:1]
        layer.mlp.down_proj.weight.data[:] = 0.01 * (shuffled + 1.0)
    model.save_pretrained(tmp_path / "base")
    _, order = ordered(tmp_path / "base")
    assert order == [torch.argsort(shuffled, descending=True).tolist()] * 4
