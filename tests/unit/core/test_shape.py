"""Exact sizes: against real parameter counts, and against every computed row of the paper's tables."""

from typing import get_args

import numpy as np
import pytest
from tests.support.spaces import LLAMA2_7B, NARROW, PAPER_SPACE, WIDE, network

from llama_nas.core.precisions import (
    BYTES_PER_WEIGHT,
    PRECISIONS,
    QUANTIZED,
    FloatPrecision,
    Precision,
    QuantizedPrecision,
)
from llama_nas.core.shape import Block, ModelShape, Subnet, network_of, with_widths
from llama_nas.core.space import grouped
from llama_nas.core.units import GIB


def of_paper(layers: int, narrow: int, total: int = 32) -> Subnet:
    """A network of the paper's space with this many layers, the last `narrow` of them narrow."""
    return network((WIDE,) * (layers - narrow) + (NARROW,) * narrow + (None,) * (total - layers))


# ------------------------------------------------------------------ against real models

TINY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 50,
    "max_position_embeddings": 64,
}
MODELS = {
    "llama": ("llama", {}),
    "llama-grouped-queries": ("llama", {"num_key_value_heads": 2}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama-attention-bias": ("llama", {"attention_bias": True, "num_key_value_heads": 1}),
    "llama-mlp-bias": ("llama", {"mlp_bias": True}),
    "llama-head-dim": ("llama", {"head_dim": 16}),
    "mistral": ("mistral", {"num_key_value_heads": 2}),
    "mistral-ignores-biases": ("mistral", {"attention_bias": True, "mlp_bias": True}),
    "mistral-default-kv-heads": ("mistral", {"num_attention_heads": 16, "num_key_value_heads": ...}),
    "qwen2": ("qwen2", {"num_key_value_heads": 2}),
    "qwen2-tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2-ignores-attention-bias": ("qwen2", {"attention_bias": False}),
    "qwen3": ("qwen3", {"num_key_value_heads": 2, "head_dim": 16}),
    "qwen3-default-head-dim": ("qwen3", {"num_key_value_heads": 2}),
    "qwen3-attention-bias": ("qwen3", {"attention_bias": True, "head_dim": 16}),
    "qwen3-tied": ("qwen3", {"tie_word_embeddings": True, "head_dim": 16}),
}


def config_of(name: str) -> dict:
    """A config.json as a user may bring it; `...` leaves a key out."""
    model_type, changes = MODELS[name]
    config = {"model_type": model_type, **TINY, **changes}
    return {key: value for key, value in config.items() if value is not ...}


def real_model(config: dict):
    """The stock transformers model of this config."""
    from transformers import AutoConfig, AutoModelForCausalLM

    keys = dict(config)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(keys.pop("model_type"), **keys))


def parameter_count(model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())  # a shared tensor is listed once


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_those_of_the_real_model(name, tmp_path):
    config = config_of(name)
    model = real_model(config)
    full = with_widths((48, 48, 48))
    assert ModelShape.from_config(config).parameters(full) == parameter_count(model)
    model.config.save_pretrained(tmp_path)  # and of the config.json that transformers writes
    assert ModelShape.from_folder(tmp_path).parameters(full) == parameter_count(model)


@pytest.mark.parametrize("name", MODELS)
def test_a_sub_network_has_the_parameters_of_its_layers(name):
    """Each kept layer counts what the layer of a stock model with that MLP width counts."""
    config = config_of(name)

    def layer(width: int) -> int:
        model = real_model({**config, "num_hidden_layers": 1, "intermediate_size": width})
        return parameter_count(model.model.layers[0])

    model = real_model(config)
    outside_layers = parameter_count(model) - parameter_count(model.model.layers)
    expected = outside_layers + layer(24) + layer(7)
    assert ModelShape.from_config(config).parameters(network((24, None, 7))) == expected


@pytest.mark.parametrize("name", MODELS)
def test_int8_bytes_count_decoder_linears_at_one_byte_and_a_scale_per_row(name):
    from torch import nn

    config = config_of(name)
    model = real_model(config)
    linears = [module for module in model.model.layers.modules() if isinstance(module, nn.Linear)]
    weights = sum(linear.weight.numel() for linear in linears)
    rows = sum(linear.out_features for linear in linears)
    expected = weights + 4 * rows + 2 * (parameter_count(model) - weights)
    assert ModelShape.from_config(config).size_bytes(with_widths((48, 48, 48)), "int8") == expected


