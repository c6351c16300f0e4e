"""A tiny base model and its rows: tokenised, ordered, probed, checked; the distributed engine is in integration/."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from llama_nas.training.importance import calibration_rows, order_channels, order_layers
from training_cases import ROW, byte_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from llama_nas.core.errors import UserError
from llama_nas.training import checkpoint, launch, worker
from llama_nas.training.config import TrainingConfig
from llama_nas.training.data import BatchOrder, load_rows, read_instructions, tokenize, tokenize_instructions
from llama_nas.training.probes import held_out


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


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
