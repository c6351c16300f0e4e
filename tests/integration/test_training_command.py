"""`llama-nas finetune` itself: interrupted, on a full disk, with probes, on two nodes."""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from llama_nas.core.artifacts import read_table
from llama_nas.core.errors import UserError
from llama_nas.training.data import tokenize_instructions
from llama_nas.training.nodes import Node, this_node


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

    tokenize_instructions(folder / "rows", base=folder / "base", instructions=folder / "rows.json", max_length=256)

    def build(output: str, **changes: str) -> list[str]:
        options = {
            "base": folder / "base", "rows": folder / "rows", "output": folder / output,
            "checkpoints": folder / "checkpoints", "checkpoint-every": 4, "seed": 1, "ranks": 2, "zero-stage": 2,
            "dtype": "fp32", "epochs": 12, "global-batch": 8, "micro-batch": 2, "learning-rate": 3e-3, "warmup": 0.1,
            "weight-decay": 0, "max-grad-norm": 1,
        } | changes  # fmt: skip
        flat = [part for key, value in options.items() for part in (f"--{key}", str(value))]
        return [sys.executable, "-m", "llama_nas.cli", "finetune", "--depths", "2", "3", "--widths", "48", "24", *flat]

    build.folder = folder
    return build


def run(arguments: list[str], largest_file: int | None = None) -> subprocess.CompletedProcess:
    """Run to the end; largest_file: bytes after which the system refuses to write on, as it does on a full disk."""

    def limit() -> None:
        if largest_file:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    return subprocess.run(arguments, capture_output=True, text=True, timeout=300, preexec_fn=limit)


@contextlib.contextmanager
def running_after_checkpoint(command, output: str, newer_than: int = 0):
    """A running command, its two ranks and the step of a checkpoint that it has written."""
    with subprocess.Popen(command(output), stderr=subprocess.DEVNULL) as launcher:
        step = 0
        while step <= newer_than:
            assert launcher.poll() is None
            time.sleep(0.005)
            step = latest(command)
        children = psutil.Process(launcher.pid).children(recursive=True)
        ranks = [child for child in children if any("spawn_main" in part for part in child.cmdline())]
        assert len(ranks) == 2
        yield launcher, ranks, step


def latest(command) -> int:
    return max([int(path.read_text()) for path in command.folder.glob("checkpoints/*/latest")], default=0)


def wait_until_saving(command) -> None:
    """Return while a checkpoint is being written: its folder is there, and `latest` does not name it.

    On a busy machine this may be missed; then after 32 of the 48 steps.
    """
    while latest(command) < 32 and not any(
        int(path.name.removeprefix("step-")) > latest(command) for path in command.folder.glob("checkpoints/*/step-*")
    ):
        time.sleep(0.0005)


def test_interrupted_run_resumes_to_the_same_bytes(command):
    """A rank killed; the launcher killed while a checkpoint is written; SIGTERM; a full disk: nothing older is lost."""
    folder = command.folder
    stale, foreign = folder / "checkpoints/0123456789abcdef", folder / "checkpoints/mine"
    for path in (stale, foreign):
        path.mkdir(parents=True)
    whole = run(command("whole"))
    assert whole.returncode == 0, whole.stderr
    assert list((folder / "checkpoints").iterdir()) == [foreign], "checkpoints: of success and of other runs removed"
    foreign.rmdir()

    with running_after_checkpoint(command, "resumed") as (launcher, ranks, step):
        ranks[1].kill()
        assert launcher.wait(timeout=120) == 1
        assert not any(rank.is_running() for rank in ranks), "one rank's death ends the others"
    with running_after_checkpoint(command, "resumed", newer_than=step) as (launcher, ranks, _):
        wait_until_saving(command)
        launcher.kill()
        _, alive = psutil.wait_procs(ranks, timeout=60)
        assert not alive, "ranks end with their launcher"
    step = latest(command)
    (steps,) = folder.glob("checkpoints/*")
    (steps / "step-00000047").mkdir(exist_ok=True)  # what a save cut short leaves
    with running_after_checkpoint(command, "resumed", newer_than=step) as (launcher, ranks, step):
        assert not (steps / "step-00000047").exists()
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(timeout=120) == 128 + signal.SIGTERM
        assert not any(rank.is_running() for rank in ranks)
    assert step < latest(command) < 48, "SIGTERM: one more checkpoint before the end"

    step = latest(command)
    full = run(command("resumed"), largest_file=50_000)
    assert full.returncode == 2 and "Traceback" not in full.stderr
    last = full.stderr.strip().splitlines()[-1]
    assert "could not be written" in last and last.endswith(f"the run continues after step {step}")
    assert latest(command) == step and not (folder / "resumed").exists()
    assert {path.name for path in steps.glob("step-*")} == {f"step-{step:08d}"}

    rerun = run(command("resumed"))
    assert rerun.returncode == 0, rerun.stderr
    assert f"after step {step}" in rerun.stderr and "resumed from" in rerun.stderr
    assert {path.name for path in (folder / "whole").iterdir()} >= {"config.json", "tokenizer.json", "training.csv"}
    for path in (folder / "whole").iterdir():
        assert path.read_bytes() == (folder / "resumed" / path.name).read_bytes(), path.name
    check_supernet(folder / "whole", folder / "base")


def test_full_disk_at_the_end_keeps_the_checkpoint(command):
    """The last checkpoint is smaller than the model's file is allowed to be; the model is not."""
    done = run(command("too-large", **{"checkpoint-every": 10**6, "seed": 2}), largest_file=50_000)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "too-large: could not be written" in done.stderr.strip().splitlines()[-1]
    assert not (command.folder / "too-large").exists()


def test_probes_and_tensorboard(command):
    """Probes of the full network, each depth wide and narrow; held-out rows are not trained on."""
    done = run(command("probed", epochs=2, **{"probe-every": 3, "tensorboard": command.folder / "board"}))
    assert done.returncode == 0, done.stderr
    probes = read_table(command.folder / "probed" / "probes.csv")
    assert list(probes.step.unique()) == [3, 6]
    assert list(probes.subnet_id[:4]) == ["000", "111", "00x", "11x"]
    first, last = (probes[probes.step == step].loss.to_numpy() for step in (3, 6))
    assert (last < first).all()
    assert list(read_table(command.folder / "probed" / "training.csv").epoch) == [0, 0, 0, 1, 1, 1], "34 - 4 rows"
    assert list((command.folder / "board").rglob("events.out.*"))


def check_supernet(output: Path, base: Path) -> None:
    """Stock software loads the folder; the record has a row per step, alternating; training helped."""
    model, info = AutoModelForCausalLM.from_pretrained(output, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert model.dtype == torch.float32
    assert load_file(output / "model.safetensors").keys() == load_file(base / "model.safetensors").keys()
    table = read_table(output / "training.csv")
    assert list(table.columns) == [
        "step", "epoch", "kind", "subnet_id", "loss", "learning_rate", "response_tokens", "tokens"
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
