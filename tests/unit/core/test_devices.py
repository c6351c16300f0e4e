"""GPU leases, with fake devices: never two jobs on one, free again however a job ends, a scheduler's choice kept."""

import os
import signal
import subprocess
import sys
import time

import pytest

from llama_nas.core import devices
from llama_nas.core.errors import UserError

JOB = """
import os, sys, time
from pathlib import Path
from llama_nas.core import devices
devices.LOCKS, devices.RETRY_SECONDS = Path(sys.argv[1]), 0.05
with devices.leased_devices(int(sys.argv[2])):
    print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine with two GPUs and nothing leased."""
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    monkeypatch.setattr(devices, "DEVICES", tmp_path)
    monkeypatch.setattr(devices, "LOCKS", tmp_path / "locks")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


@pytest.fixture
def job(tmp_path):
    """Start a process that leases so many devices and holds them until it is told to end."""
    started = []

    def start(count=1, visible="0,1", **environment):
        process = subprocess.Popen(
            [sys.executable, "-c", JOB, tmp_path / "locks", str(count)],
            env=os.environ | {"CUDA_VISIBLE_DEVICES": visible} | environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def leased(process) -> str:
    return process.stdout.readline().strip()


def end(process) -> None:
    process.stdin.close()
    process.wait(timeout=20)


def test_concurrent_jobs_get_different_devices_and_the_third_waits(job):
    first, second = job(), job()
    assert {leased(first), leased(second)} == {"0", "1"}
    third = job()
    time.sleep(0.5)
    assert third.poll() is None and not _has_output(third)
    end(second)
    assert leased(third) in ("0", "1")


def test_a_killed_job_gives_its_devices_back(job):
    first = job(count=2)
    assert leased(first) == "0,1"
    second = job(count=2)
    first.send_signal(signal.SIGKILL)
    assert leased(second) == "0,1"


def test_only_the_devices_that_were_chosen_are_leased(job):
    first = job(visible="1")
    assert leased(first) == "1"
    second = job(visible="0,1")
    assert leased(second) == "0"
    third = job(visible="GPU-1b2c, MIG-77")
    assert leased(third) == "GPU-1b2c"


def test_the_same_number_in_two_scheduled_jobs_is_not_the_same_device(job):
    """SLURM with confined devices: each job sees its own GPU as number 0."""
    first, second = job(visible="0", SLURM_JOB_ID="7"), job(visible="0", SLURM_JOB_ID="8")
    assert leased(first) == leased(second) == "0"


def test_without_a_choice_the_machines_devices_are_counted():
    with devices.leased_devices(2) as held:
        assert held == ["0", "1"] and os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
        assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    with devices.leased_devices(0) as held:
        assert held == [] and "CUDA_VISIBLE_DEVICES" not in os.environ


def test_numbers_that_were_chosen_mean_what_they_meant(monkeypatch):
    """CUDA counts the fastest device first unless told otherwise: "1" would be another one by the order of the bus."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    with devices.leased_devices(1) as held:
        assert held == ["1"] and "CUDA_DEVICE_ORDER" not in os.environ
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"


@pytest.mark.parametrize("hidden", ["", "-1", "NoDevFiles"])
def test_hidden_devices_are_not_leased(monkeypatch, hidden):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert devices.visible_devices() == []


def test_more_than_there_are_is_one_line():
    with pytest.raises(UserError, match=r"3 GPUs are needed \(one per rank\) and 2 visible here: 0,1"):
        devices.leased_devices(3).__enter__()


def _has_output(process) -> bool:
    os.set_blocking(process.stdout.fileno(), False)
    try:
        return bool(os.read(process.stdout.fileno(), 1))
    except BlockingIOError:
        return False
    finally:
        os.set_blocking(process.stdout.fileno(), True)
