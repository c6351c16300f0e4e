"""The elastic model against stock transformers: whole, and cut to every kind of sub-network."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.support.spaces import network
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from llama_nas.core.errors import UserError
from llama_nas.core.shape import Block, Subnet
from llama_nas.models.elastic import (
    active,
    active_part,
    full_block,
    full_network,
    load_elastic,
    make_elastic,
    set_active,
    set_block,
    subnet_state_dict,
)

SHAPE = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SHAPE)),
    "llama-tied": (LlamaForCausalLM, LlamaConfig(**SHAPE, tie_word_embeddings=True)),
    "llama-biases": (LlamaForCausalLM, LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True)),
    "mistral": (MistralForCausalLM, MistralConfig(**SHAPE, head_dim=8)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SHAPE)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SHAPE, head_dim=16)),
}
SUBNETS = {
    "narrow": network((24, 24, 24, 24)),
    "shallow": network((48, 48, None, None)),
    "mixed": network((48, 24, 7, None)),
    "holes": network((None, 24, None, 48)),
}
TOKENS = torch.randint(0, 61, (3, 17), generator=torch.Generator().manual_seed(1))


def build(name: str):
    """A random model whose biases and norms, too, differ from their initial zeros and ones."""
    model_class, config = MODELS[name]
    torch.manual_seed(7)
    model = model_class(copy.deepcopy(config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def sliced_by_hand(stock, subnet: Subnet):
    """A stock model with `subnet`'s layers and narrower MLPs, put together without the package's code."""
    small = copy.deepcopy(stock)
    layers = [small.model.layers[i] for i in subnet.kept]
    for layer, width in zip(layers, subnet.widths, strict=True):
        for linear, rows, columns in (
            (layer.mlp.gate_proj, width, None),
            (layer.mlp.up_proj, width, None),
            (layer.mlp.down_proj, None, width),
        ):
            linear.weight = torch.nn.Parameter(linear.weight.detach()[:rows, :columns].clone())
            if linear.bias is not None:
                linear.bias = torch.nn.Parameter(linear.bias.detach()[:rows].clone())
    for i, layer in enumerate(layers):
        layer.self_attn.layer_idx = i
    small.model.layers = torch.nn.ModuleList(layers)
    small.config.num_hidden_layers = len(layers)
    return small


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS, use_cache=False).logits


@pytest.mark.parametrize("name", MODELS)
def test_full_network_is_stock_bit_for_bit(name):
    stock = build(name)
    elastic = make_elastic(copy.deepcopy(stock))
    assert torch.equal(logits(elastic), logits(stock))
    assert elastic.state_dict().keys() == stock.state_dict().keys()
    with active(elastic, network((48,) * 4)):
        assert torch.equal(logits(elastic), logits(stock))


@pytest.mark.parametrize("subnet", SUBNETS.values(), ids=SUBNETS)
@pytest.mark.parametrize("name", MODELS)
def test_subnet_is_the_sliced_stock_model(name, subnet):
    stock = build(name)
    elastic = make_elastic(copy.deepcopy(stock))
    with active(elastic, subnet):
        actual = logits(elastic)
    expected = logits(sliced_by_hand(stock, subnet))
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert (actual - logits(stock)).abs().max() > 0.1, "the sub-network is another function than the whole"


def test_narrow_layers_multiply_views_of_the_weights():
    """No tensor of a sliced weight's shape is computed that is not a view of a parameter."""
    elastic = make_elastic(build("llama"))
    weights = {parameter.untyped_storage().data_ptr() for parameter in elastic.parameters()}
    slices = []

    class Slices(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and tuple(result.shape) in ((24, 32), (32, 24)):
                slices.append(result.untyped_storage().data_ptr() in weights)
            return result

    with active(elastic, SUBNETS["narrow"]), Slices():
        logits(elastic)
    assert len(slices) >= 3 * 4 and all(slices)


def test_an_elastic_model_knows_what_its_layers_are():
    elastic = make_elastic(build("llama"))
    assert full_network(elastic) == network((48,) * 4)
    with active(elastic, SUBNETS["mixed"]):
        assert full_network(elastic) == network((48,) * 4), "as they are stored, whatever is active"
    assert full_block(elastic.model.layers[0]) == Block(mlp_width=48)


def test_setting_one_layer_is_setting_a_network_of_it():
    elastic = make_elastic(build("llama"))
    with active(elastic, network((48, 24, 48, 48))):
        expected = logits(elastic)
    set_block(elastic.model.layers[1], Block(mlp_width=24))
    assert torch.equal(logits(elastic), expected)
    set_block(elastic.model.layers[1], full_block(elastic.model.layers[1]))
    assert torch.equal(logits(elastic), logits(build("llama")))


@pytest.mark.parametrize("name", MODELS)
def test_the_active_part_of_a_weight_is_a_view_of_it(name):
    state = build(name).state_dict()
    subnet = SUBNETS["mixed"]
    cut = subnet_state_dict(state, subnet)
    position = {f"model.layers.{layer}.": f"model.layers.{new}." for new, layer in enumerate(subnet.kept)}
    for key, tensor in state.items():
        part = active_part(key, tensor, subnet)
        if key.startswith("model.layers.3."):
            assert part is None
            continue
        assert part.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
        for layer, new in position.items():
            key = key.replace(layer, new) if key.startswith(layer) else key
        assert torch.equal(part, cut[key])


@pytest.mark.parametrize("name", MODELS)
def test_subnet_state_dict_is_the_sliced_stock_model(name):
    stock = build(name)
    for subnet in SUBNETS.values():
        cut = subnet_state_dict(stock.state_dict(), subnet)
        expected = sliced_by_hand(stock, subnet).state_dict()
        assert cut.keys() == expected.keys()
        assert all(torch.equal(cut[key], expected[key]) for key in cut)


def test_active_restores_the_full_network_also_after_an_error():
    elastic = make_elastic(build("llama"))
    full = logits(elastic)
    with pytest.raises(RuntimeError, match="boom"), active(elastic, SUBNETS["mixed"]):
        raise RuntimeError("boom")
    assert torch.equal(logits(elastic), full)
    set_active(elastic, SUBNETS["mixed"])
    set_active(elastic, SUBNETS["narrow"])  # replaces, does not add up
    with active(elastic, SUBNETS["narrow"]):
        narrow = logits(elastic)
    set_active(elastic, SUBNETS["narrow"])
    assert torch.equal(logits(elastic), narrow)


def test_wrong_number_of_layers_is_refused():
    with pytest.raises(ValueError, match="3 layers, the model has 4"):
        set_active(make_elastic(build("llama")), network((48, 48, 48)))


def gradients(model, subnet: Subnet | None) -> dict[str, torch.Tensor | None]:
    model.train().zero_grad()
    with active(model, subnet):
        model(TOKENS, labels=TOKENS, use_cache=False).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("name", MODELS)
def test_inactive_parameters_get_no_gradient(name):
    """Dropped layers none at all, cut channels zeros; kept ones the sliced model's."""
    stock, subnet = build(name), SUBNETS["mixed"]
    found = gradients(make_elastic(copy.deepcopy(stock)), subnet)
    model = sliced_by_hand(stock, subnet).train()
    model(TOKENS, labels=TOKENS, use_cache=False).loss.backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(grad is None for name, grad in found.items() if name.startswith("model.layers.3."))
    kept = {name: grad for name, grad in found.items() if grad is not None}
    assert kept.keys() == expected.keys()
    for key, grad in kept.items():
        inside = tuple(slice(0, size) for size in expected[key].shape)
        torch.testing.assert_close(grad[inside], expected[key], rtol=1e-4, atol=1e-6)
        outside = grad.clone()
        outside[inside] = 0
        assert not outside.any()


@pytest.mark.parametrize("subnet", [None, SUBNETS["mixed"]], ids=["full", "mixed"])
def test_gradient_checkpointing_changes_nothing(subnet):
    """The forward pass is run again in the backward pass and must see the same sub-network."""
    plain = gradients(make_elastic(build("llama")), subnet)
    model = make_elastic(build("llama"))
    model.activation_checkpointing_enable()
    recomputed = gradients(model, subnet)
    for key, grad in plain.items():
        assert (grad is None) == (recomputed[key] is None)
        if grad is not None:
            assert torch.equal(grad, recomputed[key])


def test_saved_elastic_model_loads_in_stock_software(tmp_path):
    stock = build("llama")
    make_elastic(copy.deepcopy(stock)).save_pretrained(tmp_path)
    loaded, info = LlamaForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert torch.equal(logits(loaded.eval()), logits(stock))
    assert torch.equal(logits(load_elastic(tmp_path)), logits(stock))


def test_unreadable_models_are_named(tmp_path):
    build("llama").save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match=r"cannot load the model"):
        load_elastic(tmp_path)
    weights.unlink()
    with pytest.raises(UserError, match=r"cannot load the model"):
        load_elastic(tmp_path)


def test_folder_that_lacks_weights_is_one_clear_line(tmp_path):
    """transformers would fill them with random numbers and warn."""
    build("llama").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.2.mlp.up_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"has no weights for model\.layers\.2\.mlp\.up_proj\.weight, 1 missing"):
        load_elastic(tmp_path)