@pytest.mark.parametrize("name", MODELS)
def test_decoder_weights_are_the_matrices_of_the_layers(name):
    from torch import nn

    config = config_of(name)
    linears = [module for module in real_model(config).model.layers.modules() if isinstance(module, nn.Linear)]
    weights = sum(linear.weight.numel() for linear in linears)
    assert ModelShape.from_config(config).decoder_weights(with_widths((48, 48, 48))) == weights


def test_llama2_7b_is_the_default_config_of_transformers():
    from transformers import LlamaConfig

    assert ModelShape.from_config(LlamaConfig(vocab_size=32000).to_dict()) == LLAMA2_7B


def test_a_config_json_means_a_network_that_keeps_all_its_layers():
    plain = {"num_hidden_layers": 3, "intermediate_size": 48}
    assert network_of(plain) == with_widths((48, 48, 48)) == ModelShape.from_config(config_of("llama")).full
    mixed = plain | {"per_layer_config": {"0": {"intermediate_size": 24}, "2": {"intermediate_size": 7}}}
    assert network_of(mixed) == with_widths((24, 48, 7))


def test_a_network_knows_its_kept_layers_and_their_widths():
    subnet = network((24, None, 7))
    assert (subnet.layers, subnet.kept, subnet.widths) == (2, (0, 2), (24, 7))
    assert subnet.blocks == (Block(mlp_width=24), None, Block(mlp_width=7))
    assert str(subnet.kept_blocks[0]) == "mlp width 24"


# ------------------------------------------------------------------ the paper's arithmetic


def paper_formula(layers: int, narrow: int) -> int:
    """P(L, n) of the reference, section 4."""
    vocabulary, hidden = 32000, 4096
    of_layers = layers * (4 * hidden**2 + 3 * 11008 * hidden + 2 * hidden)
    return 2 * vocabulary * hidden + hidden + of_layers - narrow * 3 * 5504 * hidden


@pytest.mark.parametrize(
    ("layers", "narrow", "parameters", "gib"),
    [
        # depth, all wide and all narrow
        (32, 0, 6_738_415_616, 12.551),
        (28, 0, 5_928_882_176, 11.043),
        (24, 0, 5_119_348_736, 9.536),
        (32, 32, 4_574_154_752, 8.520),
        (28, 28, 4_035_153_920, 7.516),
        (24, 24, 3_496_153_088, 6.512),
        # computed against printed: the networks of Tables 2 to 5
        (32, 7, 6_264_983_552, 11.669),
        (32, 8, 6_197_350_400, 11.543),
        (32, 9, 6_129_717_248, 11.417),
        (32, 10, 6_062_084_096, 11.292),
        (28, 4, 5_658_349_568, 10.539),
        (32, 16, 5_656_285_184, 10.536),
        (28, 5, 5_590_716_416, 10.414),
        (32, 17, 5_588_652_032, 10.410),
        (28, 8, 5_387_816_960, 10.036),
        (32, 20, 5_385_752_576, 10.032),
        (28, 9, 5_320_183_808, 9.910),
        (32, 21, 5_318_119_424, 9.906),
        (24, 1, 5_051_715_584, 9.410),
        (28, 13, 5_049_651_200, 9.406),
        (32, 25, 5_047_586_816, 9.402),
        (24, 6, 4_713_549_824, 8.780),
        (28, 18, 4_711_485_440, 8.776),
        (32, 30, 4_709_421_056, 8.772),
        (24, 8, 4_578_283_520, 8.528),
        (28, 20, 4_576_219_136, 8.524),
        (24, 14, 4_172_484_608, 7.772),
        (28, 26, 4_170_420_224, 7.768),
        (24, 23, 3_563_786_240, 6.638),
    ],
)
def test_sizes_of_the_papers_networks(layers, narrow, parameters, gib):
    subnet = of_paper(layers, narrow)
    assert LLAMA2_7B.parameters(subnet) == parameters == paper_formula(layers, narrow)
    assert LLAMA2_7B.size_bytes(subnet, "fp16") == 2 * parameters
    assert round(LLAMA2_7B.size_bytes(subnet, "fp16") / GIB, 3) == gib


