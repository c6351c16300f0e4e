"""A random Llama, its space, and compiled tasks for the tests of the scorer."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.support.models import write_space
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from llama_nas.core.settings import TrieBounds
from llama_nas.core.space import SearchSpace
from llama_nas.tasks.compile import compile_task
from llama_nas.tasks.format import CompiledTask


@pytest.fixture(scope="session")
def stories(hub) -> Path:
    """A small real Llama."""
    return hub / "karpathy/stories260K"


@pytest.fixture(scope="session")
def tiny(stories, tmp_path_factory) -> Path:
    """A random Llama with the tokenizer of stories260K: 4 layers, untied head, grouped queries."""
    folder = tmp_path_factory.mktemp("scoring") / "tiny"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(stories).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def space_file(tiny) -> Path:
    """space.json of the random Llama: 2 to 4 layers, each at full or half width."""
    return write_space(tiny, widths=[96, 48], depths=[2, 3, 4])


@pytest.fixture(scope="session")
def space(space_file) -> SearchSpace:
    return SearchSpace.read(space_file)


@pytest.fixture
def compiled(hub, tmp_path) -> Callable[..., CompiledTask]:
    """A function that compiles a task into the folder `task`; by default with the real benchmarks' data."""

    def run(lm_eval_task: str, metric: str, model: Path, chunk_tokens: int = 300, **settings) -> CompiledTask:
        compile_task(
            tmp_path / "task",
            task="t",
            lm_eval_task=lm_eval_task,
            metric=metric,
            model=model,
            bounds=TrieBounds(chunk_tokens, group_tokens=5000),
            **{"data_root": hub} | settings,
        )
        return CompiledTask.load(tmp_path / "task")

    return run
