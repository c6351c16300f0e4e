"""A run that was killed continues by the command that started it; two at once are refused."""

import os
import signal
import subprocess
import time

from tests.workflow.workflow_copy import jobs, snakemake

TARGET = "results/supernet"
CONTINUES = "The run that held the lock of this folder is gone; this one continues."


def start(run, stage: str) -> subprocess.Popen:
    """A run whose `stage` waits for a file `go`; returns when it waits there."""
    command = run.folder / "bin/llama-nas"
    lines = command.read_text().splitlines()
    wait = f'if [ "$1" = {stage} ]; then touch "$PWD/waits"; while [ ! -e "$PWD/go" ]; do sleep 0.1; done; fi'
    command.write_text("\n".join([lines[0], wait, *lines[1:]]) + "\n")
    process = subprocess.Popen(
        ["snakemake", TARGET, *run.options()], cwd=run.folder, env=run.environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    while not (run.folder / "waits").exists():
        assert process.poll() is None
        time.sleep(0.1)
    return process


def test_the_same_command_continues_a_killed_run_and_says_so(run):
    process = start(run, "finetune")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert list((run.folder / ".snakemake").glob("locks/*"))
    (run.folder / "go").touch()
    result = snakemake(TARGET, *run.options(), folder=run.folder, env=run.environment)
    assert CONTINUES in result.stderr
    assert not {"make_world", "pretrain"} & jobs(result).keys() and (run.folder / TARGET).exists()
    assert not list((run.folder / ".snakemake").glob("locks/*"))


def test_a_second_run_beside_a_living_one_is_refused_and_does_not_disturb_it(run):
    process = start(run, "finetune")
    result = snakemake(TARGET, *run.options(), folder=run.folder, env=run.environment)
    assert result.returncode and f"At work in this folder: process {process.pid} on" in result.stderr
    assert CONTINUES not in result.stderr
    (run.folder / "go").touch()
    assert process.wait() == 0 and (run.folder / TARGET).exists()
