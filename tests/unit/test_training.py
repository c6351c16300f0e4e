"""Data, sampling, schedule and checks of super-network fine-tuning; the distributed engine is in integration/."""

import dataclasses
import itertools
import json
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from llama_nas.errors import UserError
from llama_nas.space import SearchSpace
from llama_nas.training import checkpoint, launch, worker
from llama_nas.training.config import TrainingConfig
from llama_nas.training.data import IGNORED, PROMPT_WITH_INPUT, BatchOrder, TokenRows, read_instructions, tokenize
from llama_nas.training.sampling import subnet_at

SPACE = SearchSpace(4, (2, 3, 4), (48, 24))
ROW = {"instruction": "Add.", "input": "1 and 2", "output": "3"}


@pytest.fixture(scope="module")
def tokenizer():
    """Byte-level: one token per byte, so that every expectation can be spelled out."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        special_tokens=["<s>", "</s>"], initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())
    )
    inner.train_from_iterator([], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="module")
def config(tmp_path_factory, tokenizer) -> TrainingConfig:
    folder = tmp_path_factory.mktemp("training")
    model = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=2,
        max_position_embeddings=256,
    )
    LlamaForCausalLM(model).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    (folder / "rows.json").write_text(json.dumps([ROW] * 20))
    return TrainingConfig(
        base=folder / "base",
        instructions=folder / "rows.json",
        output=folder / "output",
        checkpoints=folder / "checkpoints",
        checkpoint_every=10,
        seed=1,
        depths=(2, 3, 4),
        widths=(48, 24),
        depth_selection="first",
        device="cpu",
        threads=1,
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
        max_length=256,
        subnet_steps="alternate",
        gradient_checkpointing=False,
    )


# --- sampling -----------------------------------------------------------------------------------------------------


def test_even_steps_train_the_full_network():
    assert [subnet_at(step, SPACE, 1) is None for step in range(6)] == [True, False] * 3
    assert all(subnet_at(step, SPACE, 1, "never") is None for step in range(6))


def test_draw_depends_on_seed_and_step_alone():
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    first = [subnet_at(step, SPACE, 1) for step in range(1, 40, 2)]
    random.seed(9), np.random.seed(9), torch.manual_seed(9)
    state = np.random.get_state()[1].copy()
    backwards = [subnet_at(step, SPACE, 1) for step in range(39, 0, -2)]
    assert backwards[::-1] == first
    assert (np.random.get_state()[1] == state).all()
    assert [subnet_at(step, SPACE, 2) for step in range(1, 40, 2)] != first


def test_draw_is_uniform_per_gene():
    """Chi-square over depths and over each width gene; the 99.99 % bounds hold for this fixed sequence."""
    draws = [SPACE.genotype(subnet_at(step, SPACE, 3)) for step in range(1, 6001, 2)]
    depths = np.bincount([draw[0] for draw in draws], minlength=3)
    assert ((depths - 1000) ** 2 / 1000).sum() < 18.4
    first_layer = np.bincount([draw[1] for draw in draws], minlength=2)
    assert ((first_layer - 1500) ** 2 / 1500).sum() < 15.1


# --- schedule -----------------------------------------------------------------------------------------------------


def test_learning_rate_warms_up_and_falls_to_zero():
    rates = [worker.learning_rate_at(step, 100, 2.0, 0.1) for step in range(100)]
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) * 0.2)
    assert rates[10] == 2.0
    assert rates[55] == pytest.approx(1.0), "half-way down the cosine"
    assert all(earlier > later > 0 for earlier, later in itertools.pairwise(rates[10:]))
    assert worker.learning_rate_at(100, 100, 2.0, 0.1) == pytest.approx(0)
    assert worker.learning_rate_at(0, 10, 2.0, 0.0) == 2.0
    assert worker.learning_rate_at(9, 10, 2.0, 1.0) == 2.0


# --- instructions -------------------------------------------------------------------------------------------------


def test_prompts_are_stanford_alpacas(tmp_path):
    path = tmp_path / "rows.json"
    rows = [ROW, {"instruction": "Say {hi}.", "input": "", "output": " hi "}, {"instruction": "Go.", "output": "on"}]
    path.write_text(json.dumps(rows))
    assert read_instructions(path) == [
        (
            "Below is an instruction that describes a task, paired with an input that provides further context. Write "
            "a response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1 and 2"
            "\n\n### Response:",
            "3",
        ),
        (
            "Below is an instruction that describes a task. Write a response that appropriately completes the request."
            "\n\n### Instruction:\nSay {hi}.\n\n### Response:",
            " hi ",
        ),
        (
            "Below is an instruction that describes a task. Write a response that appropriately completes the request."
            "\n\n### Instruction:\nGo.\n\n### Response:",
            "on",
        ),
    ]


def test_all_formats_read_the_same(tmp_path):
    rows = [ROW, {"instruction": "Zwölf?", "input": "", "output": "zw\u2028ölf"}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n")
    pd.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    hub = tmp_path / "hub" / "data"
    hub.mkdir(parents=True)
    pd.DataFrame(rows[:1]).to_parquet(hub / "train-00000-of-00002.parquet")
    pd.DataFrame(rows[1:]).to_parquet(hub / "train-00001-of-00002.parquet")
    pd.DataFrame(rows).to_parquet(hub / "test-00000-of-00001.parquet")
    (hub / "README.md").write_text("")
    expected = read_instructions(tmp_path / "a.json")
    assert len(expected) == 2
    for name in ("a.jsonl", "a.parquet", "hub"):
        assert read_instructions(tmp_path / name) == expected


def test_empty_outputs_are_dropped_and_counted(tmp_path, caplog):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([ROW, ROW | {"output": ""}, ROW | {"output": " \n"}]))
    with caplog.at_level("INFO"):
        assert len(read_instructions(path)) == 1
    assert "1 rows, 2 more with an empty output dropped" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", json.dumps([ROW, {"instruction": "x"}]), "row 2: key 'output' is missing or not text"),
        ("a.json", json.dumps([ROW | {"instruction": 3}]), "row 1: key 'instruction' is missing or not text"),
        ("a.json", json.dumps([ROW | {"input": ["x"]}]), "row 1: key 'input' is not text"),
        ("a.json", json.dumps([ROW, "x"]), "row 2 is not an object"),
        ("a.json", json.dumps(ROW), "expected a JSON list"),
        ("a.json", "[", "not valid JSON"),
        ("a.jsonl", json.dumps(ROW) + "\n{\n", "row 2 is not valid JSON"),
        ("a.parquet", "x", "not a valid parquet file"),
        ("a.txt", "x", "must be one of .json, .jsonl, .parquet"),
    ],
)
def test_bad_rows_are_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read_instructions(tmp_path / name)
    assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)


def test_missing_or_ambiguous_sources_are_named(tmp_path):
    with pytest.raises(UserError, match="instructions not found"):
        read_instructions(tmp_path / "none")
    with pytest.raises(UserError, match="found none"):
        read_instructions(tmp_path)
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text("[]")
    with pytest.raises(UserError, match=r"found a\.json, b\.json"):
        read_instructions(tmp_path)


# --- tokens -------------------------------------------------------------------------------------------------------


def test_loss_is_on_response_and_end_token(tokenizer):
    rows = tokenize([("ab:", "cd"), ("a:", "bcdef")], tokenizer, max_length=20)
    end = tokenizer.eos_token_id
    first, second = tokenizer("ab:cd").input_ids, tokenizer("a:bcdef").input_ids
    assert rows.tokens.tolist() == [*first, end, *second, end]
    assert rows.prompt_lengths.tolist() == [3, 2]
    assert rows.response_tokens(np.array([0, 1])) == 3 + 6
    inputs, labels = rows.batch(np.array([0, 1]))
    assert inputs[1].tolist() == [*second, end]
    assert inputs[0, :6].tolist() == [*first, end]
    assert labels[0].tolist() == [IGNORED, IGNORED, *first[3:], end, IGNORED, IGNORED, IGNORED]
    assert labels[1].tolist() == [IGNORED, *second[2:], end, IGNORED]
    assert int((labels != IGNORED).sum()) == 9


def test_end_token_is_there_once_whatever_the_tokenizer_adds(tokenizer):
    from tokenizers.processors import TemplateProcessing

    plain = tokenize([("ab:", "cd")], tokenizer, 20)
    adding = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()), bos_token="<s>", eos_token="</s>"
    )
    adding.backend_tokenizer.post_processor = TemplateProcessing(
        "<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    rows = tokenize([("ab:", "cd")], adding, 20)
    assert rows.tokens.tolist() == [0, *plain.tokens.tolist()]
    assert rows.prompt_lengths.tolist() == [4]


def test_long_rows_are_cut_and_rows_without_response_dropped(tokenizer, caplog):
    with caplog.at_level("INFO"):
        rows = tokenize([("abc:", "defgh"), ("abcdef:", "x"), ("a:", "b")], tokenizer, max_length=6)
    assert rows.lengths.tolist() == [6, 4]
    assert rows.prompt_lengths.tolist() == [4, 2]
    assert rows.tokens[:6].tolist() == tokenizer("abc:de").input_ids
    assert "2 rows cut to 6 tokens, 1 of them dropped" in caplog.text


def test_padding_does_not_enter_the_loss(tokenizer):
    """The summed loss of a padded batch is the sum of its rows' losses alone."""
    from torch.nn import functional

    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape)).double().eval()
    rows = tokenize([("ab:", "cdefghijkl"), ("a:", "b"), ("abcd:", "efg")], tokenizer, 20)

    def loss(numbers: list[int]) -> float:
        inputs, labels = rows.batch(np.array(numbers))
        logits = model(inputs).logits
        return functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
        ).item()

    assert loss([0, 1, 2]) == pytest.approx(loss([0]) + loss([1]) + loss([2]), rel=1e-12)


