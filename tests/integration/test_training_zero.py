"""Fine-tuning under accelerate + DeepSpeed on really launched ranks, against a plain one-process torch loop."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from llama_nas.artifacts import read_table
from llama_nas.elastic import active, make_elastic
from llama_nas.errors import UserError
from llama_nas.space import SearchSpace
from llama_nas.training import checkpoint, worker
from llama_nas.training.config import TrainingConfig
from llama_nas.training.data import BatchOrder, TokenRows
from llama_nas.training.engine import make_accelerator, make_engine
from llama_nas.training.nodes import Node, this_node
from llama_nas.training.sampling import subnet_at

STEPS = 20
LAYERS, WIDTHS, DEPTHS = 4, (48, 24, 12), (1, 2, 3, 4)


def tiny_llama(folder: Path, tied: bool) -> Path:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=WIDTHS[0],
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        initializer_range=0.1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def random_rows(count: int) -> TokenRows:
    """Rows of 3 to 6 prompt tokens and 1 to 12 response tokens: ranks and micro-batches get unequal shares."""
    rng = np.random.default_rng(5)
    prompts = rng.integers(3, 7, count).astype(np.int32)
    lengths = prompts + rng.integers(1, 13, count)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return TokenRows(rng.integers(0, 64, starts[-1]).astype(np.int32), starts, prompts)


ROWS = random_rows(40)
BASE = TrainingConfig(
    base=Path(),
    instructions=Path(),
    output=Path(),
    checkpoints=Path(),
    checkpoint_every=10**6,
    seed=11,
    depths=DEPTHS,
    widths=WIDTHS,
    depth_selection="first",
    device="cpu",
    threads=1,
    ranks=2,
    zero_stage=0,
    dtype="fp32",
    epochs=4,  # 5 steps each
    global_batch=8,
    micro_batch=2,
    learning_rate=0.3,
    warmup=0.2,
    weight_decay=0.0,
    max_grad_norm=0.0,
    max_length=64,
    subnet_steps="alternate",
    gradient_checkpointing=False,
    optimizer="sgd",
)
SGD = BASE
BF16 = dataclasses.replace(BASE, optimizer="adamw", learning_rate=2e-4, dtype="bf16")
ADAMW = dataclasses.replace(BASE, optimizer="adamw", learning_rate=3e-3, weight_decay=0.1, max_grad_norm=1.0)


def oracle(config: TrainingConfig) -> dict[str, torch.Tensor]:
    """The reference semantics, one process and one row at a time: no padding, no ranks, no accumulation factors."""
    torch.set_num_threads(1)
    model = make_elastic(AutoModelForCausalLM.from_pretrained(config.base, dtype=torch.float32)).train()
    space = SearchSpace(LAYERS, DEPTHS, WIDTHS)
    if config.optimizer == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), lr=config.learning_rate)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    order = BatchOrder(len(ROWS), config.global_batch, config.seed)
    for step in range(STEPS):
        batch = order.batch(step)
        total = sum(int(ROWS.starts[row + 1] - ROWS.starts[row] - ROWS.prompt_lengths[row]) for row in batch)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        with active(model, subnet_at(step, space, config.seed)):
            for row in batch:
                tokens = torch.tensor(ROWS.tokens[ROWS.starts[row] : ROWS.starts[row + 1]], dtype=torch.long)
                prompt = int(ROWS.prompt_lengths[row])
                logits = model(tokens[None]).logits[0]
                loss = functional.cross_entropy(logits[prompt - 1 : -1], tokens[prompt:], reduction="sum") / total
                loss.backward()
        if config.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = worker.learning_rate_at(step, STEPS, config.learning_rate, config.warmup)
        optimizer.step()
    return model.state_dict()


def run_cases(rank: int, cases: dict[str, TrainingConfig], output: Path, port: int) -> None:
    """In a rank: train each case for STEPS steps; rank 0 writes weights, losses, and the dropped layers that moved.

    Words in a case's name: `resumed` saves a checkpoint half-way and goes on from it with a new engine; `unrepaired`
    leaves ZeRO-3's stale gradients in.
    """
    worker.prepare_process(rank, next(iter(cases.values())), Node(port=port))
    repair = worker.zero_stale_grads
    for name, config in cases.items():
        accelerator, engine = fresh_engine(config)
        worker.check_agreement(accelerator, config, ROWS)
        worker.zero_stale_grads = (lambda engine: None) if "unrepaired" in name else repair
        order = BatchOrder(len(ROWS), config.global_batch, config.seed)
        history, moved = [], []
        for step in range(STEPS):
            if "resumed" in name and step == STEPS // 2:
                checkpoint.save(accelerator, engine, output / name, step, pd.DataFrame(history))
                accelerator, engine = fresh_engine(config)
                history = checkpoint.restore(accelerator, engine, output / name).to_dict("records")
                assert len(history) == step
            before = accelerator.get_state_dict(engine) if step % 2 else None
            history.append(worker.train_step(accelerator, engine, config, ROWS, order, step, STEPS))
            after = accelerator.get_state_dict(engine) if step % 2 else None
            if before and after:  # rank 0, after a sub-network step
                dropped = [f"model.layers.{i}." for i, code in enumerate(history[-1]["subnet_id"]) if code == "x"]
                names = [key for key in after if key.startswith(tuple(dropped))]
                moved += [[step, key] for key in names if not torch.equal(before[key], after[key])]
        weights = accelerator.get_state_dict(engine)
        if rank == 0:
            save_file({key: tensor.clone() for key, tensor in weights.items()}, output / f"{name}.safetensors")
            (output / f"{name}.json").write_text(json.dumps({"moved": moved, "history": history}))
        accelerator.wait_for_everyone()
    torch.distributed.destroy_process_group()


def fresh_engine(config: TrainingConfig):
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    accelerator = make_accelerator(config, parameters=10**5)
    # ZeRO-3 leaves parameters below 1e5 elements whole: the test's model would not be partitioned at all.
    accelerator.deepspeed_plugin.deepspeed_config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    return accelerator, make_engine(accelerator, config)


def launch_cases(cases: dict[str, TrainingConfig], output: Path) -> None:
    ranks = next(iter(cases.values())).ranks
    store = torch.distributed.TCPStore("127.0.0.1", 0, ranks, is_master=True, wait_for_workers=False)
    torch.multiprocessing.spawn(run_cases, (cases, output, store.port), nprocs=ranks)


def deviation(weights: dict[str, torch.Tensor], reference: dict[str, torch.Tensor]) -> float:
    """Largest relative difference of any weight tensor, in norm."""
    assert weights.keys() == reference.keys()
    return max(float((weights[key].float() - reference[key]).norm() / reference[key].norm()) for key in reference)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return {name: tiny_llama(folder / name, tied=name == "tied") for name in ("untied", "tied")}


@pytest.fixture(scope="module")
def references(bases):
    return {
        ("untied", "sgd"): oracle(dataclasses.replace(SGD, base=bases["untied"])),
        ("tied", "sgd"): oracle(dataclasses.replace(SGD, base=bases["tied"])),
        ("untied", "adamw"): oracle(dataclasses.replace(ADAMW, base=bases["untied"])),
        ("untied", "bf16"): oracle(dataclasses.replace(BF16, base=bases["untied"])),
    }


@pytest.fixture(scope="module")
def trained(bases, tmp_path_factory):
    """Every case trained in one launch of two ranks, and one case on a single rank."""
    output = tmp_path_factory.mktemp("trained")
    cases = {}
    for stage in range(4):
        for name, base in bases.items():
            cases[f"{name}-sgd-zero{stage}"] = dataclasses.replace(SGD, base=base, zero_stage=stage)
        cases[f"untied-adamw-zero{stage}"] = dataclasses.replace(ADAMW, base=bases["untied"], zero_stage=stage)
        cases[f"untied-adamw-zero{stage}-resumed"] = cases[f"untied-adamw-zero{stage}"]
        cases[f"untied-bf16-zero{stage}"] = dataclasses.replace(BF16, base=bases["untied"], zero_stage=stage)
    cases["untied-bf16-zero2-resumed"] = cases["untied-bf16-zero2"]
    cases["untied-sgd-zero3-unrepaired"] = cases["untied-sgd-zero3"]
    for stage in (2, 3):
        cases[f"untied-sgd-zero{stage}-checkpointing"] = dataclasses.replace(
            cases[f"untied-sgd-zero{stage}"], gradient_checkpointing=True
        )
    launch_cases(cases, output)
    launch_cases({"untied-sgd-one-rank": dataclasses.replace(cases["untied-sgd-zero2"], ranks=1)}, output)
    return output


def result(trained: Path, case: str) -> tuple[dict[str, torch.Tensor], dict]:
    return load_file(trained / f"{case}.safetensors"), json.loads((trained / f"{case}.json").read_text())


def test_reference_moves_every_tensor(bases, references):
    """Otherwise agreement with it would mean little."""
    for name, optimizer in [("untied", "sgd"), ("tied", "sgd"), ("untied", "adamw")]:
        weights = references[name, optimizer]
        start = LlamaForCausalLM.from_pretrained(bases[name], dtype=torch.float32).state_dict()
        assert min(float((weights[key] - start[key]).norm() / start[key].norm()) for key in weights) > 1e-3


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("name", ["untied", "tied"])
def test_sgd_matches_reference(trained, references, name, stage):
    """The issue asks for 1e-5; 4e-7 was measured."""
    weights, record = result(trained, f"{name}-sgd-zero{stage}")
    assert deviation(weights, references[name, "sgd"]) < 2e-6
    assert {row["kind"] for row in record["history"]} == {"full", "subnet"}
    assert any("x" in row["subnet_id"] for row in record["history"])
    assert record["moved"] == [], "a dropped layer changed while it was dropped"


@pytest.mark.parametrize("stage", range(4))
def test_adamw_with_clipping_and_decay_matches_reference(trained, references, stage):
    """The issue asks for 1e-4; 6e-7 was measured."""
    weights, _ = result(trained, f"untied-adamw-zero{stage}")
    assert deviation(weights, references["untied", "adamw"]) < 5e-6


@pytest.mark.parametrize("stage", range(4))
def test_bf16_keeps_fp32_master_weights(trained, bases, references, stage):
    """Updates far below the spacing of bf16 numbers add up to the reference's; bf16 weights alone would stay put."""
    weights, _ = result(trained, f"untied-bf16-zero{stage}")
    reference = references["untied", "bf16"]
    start = LlamaForCausalLM.from_pretrained(bases["untied"], dtype=torch.float32).state_dict()
    for key in reference:
        if "norm" not in key:
            assert weights[key].dtype == torch.bfloat16
            moved = reference[key] - start[key]
            assert (weights[key].float() - reference[key]).norm() < 0.5 * moved.norm(), key