@pytest.mark.parametrize(
    ("layers", "narrow", "rest_fp32", "rest_fp16", "printed"),
    [
        (32, 0, 7.009, 6.520, 7.0),
        (32, 7, 6.568, 6.079, 6.6),
        (32, 8, 6.505, 6.016, 6.5),
        (32, 9, 6.442, 5.953, 6.4),
        (32, 10, 6.379, 5.890, 6.4),
        (28, 4, 6.003, 5.514, 6.0),
        (32, 16, 6.001, 5.512, 6.0),
        (24, 8, 4.997, 4.508, 5.0),
        (24, 14, 4.619, 4.130, None),
        (24, 23, 4.052, 3.563, None),
    ],
)
def test_int8_sizes_of_the_papers_networks(layers, narrow, rest_fp32, rest_fp16, printed):
    """The paper's INT8 figures hold the rest in FP32; ours holds it in FP16, plus bitsandbytes' scales."""
    subnet = of_paper(layers, narrow)
    rest = 2 * 32000 * 4096 + 4096 + layers * 2 * 4096  # embedding, head, norms
    scales = sum(4 * (4 * 4096 + 2 * width + 4096) for width in subnet.widths)
    ours = LLAMA2_7B.size_bytes(subnet, "int8")
    assert round((ours - scales) / GIB, 3) == rest_fp16
    in_fp32 = (ours - scales + 2 * rest) / GIB
    assert round(in_fp32, 3) == rest_fp32
    if printed is not None:
        assert round(in_fp32, 1) == printed


def test_int8_scales_of_the_full_network_take_5_megabytes():
    full = PAPER_SPACE.full
    without_scales = LLAMA2_7B.parameters(full) - 262_410_240 + 2 * 262_410_240  # embedding, head, norms: 262.4 M
    assert LLAMA2_7B.size_bytes(full, "int8") - without_scales == 5_439_488


def test_the_papers_space_has_87_sizes_and_4_58_billion_networks():
    sizes = [LLAMA2_7B.parameters(of_paper(depth, n)) for depth in (24, 28, 32) for n in range(depth + 1)]
    assert len(sizes) == len(set(sizes)) == 87
    assert PAPER_SPACE.num_networks == 4_580_179_968
    assert int(np.prod(PAPER_SPACE.bounds.astype(object))) == 12_884_901_888


def test_near_ties_differ_by_a_hair_and_the_deeper_network_is_smaller():
    for n in range(9):
        shallow, middle, deep = (LLAMA2_7B.parameters(of_paper(24 + 4 * i, n + 12 * i)) for i in range(3))
        assert shallow - middle == middle - deep == 2_064_384


def test_widths_do_not_depend_on_where_they_are():
    rng = np.random.default_rng(0)
    for _ in range(20):
        subnet = PAPER_SPACE.subnet(PAPER_SPACE.random(rng))
        narrow = subnet.widths.count(NARROW)
        assert LLAMA2_7B.parameters(subnet) == paper_formula(subnet.layers, narrow)


@pytest.mark.parametrize(
    ("depth", "narrow_layers", "parameters", "gib"),
    [
        (32, (3, 4, 18, 25, 26, 28, 29, 32), 6_197_350_400, 11.54),  # ARC-c
        (32, (6, 10, 20, 21, 23, 24, 26, 28, 29, 31), 6_062_084_096, 11.29),  # WinoGrande
        (24, tuple(range(17, 25)), 4_578_283_520, 8.53),  # MMLU
    ],
)
def test_named_architectures(depth, narrow_layers, parameters, gib):
    """Section 7 of the reference; layer numbers there start at 1."""
    codes = ["x" if i > depth else "1" if i in narrow_layers else "0" for i in range(1, 33)]
    subnet_id = grouped("".join(codes))
    subnet = PAPER_SPACE.parse(subnet_id)
    assert LLAMA2_7B.parameters(subnet) == parameters
    assert round(LLAMA2_7B.size_bytes(subnet) / GIB, 2) == gib
    assert PAPER_SPACE.id(subnet) == subnet_id
    assert PAPER_SPACE.subnet(PAPER_SPACE.genotype(subnet)) == subnet


def test_bytes_per_precision():
    full = PAPER_SPACE.full
    parameters = LLAMA2_7B.parameters(full)
    assert [LLAMA2_7B.size_bytes(full, p) // parameters for p in ("fp32", "bf16", "fp16")] == [4, 2, 2]
    assert {*BYTES_PER_WEIGHT, *QUANTIZED} == set(PRECISIONS)
    assert all(LLAMA2_7B.size_bytes(full, precision) > parameters // 2 for precision in PRECISIONS)
    with pytest.raises(ValueError, match="int4"):
        LLAMA2_7B.size_bytes(full, "int4")


def test_the_precisions_of_the_types_are_those_of_the_list():
    assert get_args(Precision) == PRECISIONS
    assert get_args(FloatPrecision) == tuple(BYTES_PER_WEIGHT)
    assert get_args(QuantizedPrecision) == QUANTIZED
