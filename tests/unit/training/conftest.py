"""A tiny base model with its rows, its space and a way to train it; the engine itself is tested in integration/."""

import pytest
from tests.support.models import write_space
from tests.support.training import ROW, byte_tokenizer, write_base, write_rows
from transformers import PreTrainedTokenizerFast

from llama_nas.core.space import SearchSpace
from llama_nas.training.config import TrainingConfig


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


@pytest.fixture(scope="session")
def config(tmp_path_factory) -> TrainingConfig:
    """Two ranks with ZeRO-2 on 20 equal rows; 2 to 4 layers, each at full or half width."""
    folder = tmp_path_factory.mktemp("training")
    base = write_base(folder / "base", hidden_size=8, num_hidden_layers=4, num_attention_heads=2)
    return TrainingConfig(
        base=base,
        rows=write_rows(folder / "rows", base, [ROW] * 20),
        space=write_space(base, widths=[48, 24], depths=[2, 3, 4]),
        output=folder / "output",
        checkpoints=folder / "checkpoints",
        checkpoint_every=10,
        seed=1,
        ranks=2,
        zero_stage=2,
        dtype="fp32",
        epochs=2.5,
        global_batch=8,
        micro_batch=2,
        learning_rate=1e-3,
        warmup=0.1,
        weight_decay=0.0,
        max_grad_norm=0.0,
    )


@pytest.fixture(scope="session")
def space(config) -> SearchSpace:
    return config.search_space