def test_one_rank_equals_two(trained, references):
    one, _ = result(trained, "untied-sgd-one-rank")
    assert deviation(one, references["untied", "sgd"]) < 2e-6
    assert deviation(one, result(trained, "untied-sgd-zero2")[0]) < 2e-6


@pytest.mark.parametrize("stage", [2, 3])
def test_gradient_checkpointing_changes_nothing(trained, stage):
    plain, _ = result(trained, f"untied-sgd-zero{stage}")
    recomputed, record = result(trained, f"untied-sgd-zero{stage}-checkpointing")
    assert deviation(recomputed, plain) < 2e-6
    assert record["moved"] == []


def test_zero3_needs_the_repair_of_stale_gradients(trained, references):
    """What `zero_stale_grads` is for. If this fails, DeepSpeed has mended it and the repair can go."""
    weights, record = result(trained, "untied-sgd-zero3-unrepaired")
    assert record["moved"], "without the repair, dropped layers move"
    assert deviation(weights, references["untied", "sgd"]) > 1e-3


@pytest.mark.parametrize("case", [*(f"untied-adamw-zero{stage}" for stage in range(4)), "untied-bf16-zero2"])
def test_resumed_run_equals_uninterrupted_bit_for_bit(trained, case):
    whole, record = result(trained, case)
    resumed, resumed_record = result(trained, f"{case}-resumed")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert resumed_record["history"] == record["history"]


