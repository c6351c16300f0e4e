"""`llama-nas finetune` itself: interrupted, on a full disk, with probes, on two nodes."""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from tests.support.models import write_space
from tests.support.training import write_base, write_rows
from transformers import AutoModelForCausalLM

from llama_nas.core.artifacts import read_table

STEPS = 48
TOO_SMALL = 50_000  # bytes; the model's file has more, and a checkpoint's has, too
CUT_SHORT = "step-00000047"
STALE, FOREIGN = "0123456789abcdef", "mine"


class Command:
    """`llama-nas finetune` on a tiny base model: 48 steps on 2 ranks with ZeRO-2."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.base = folder, folder / "base"
        shape = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
        write_base(self.base, **shape)
        rows = [{"instruction": f"Say {n}.", "input": "", "output": "one " * (n % 5 + 1)} for n in range(34)]
        write_rows(folder / "rows", self.base, rows)
        self.space = write_space(self.base, widths=[48, 24], depths=[2, 3])

    def line(self, output: str, **changes: object) -> list[str]:
        """The command line; changes: options of another value, with _ for -."""
        options = {
            "base": self.base, "rows": self.folder / "rows", "space": self.space, "output": self.folder / output,
            "checkpoints": self.folder / "checkpoints", "checkpoint_every": 4, "seed": 1, "ranks": 2, "zero_stage": 2,
            "dtype": "fp32", "epochs": 12, "global_batch": 8, "micro_batch": 2, "learning_rate": 3e-3, "warmup": 0.1,
            "weight_decay": 0, "max_grad_norm": 1,
        } | changes  # fmt: skip
        flat = [part for key, value in options.items() for part in (f"--{key.replace('_', '-')}", str(value))]
        return [sys.executable, "-m", "llama_nas.cli", "finetune", *flat]

    def run(self, output: str, largest_file: int | None = None, **changes: object) -> subprocess.CompletedProcess:
        """Run to the end; largest_file: bytes after which the system refuses to write on, as on a full disk."""

        def limit() -> None:
            if largest_file:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

        line = self.line(output, **changes)
        return subprocess.run(line, capture_output=True, text=True, timeout=300, preexec_fn=limit)

    @property
    def latest(self) -> int:
        """Steps behind the newest complete checkpoint; 0 without one."""
        return max([int(path.read_text()) for path in self.folder.glob("checkpoints/*/latest")], default=0)

    @property
    def step_folders(self) -> set[str]:
        return {path.name for path in self.folder.glob("checkpoints/*/step-*")}

    def wait_until_saving(self) -> None:
        """Return while a checkpoint is being written: its folder is there, and `latest` does not name it.

        On a busy machine this may be missed; then after 32 of the 48 steps.
        """
        while self.latest < 32 and not any(int(name.removeprefix("step-")) > self.latest for name in self.step_folders):
            time.sleep(0.0005)


@dataclass(frozen=True)
class Ending:
    """How one start of the command ended."""

    exit_code: int
    stderr: str
    ranks_left: int  # processes that outlived the launcher
    before: int  # steps behind the newest checkpoint before it was ended
    after: int  # the same when it had ended
    step_folders: set[str]


@contextlib.contextmanager
def running_after_checkpoint(command: Command) -> Iterator[tuple[subprocess.Popen, list[psutil.Process]]]:
    """A running command and its two ranks, after it has written a newer checkpoint than there was."""
    older = command.latest
    with subprocess.Popen(command.line("resumed"), stderr=subprocess.DEVNULL) as launcher:
        while command.latest <= older:
            assert launcher.poll() is None
            time.sleep(0.005)
        children = psutil.Process(launcher.pid).children(recursive=True)
        ranks = [child for child in children if any("spawn_main" in part for part in child.cmdline())]
        assert len(ranks) == 2
        yield launcher, ranks


def kill_a_rank(command: Command) -> Ending:
    with running_after_checkpoint(command) as (launcher, ranks):
        before = command.latest
        ranks[1].kill()
        exit_code = launcher.wait(timeout=120)
        left = sum(rank.is_running() for rank in ranks)
    return Ending(exit_code, "", left, before, command.latest, command.step_folders)


def kill_the_launcher_while_saving(command: Command) -> Ending:
    with running_after_checkpoint(command) as (launcher, ranks):
        command.wait_until_saving()
        before = command.latest
        launcher.kill()
        _, alive = psutil.wait_procs(ranks, timeout=60)
        exit_code = launcher.wait(timeout=120)
    return Ending(exit_code, "", len(alive), before, command.latest, command.step_folders)


def terminate(command: Command) -> Ending:
    """SIGTERM, as a cluster sends it; before the start lies what a save cut short leaves."""
    (marker,) = command.folder.glob("checkpoints/*/latest")
    marker.with_name(CUT_SHORT).mkdir(exist_ok=True)
    with running_after_checkpoint(command) as (launcher, ranks):
        before = command.latest
        launcher.send_signal(signal.SIGTERM)
        exit_code = launcher.wait(timeout=120)
        left = sum(rank.is_running() for rank in ranks)
    return Ending(exit_code, "", left, before, command.latest, command.step_folders)


def run_to_the_end(command: Command, **changes: object) -> Ending:
    before = command.latest
    done = command.run("resumed", **changes)
    return Ending(done.returncode, done.stderr, 0, before, command.latest, command.step_folders)


@pytest.fixture(scope="module")
def command(tmp_path_factory) -> Command:
    return Command(tmp_path_factory.mktemp("command"))


@pytest.fixture(scope="module")
def whole(command) -> Path:
    """The output of a run that nothing interrupts; it finds another run's checkpoints and a folder of a user."""
    for name in (STALE, FOREIGN):
        (command.folder / "checkpoints" / name).mkdir(parents=True)
    done = command.run("whole")
    assert done.returncode == 0, done.stderr
    return command.folder / "whole"


