"""Data, sampling, schedule and checks of super-network fine-tuning; the distributed engine is in integration/."""

import dataclasses
import itertools
import json
import random
import shutil
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
from llama_nas.training.data import (
    IGNORED,
    PROMPT_WITH_INPUT,
    BatchOrder,
    TokenRows,
    load_rows,
    micro_batches,
    padding_share,
    read_instructions,
    tokenize,
    tokenize_instructions,
)
from llama_nas.training.importance import calibration_rows, order_channels, order_layers
from llama_nas.training.probes import held_out, probe_networks
from llama_nas.training.sampling import smallest, subnet_at

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
    tokenize_instructions(folder / "rows", base=folder / "base", instructions=folder / "rows.json", max_length=256)
    return TrainingConfig(
        base=folder / "base",
        rows=folder / "rows",
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


def test_stratified_draws_every_number_of_narrow_layers_alike():
    """Chi-square over the number of narrow layers at each depth; the 99.99 % bound holds for this fixed sequence."""
    draws = [subnet_at(step, SPACE, 3, sampling="stratified") for step in range(1, 12001, 2)]
    for depth in (2, 3, 4):
        narrow = [draw.kept_widths.count(24) for draw in draws if draw.layers == depth]
        assert len(narrow) == pytest.approx(2000, abs=150)
        counts, expected = np.bincount(narrow, minlength=depth + 1), len(narrow) / (depth + 1)
        assert ((counts - expected) ** 2 / expected).sum() < 23.6
    uniform = [subnet_at(step, SPACE, 3).kept_widths.count(24) for step in range(1, 12001, 2)]
    assert uniform.count(4) < 0.6 * sum(draw.kept_widths.count(24) == 4 for draw in draws)


def test_sandwich_trains_the_smallest_network_every_second_time():
    draws = [subnet_at(step, SPACE, 1, sampling="sandwich") for step in range(1, 41, 2)]
    assert draws[::2] == [SPACE.subnet((0, 1, 1, 1, 1))] * 10 and smallest(SPACE) == draws[0]
    assert draws[1::2] == [subnet_at(step, SPACE, 1) for step in range(3, 41, 4)], "the others are the paper's"


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
    batch = BatchOrder(rows=30, global_batch=8, seed=1).batch(1)
    lengths = np.random.default_rng(0).integers(3, 200, 30)
    shares = [list(micro_batches(batch, lengths, rank, ranks, micro_batch)) for rank in range(ranks)]
    assert {len(share) for share in shares} == {8 // (ranks * micro_batch)}
    assert all(len(own) == micro_batch for share in shares for own in share)
    assert sorted(np.concatenate([own for share in shares for own in share])) == sorted(batch)
    at_once = [np.concatenate(together) for together in zip(*shares, strict=True)]
    if len(at_once) == 1:
        assert (at_once[0] == batch).all(), "nothing to arrange: the order is kept"
    for shorter, longer in itertools.pairwise(at_once):
        assert lengths[shorter].max() <= lengths[longer].min(), "what is computed together is of similar length"


def test_padding_share_counts_what_is_computed():
    lengths = np.array([1, 1, 1, 9])
    assert padding_share(lengths, BatchOrder(4, 4, 1), ranks=1, micro_batch=4) == pytest.approx(1 - 12 / 36)
    assert padding_share(lengths, BatchOrder(4, 4, 1), ranks=1, micro_batch=1) == 0
    assert padding_share(lengths, BatchOrder(4, 4, 1), ranks=1, micro_batch=2) == pytest.approx(1 - 12 / 20)


# --- tokenised once -----------------------------------------------------------------------------------------------


def test_tokenised_rows_are_mapped_and_equal(config, tokenizer):
    rows = load_rows(config.rows, config.base)
    assert isinstance(rows.tokens, np.memmap)
    expected = tokenize(read_instructions(config.rows.parent / "rows.json"), tokenizer, 256)
    assert rows.digest() == expected.digest() and len(rows) == 20
    for mapped, held in zip(rows.batch(np.array([3, 4])), expected.batch(np.array([3, 4])), strict=True):
        assert torch.equal(mapped, held)


def test_tokenise_refuses_what_does_not_fit(config, tokenizer, tmp_path):
    source = config.rows.parent / "rows.json"

    def build(base: Path, **changes) -> None:
        tokenize_instructions(tmp_path / "out", **{"base": base, "instructions": source, "max_length": 256} | changes)

    with pytest.raises(UserError, match="max_length 300 exceeds the model's max_position_embeddings 256"):
        build(config.base, max_length=300)
    small = LlamaConfig(vocab_size=50, hidden_size=8, intermediate_size=48, num_hidden_layers=4, num_attention_heads=2)
    LlamaForCausalLM(small).save_pretrained(tmp_path / "small")
    with pytest.raises(UserError, match="cannot load the tokenizer"):
        build(tmp_path / "small")
    tokenizer.save_pretrained(tmp_path / "small")
    with pytest.raises(UserError, match="the model only 50"):
        build(tmp_path / "small")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=r"tokenised for a vocabulary of 258, the model .* has 50"):
        load_rows(config.rows, tmp_path / "small")


def stanford_preprocess(rows: list[dict], tokenizer, max_length: int) -> list[tuple[list[int], list[int]]]:
    """Stanford Alpaca's SupervisedDataset and preprocess (train.py, Apache-2.0), without torch: ids and labels."""
    found = []
    for row in rows:
        if row.get("input", "") != "":
            source = (
                "Below is an instruction that describes a task, paired with an input that provides further context. "
                "Write a response that appropriately completes the request.\n\n"
                "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
            ).format_map(row)
        else:
            source = (
                "Below is an instruction that describes a task. "
                "Write a response that appropriately completes the request.\n\n"
                "### Instruction:\n{instruction}\n\n### Response:"
            ).format_map(row)
        target = f"{row['output']}{tokenizer.eos_token}"
        ids = tokenizer(source + target, max_length=max_length, truncation=True)["input_ids"]
        source_length = len(tokenizer(source, max_length=max_length, truncation=True)["input_ids"])
        found.append((ids, [-100] * source_length + ids[source_length:]))
    return found


def test_rows_are_stanford_alpacas(hub: Path, tmp_path):
    """Real rows, a real tokenizer of 512 tokens: ids and labels as Stanford's own code makes them."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(hub / "karpathy" / "stories260K")
    (source,) = (hub / "tatsu-lab" / "alpaca").rglob("*.parquet")
    alpaca = pd.read_parquet(source).iloc[::260].to_dict("records")  # 201 rows from all over
    (tmp_path / "rows.json").write_text(json.dumps([{key: row[key] for key in ROW} for row in alpaca]))
    rows = tokenize(read_instructions(tmp_path / "rows.json"), tokenizer, 512)
    with_output = [row for row in alpaca if row["output"].strip()]
    expected = stanford_preprocess(with_output, tokenizer, 512)
    trained_on = [pair for pair in expected if set(pair[1]) != {IGNORED}]  # of the others, only the prompt was left
    assert len(rows) == len(trained_on) > 190
    for number, (ids, own_labels) in enumerate(trained_on):
        inputs, labels = rows.batch(np.array([number]))
        assert inputs[0].tolist() == ids
        assert labels[0].tolist() == [*own_labels[1:], IGNORED], "label t is the token after input t"


# --- importance ---------------------------------------------------------------------------------------------------


def test_ordered_channels_are_the_same_function(config, tmp_path):
    """Permuting rows of gate and up with columns of down changes the order of sums alone: fp32 tolerance 1e-5."""
    order_channels(tmp_path / "ordered", base=config.base, rows=config.rows, seed=1, device="cpu", threads=1)
    before, after = (LlamaForCausalLM.from_pretrained(path) for path in (config.base, tmp_path / "ordered"))
    inputs = torch.randint(0, 256, (4, 50), generator=torch.Generator().manual_seed(0))
    assert not torch.equal(before.model.layers[0].mlp.up_proj.weight, after.model.layers[0].mlp.up_proj.weight)
    torch.testing.assert_close(before(inputs).logits, after(inputs).logits, rtol=1e-5, atol=1e-5)
    order = json.loads((tmp_path / "ordered" / "channel_order.json").read_text())
    for layer, own, new in zip(order, before.model.layers, after.model.layers, strict=True):
        assert sorted(layer) == list(range(48))
        assert torch.equal(own.mlp.gate_proj.weight[layer], new.mlp.gate_proj.weight)
        assert torch.equal(own.mlp.down_proj.weight[:, layer], new.mlp.down_proj.weight)


def test_channels_are_ordered_by_their_contribution(config, tmp_path):
    """Against a hand-made model: channel c of every layer is given a down column of norm 48 - c times as large."""
    model = LlamaForCausalLM.from_pretrained(config.base)
    shuffled = torch.randperm(48, generator=torch.Generator().manual_seed(1))
    for layer in model.model.layers:
        layer.mlp.gate_proj.weight.data[:] = layer.mlp.gate_proj.weight.data[:1]  # all channels alike ...
        layer.mlp.up_proj.weight.data[:] = layer.mlp.up_proj.weight.data[:1]
        layer.mlp.down_proj.weight.data[:] = 0.01 * (shuffled + 1.0)  # ... but for the way out
    model.save_pretrained(tmp_path / "base")
    order_channels(tmp_path / "ordered", base=tmp_path / "base", rows=config.rows, seed=1, device="cpu", threads=1)
    order = json.loads((tmp_path / "ordered" / "channel_order.json").read_text())
    assert order == [torch.argsort(shuffled, descending=True).tolist()] * 4


def test_layers_are_dropped_by_the_loss_without_them(config, tmp_path):
    """The first is the best of all single layers, by a stock model with that layer taken out of its list."""
    order_layers(tmp_path / "a.json", base=config.base, rows=config.rows, count=2, seed=1, device="cpu", threads=1)
    found = json.loads((tmp_path / "a.json").read_text())
    rows = calibration_rows(load_rows(config.rows, config.base), seed=1)
    losses = []
    for layer in range(4):
        model = LlamaForCausalLM.from_pretrained(config.base)
        del model.model.layers[layer]
        model.config.num_hidden_layers = 3
        total = 0.0
        for x, y in rows:
            kept = y[0] >= 0
            total += float(model(x, use_cache=False).logits[0].log_softmax(-1)[kept, y[0][kept]].sum())
        losses.append(-total / sum(int((y >= 0).sum()) for _, y in rows))
    assert found["depth_selection"][0] == int(np.argmin(losses))
    assert found["losses"][1] == pytest.approx(min(losses), rel=1e-5)
    assert len(set(found["depth_selection"])) == 2 and len(found["losses"]) == 3
    with pytest.raises(UserError, match=r"--count 4: must be in 0\.\.3"):
        order_layers(tmp_path / "b.json", base=config.base, rows=config.rows, count=4, seed=1, device="cpu", threads=1)


# --- probes -------------------------------------------------------------------------------------------------------


def test_probes_hold_out_whole_passes_of_all_ranks(config):
    probing = dataclasses.replace(config, probe_every=5)
    assert held_out(config, 1000) == 0
    assert [held_out(probing, rows) for rows in (20, 57, 1000, 10**6)] == [4, 4, 100, 256]
    rows = load_rows(config.rows, config.base)
    assert worker.batch_order(probing, rows).rows == 16 and worker.batch_order(config, rows).rows == 20


def test_probe_networks_are_each_depth_wide_and_narrow():
    ids = [SPACE.id(subnet) for subnet in probe_networks(SPACE)]
    assert ids == ["0000", "1111", "000x", "111x", "00xx", "11xx"]
    without_full = dataclasses.replace(SPACE, depths=(2, 3))
    assert [without_full.id(subnet) for subnet in probe_networks(without_full)] == [
        "0000",
        "000x",
        "111x",
        "00xx",
        "11xx",
    ]


# --- checks before anything runs ----------------------------------------------------------------------------------


def test_global_batch_must_be_met_exactly(config):
    assert dataclasses.replace(config, global_batch=12).accumulation == 3
    with pytest.raises(UserError, match=r"global_batch 10 must be a multiple of micro_batch 2 x ranks 2 = 4"):
        _ = dataclasses.replace(config, global_batch=10).accumulation


def test_checks_name_what_is_wrong(config, tmp_path, caplog):
    with caplog.at_level("INFO"):
        launch.check(config, launch.ALONE)
    assert "20 rows" in caplog.text and "0 % padding" in caplog.text
    for changes, message in [
        ({"global_batch": 24}, "20 usable rows do not fill one batch; training.global_batch is 24"),
        ({"depths": (2, 5)}, "space.depths"),
        ({"widths": (48, 64)}, "space.widths"),
        ({"depth_selection": "last"}, "space.depth_selection 'last' is not known; known: first, even, or a list"),
        ({"offload_optimizer": True, "zero_stage": 0}, "offload_optimizer needs training.zero_stage 1, 2 or 3"),
        ({"device": "cuda", "ranks": 64, "global_batch": 128}, "needs 64 GPUs on this machine"),
        ({"base": tmp_path}, "config.json: not found"),
        ({"rows": tmp_path}, "expected a folder written by `llama-nas tokenize`"),
    ]:
        with pytest.raises(UserError, match=message):
            launch.check(dataclasses.replace(config, **changes), launch.ALONE)


def test_total_steps_are_whole_batches_times_epochs(config):
    assert worker.total_steps(config, BatchOrder(20, 8, 1)) == 5
    paper = dataclasses.replace(config, epochs=6, global_batch=128)
    assert worker.total_steps(paper, BatchOrder(52_002, 128, 1)) == 2436  # reference: paper.md section 2


def test_identity_covers_what_the_weights_depend_on(config, tmp_path):
    identity = config.identity()
    for same in ({"checkpoint_every": 3}, {"output": tmp_path}, {"checkpoints": tmp_path}, {"tensorboard": tmp_path}):
        assert dataclasses.replace(config, **same).identity() == identity
    (tmp_path / "rows.json").write_text(json.dumps([ROW] * 21))
    tokenize_instructions(tmp_path / "rows", base=config.base, instructions=tmp_path / "rows.json", max_length=256)
    changes = ({"learning_rate": 2e-3}, {"ranks": 1}, {"seed": 2}, {"threads": 2}, {"rows": tmp_path / "rows"},
               {"freeze_inactive": True}, {"distillation": 0.5}, {"depth_selection": "even"})  # fmt: skip
    identities = {dataclasses.replace(config, **other).identity() for other in changes}
    assert len(identities | {identity}) == 1 + len(changes)
    shutil.copytree(config.rows, tmp_path / "copy")
    assert dataclasses.replace(config, rows=tmp_path / "copy").identity() == identity, "contents count, not paths"


def test_checkpoints_of_other_runs_are_removed(tmp_path):
    for name in ("0123456789abcdef", "fedcba9876543210", "mine", "0123456789abcdef0"):
        (tmp_path / name).mkdir()
    checkpoint.remove_stale(tmp_path, "fedcba9876543210")
    assert {path.name for path in tmp_path.iterdir()} == {"fedcba9876543210", "mine", "0123456789abcdef0"}
    checkpoint.remove_stale(tmp_path / "none", "fedcba9876543210")


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