def test_recorded_losses_agree_between_stages(trained):
    losses = [[row["loss"] for row in result(trained, f"untied-sgd-zero{stage}")[1]["history"]] for stage in range(4)]
    np.testing.assert_allclose(losses, np.broadcast_to(losses[0], (4, STEPS)), rtol=1e-5)


# --- the command itself -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """`llama-nas finetune` on a tiny base model with a tokenizer; 48 steps on 2 ranks with ZeRO-2."""
    folder = tmp_path_factory.mktemp("command")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(special_tokens=["</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([], trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")
    config = LlamaConfig(
        vocab_size=len(wrapped),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    wrapped.save_pretrained(folder / "base")
    rows = [{"instruction": f"Say {n}.", "input": "", "output": "one " * (n % 5 + 1)} for n in range(34)]
    (folder / "rows.json").write_text(json.dumps(rows))

    def build(output: str, **changes: str) -> list[str]:
        options = {
            "base": folder / "base", "instructions": folder / "rows.json", "output": folder / output,
            "checkpoints": folder / "checkpoints", "checkpoint-every": 4, "seed": 1, "ranks": 2, "zero-stage": 2,
            "dtype": "fp32", "epochs": 12, "global-batch": 8, "micro-batch": 2, "learning-rate": 3e-3, "warmup": 0.1,
            "weight-decay": 0, "max-grad-norm": 1, "max-length": 256,
        } | changes  # fmt: skip
        flat = [part for key, value in options.items() for part in (f"--{key}", str(value))]
        return [sys.executable, "-m", "llama_nas.cli", "finetune", "--depths", "2", "3", "--widths", "48", "24", *flat]

    build.folder = folder
    return build


def run(arguments: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(arguments, capture_output=True, text=True, timeout=300)


@contextlib.contextmanager
def running_after_checkpoint(command, output: str, newer_than: int = 0):
    """A running command, its two ranks and the step of a checkpoint that it has written."""
    with subprocess.Popen(command(output), stderr=subprocess.DEVNULL) as launcher:
        step = 0
        while step <= newer_than:
            assert launcher.poll() is None
            time.sleep(0.005)
            step = max([int(path.read_text()) for path in command.folder.glob("checkpoints/*/latest")], default=0)
        children = psutil.Process(launcher.pid).children(recursive=True)
        ranks = [child for child in children if any("spawn_main" in part for part in child.cmdline())]
        assert len(ranks) == 2
        yield launcher, ranks, step


def test_interrupted_run_resumes_to_the_same_bytes(command):
    folder = command.folder
    whole = run(command("whole"))
    assert whole.returncode == 0, whole.stderr
    assert list((folder / "checkpoints").iterdir()) == [], "the checkpoints of a successful run are removed"

    with running_after_checkpoint(command, "resumed") as (launcher, ranks, step):
        ranks[1].kill()
        assert launcher.wait(timeout=120) == 1
        assert not any(rank.is_running() for rank in ranks), "one rank's death ends the others"
    with running_after_checkpoint(command, "resumed", newer_than=step) as (launcher, ranks, _):
        launcher.kill()
        _, alive = psutil.wait_procs(ranks, timeout=60)
        assert not alive, "ranks end with their launcher"
    assert not (folder / "resumed").exists()

    rerun = run(command("resumed"))
    assert rerun.returncode == 0, rerun.stderr
    assert "resumed from" in rerun.stderr
    assert {path.name for path in (folder / "whole").iterdir()} >= {"config.json", "tokenizer.json", "training.csv"}
    for path in (folder / "whole").iterdir():
        assert path.read_bytes() == (folder / "resumed" / path.name).read_bytes(), path.name
    check_supernet(folder / "whole", folder / "base")


def check_supernet(output: Path, base: Path) -> None:
    """Stock software loads the folder; the record has a row per step, alternating; training helped."""
    model, info = AutoModelForCausalLM.from_pretrained(output, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert model.dtype == torch.float32
    assert load_file(output / "model.safetensors").keys() == load_file(base / "model.safetensors").keys()
    table = read_table(output / "training.csv")
    assert list(table.columns) == [
        "step", "epoch", "kind", "subnet_id", "loss", "learning_rate", "response_tokens"
    ]  # fmt: skip
    assert list(table.step) == list(range(48))
    assert list(table.kind) == ["full", "subnet"] * 24
    assert list(table.epoch) == [step // 4 for step in range(48)], "34 rows fill 4 batches of 8"
    assert table.subnet_id[table.kind == "full"].eq("000").all()
    for kind in ("full", "subnet"):
        losses = table.loss[table.kind == kind]
        assert losses.tail(4).mean() < losses.head(4).mean() - 0.5


def test_bad_input_found_by_a_rank_is_one_line(command):
    weights = command.folder / "broken" / "model.safetensors"
    shutil.copytree(command.folder / "base", weights.parent)
    weights.write_bytes(weights.read_bytes()[:1000])
    done = run(command("never", base=str(weights.parent)))
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("llama-nas finetune: error:") and "broken" in last
    assert "Traceback" not in done.stderr
    assert not (command.folder / "never").exists()


def test_two_nodes_train_the_same_bytes_as_one(command):
    """Two launchers, as srun starts them on two machines; here both are this one."""
    whole = command.folder / "whole"
    if not whole.exists():
        run(command("whole"))
    told = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "2", "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1"}
    told["SLURM_JOB_ID"] = str(os.getpid())
    launchers = [
        subprocess.Popen(command("spread", nodes="2"), env=os.environ | told | {"SLURM_NODEID": node}) for node in "10"
    ]
    assert [launcher.wait(timeout=300) for launcher in launchers] == [0, 0]
    for path in whole.iterdir():
        assert path.read_bytes() == (command.folder / "spread" / path.name).read_bytes(), path.name


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({}, "one task per node (resource `mpi`), and 'SLURM_STEP_NUM_TASKS' is not set here"),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2"}, "srun started 4 tasks on 2 nodes"),
    ],
)
def test_a_launch_that_is_not_one_task_per_node_is_one_line(told, message):
    rest = {"SLURM_NODEID": "0", "SLURM_JOB_ID": "1", "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1"}
    with pytest.raises(UserError, match=re.escape(message)):
        this_node(2, told | rest)


def test_ranks_are_shared_out_over_the_nodes():
    assert [list(Node(index, 2).ranks(4)) for index in (0, 1)] == [[0, 1], [2, 3]]
    with pytest.raises(UserError, match=r"training\.ranks 3 cannot be shared out over 2 nodes"):
        Node(0, 2).ranks(3)