@pytest.fixture(scope="module")
def endings(command, whole) -> dict[str, Ending]:
    """The same run again, ended five times before it may end by itself."""
    return {
        "rank killed": kill_a_rank(command),
        "launcher killed": kill_the_launcher_while_saving(command),
        "terminated": terminate(command),
        "disk full": run_to_the_end(command, largest_file=TOO_SMALL),
        "disk full at the end": run_to_the_end(command, largest_file=TOO_SMALL, checkpoint_every=10**6),
        "done": run_to_the_end(command),
    }


# --- a run that nothing interrupts --------------------------------------------------------------------------------


def test_stock_software_loads_the_super_network(command, whole):
    model, info = AutoModelForCausalLM.from_pretrained(whole, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert model.dtype == torch.float32
    assert load_file(whole / "model.safetensors").keys() == load_file(command.base / "model.safetensors").keys()
    assert {path.name for path in whole.iterdir()} >= {"config.json", "tokenizer.json", "training.csv"}


def test_the_record_has_a_row_for_each_step_full_and_sub_network_in_turn(whole):
    table = read_table(whole / "training.csv")
    assert list(table.columns) == [
        "step", "epoch", "kind", "subnet_id", "loss", "learning_rate", "response_tokens", "tokens"
    ]  # fmt: skip
    assert list(table.step) == list(range(STEPS))
    assert list(table.kind) == ["full", "subnet"] * (STEPS // 2)
    assert list(table.epoch) == [step // 4 for step in range(STEPS)], "34 rows fill 4 batches of 8"
    assert table.subnet_id[table.kind == "full"].eq("000").all()


def test_a_run_that_is_done_has_removed_checkpoints_and_nothing_else(command, whole):
    """Its own, and those of a run with another identity."""
    assert [path.name for path in (command.folder / "checkpoints").iterdir()] == [FOREIGN]


@pytest.mark.parametrize("kind", ["full", "subnet"])
def test_training_lowers_the_loss(whole, kind):
    table = read_table(whole / "training.csv")
    losses = table.loss[table.kind == kind]
    assert losses.tail(4).mean() < losses.head(4).mean() - 0.5


# --- a run that is interrupted again and again --------------------------------------------------------------------


def test_one_ranks_death_ends_the_others(endings):
    ending = endings["rank killed"]
    assert ending.exit_code == 1 and ending.ranks_left == 0


def test_ranks_end_with_their_launcher(endings):
    assert endings["launcher killed"].ranks_left == 0


@pytest.mark.parametrize("name", ["rank killed", "launcher killed"])
def test_a_killed_run_keeps_its_newest_checkpoint(endings, name):
    assert endings[name].after >= endings[name].before > 0


def test_sigterm_saves_one_more_checkpoint(endings):
    ending = endings["terminated"]
    assert ending.exit_code == 128 + signal.SIGTERM and ending.ranks_left == 0
    assert ending.before < ending.after < STEPS


def test_the_rest_of_a_save_cut_short_is_removed(endings):
    assert endings["terminated"].step_folders == {f"step-{endings['terminated'].after:08d}"}


@pytest.mark.parametrize("name", ["disk full", "disk full at the end"])
def test_a_full_disk_is_one_line_and_keeps_the_checkpoint(command, endings, name):
    ending = endings[name]
    assert ending.exit_code == 2 and "Traceback" not in ending.stderr
    assert "could not be written" in ending.stderr.strip().splitlines()[-1]
    assert ending.after == ending.before == endings["terminated"].after
    assert ending.step_folders == {f"step-{ending.after:08d}"}


def test_a_full_disk_at_a_checkpoint_says_where_the_run_continues(endings):
    ending = endings["disk full"]
    assert ending.stderr.strip().endswith(f"the run continues after step {ending.after}")


def test_a_full_disk_at_the_end_names_the_output(endings):
    assert "resumed: could not be written" in endings["disk full at the end"].stderr.strip().splitlines()[-1]


def test_a_run_that_is_started_again_says_where_it_resumes(endings):
    done = endings["done"]
    assert done.exit_code == 0, done.stderr
    assert "resumed from" in done.stderr and f"after step {done.before}" in done.stderr
    assert done.step_folders == set(), "a run that is done has no checkpoints"


def test_an_interrupted_run_ends_with_the_same_bytes(command, whole, endings):
    resumed = command.folder / "resumed"
    assert {path.name for path in whole.iterdir()} == {path.name for path in resumed.iterdir()}
    for path in whole.iterdir():
        assert path.read_bytes() == (resumed / path.name).read_bytes(), path.name


# --- other runs ---------------------------------------------------------------------------------------------------


def test_probes_and_tensorboard(command):
    """Probes of the full network, each depth wide and narrow; held-out rows are not trained on."""
    done = command.run("probed", epochs=2, probe_every=3, tensorboard=command.folder / "board")
    assert done.returncode == 0, done.stderr
    probes = read_table(command.folder / "probed" / "probes.csv")
    assert list(probes.step.unique()) == [3, 6]
    assert list(probes.subnet_id[:4]) == ["000", "111", "00x", "11x"]
    first, last = (probes[probes.step == step].loss.to_numpy() for step in (3, 6))
    assert (last < first).all()
    assert list(read_table(command.folder / "probed" / "training.csv").epoch) == [0, 0, 0, 1, 1, 1], "34 - 4 rows"
    assert list((command.folder / "board").rglob("events.out.*"))


def test_bad_input_found_by_a_rank_is_one_line(command):
    broken = command.folder / "broken"
    shutil.copytree(command.base, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    done = command.run("never", base=broken)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("llama-nas finetune: error:") and "broken" in last
    assert "Traceback" not in done.stderr
    assert not (command.folder / "never").exists()


def test_two_nodes_train_the_same_bytes_as_one(command, whole):
    """Two launchers, as srun starts them on two machines; here both are this one."""
    told = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "2", "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1"}
    told["SLURM_JOB_ID"] = str(os.getpid())
    line = command.line("spread", nodes=2)
    launchers = [subprocess.Popen(line, env=os.environ | told | {"SLURM_NODEID": node}) for node in "10"]
    assert [launcher.wait(timeout=300) for launcher in launchers] == [0, 0]
    for path in whole.iterdir():
        assert path.read_bytes() == (command.folder / "spread" / path.name).read_bytes(), path.name
