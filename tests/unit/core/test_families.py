"""Model families: what the records say is what transformers, llama.cpp and the exports' modelling file have."""

import pytest
import transformers
from gguf.constants import MODEL_ARCH_NAMES

from llama_nas.core.errors import UserError
from llama_nas.core.families import FAMILIES, family
from llama_nas.models import modeling_subnet


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_familys_class_is_the_one_transformers_makes_of_its_model_type(model_type):
    config = transformers.AutoConfig.for_model(model_type)
    stock = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    assert stock.__name__ == f"{family(model_type).classes}ForCausalLM"


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_family_has_a_class_for_layers_of_different_widths(model_type):
    name = family(model_type).classes
    mixed = getattr(modeling_subnet, f"{name}SubnetForCausalLM")
    assert issubclass(mixed, getattr(transformers, f"{name}ForCausalLM"))


@pytest.mark.parametrize("model_type", FAMILIES)
def test_keys_that_a_config_leaves_out_are_what_transformers_takes(model_type):
    config = transformers.AutoConfig.for_model(model_type, num_attention_heads=64)
    assert all(getattr(config, key) == value for key, value in family(model_type).defaults.items())


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_familys_architecture_is_one_of_llama_cpp(model_type):
    assert family(model_type).gguf in MODEL_ARCH_NAMES.values()


def test_an_unknown_family_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="'gpt2' is not supported; known: llama, mistral, qwen2, qwen3"):
        family("gpt2")