# --- order --------------------------------------------------------------------------------------------------------


def test_every_epoch_is_a_new_shuffle_without_its_last_partial_batch():
    order = BatchOrder(rows=22, global_batch=8, seed=1)
    assert order.steps_per_epoch == 2
    epochs = [np.concatenate([order.batch(step) for step in (2 * epoch, 2 * epoch + 1)]) for epoch in range(3)]
    for rows in epochs:
        assert len(set(rows)) == 16 and set(rows) <= set(range(22))
    assert not (epochs[0] == epochs[1]).all()
    assert (order.batch(3) == BatchOrder(22, 8, 1).batch(3)).all()
    assert not (order.batch(3) == BatchOrder(22, 8, 2).batch(3)).all()


@pytest.mark.parametrize(("ranks", "micro_batch"), [(1, 8), (2, 2), (4, 2), (2, 4), (1, 1)])
def test_ranks_and_micro_batches_share_the_global_batch(ranks, micro_batch):
    order = BatchOrder(rows=30, global_batch=8, seed=1)
    shares = [list(order.micro_batches(1, rank, ranks, micro_batch)) for rank in range(ranks)]
    assert {len(share) for share in shares} == {8 // (ranks * micro_batch)}
    assert all(len(batch) == micro_batch for share in shares for batch in share)
    assert sorted(np.concatenate([batch for share in shares for batch in share])) == sorted(order.batch(1))


# --- checks before anything runs ----------------------------------------------------------------------------------


def test_global_batch_must_be_met_exactly(config):
    assert dataclasses.replace(config, global_batch=12).accumulation == 3
    with pytest.raises(UserError, match=r"global_batch 10 must be a multiple of micro_batch 2 x ranks 2 = 4"):
        _ = dataclasses.replace(config, global_batch=10).accumulation


def test_checks_name_what_is_wrong(config, tmp_path):
    assert len(launch.check(config)) == 20
    for changes, message in [
        ({"global_batch": 24}, "20 usable rows do not fill one batch; training.global_batch is 24"),
        ({"max_length": 300}, "max_length 300 exceeds the model's max_position_embeddings 256"),
        ({"depths": (2, 5)}, "space.depths"),
        ({"widths": (48, 64)}, "space.widths"),
        ({"device": "cuda", "ranks": 64, "global_batch": 128}, "needs that many GPUs"),
        ({"base": tmp_path}, "config.json: not found"),
    ]:
        with pytest.raises(UserError, match=message):
            launch.check(dataclasses.replace(config, **changes))


def test_tokenizer_must_fit_the_model(config, tokenizer, tmp_path):
    small = LlamaConfig(vocab_size=50, hidden_size=8, intermediate_size=48, num_hidden_layers=4, num_attention_heads=2)
    LlamaForCausalLM(small).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="cannot load the tokenizer"):
        launch.check(dataclasses.replace(config, base=tmp_path))
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="the model only 50"):
        launch.check(dataclasses.replace(config, base=tmp_path))


def test_total_steps_are_whole_batches_times_epochs(config):
    assert worker.total_steps(config, BatchOrder(20, 8, 1)) == 5
    paper = dataclasses.replace(config, epochs=6, global_batch=128)
    assert worker.total_steps(paper, BatchOrder(52_002, 128, 1)) == 2436  # reference: paper.md section 2


def test_identity_covers_what_the_weights_depend_on(config, tmp_path):
    identity = config.identity()
    for same in ({"checkpoint_every": 3}, {"output": tmp_path}, {"checkpoints": tmp_path}):
        assert dataclasses.replace(config, **same).identity() == identity
    other_rows = tmp_path / "rows.json"
    other_rows.write_text(json.dumps([ROW] * 21))
    for other in ({"learning_rate": 2e-3}, {"ranks": 1}, {"seed": 2}, {"threads": 2}, {"instructions": other_rows}):
        assert dataclasses.replace(config, **other).identity() != identity
    other_rows.write_bytes(config.instructions.read_bytes())
    assert dataclasses.replace(config, instructions=other_rows).identity() == identity, "contents count, not paths"


def test_only_a_named_checkpoint_is_valid(tmp_path):
    """A save cut short leaves a step's folder that `latest` does not name."""
    (tmp_path / "step-00000008").mkdir()
    assert checkpoint.latest_step(tmp_path) == 0
    assert checkpoint.latest_step(tmp_path / "none") == 0
    (tmp_path / "latest").write_text("4")
    assert checkpoint.latest_step(tmp_path) == 4


def test_real_alpaca(hub: Path):
    """All of Stanford Alpaca in Hub layout: 52,002 records, 28 with an empty output (reference: supernet.md)."""
    pairs = read_instructions(hub / "tatsu-lab" / "alpaca")
    assert len(pairs) == 52_002 - 28
    assert sum(prompt.startswith(PROMPT_WITH_INPUT[:80]) for prompt, _ in pairs) == 20_663


def test_rows_digest_tells_rows_apart():
    rows = TokenRows(np.arange(6, dtype=np.int32), np.array([0, 3, 6]), np.array([1, 1], dtype=np.int32))
    assert rows.digest() == dataclasses.replace(rows, tokens=rows.tokens.copy()).digest()
    assert rows.digest() != dataclasses.replace(rows, prompt_lengths=np.array([1, 2], dtype=np.int32)).digest()
