"""The reduced world through profiles/slurm on a real SLURM; its training, on two nodes, is requeued and cancelled.

A part of .ci/run, and `make test-slurm` (docs/guide/cluster.md): it needs root and starts daemons.
"""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.cluster import slurm
from tests.cluster.runs import REPOSITORY, RUNS, assert_same_results, command

# A small cluster answers at once; rules that need no GPU here ask for fake ones; training is spread over two nodes.
SRUN = "srun --nodes=2 --ntasks=2 --ntasks-per-node=1 --cpus-per-task=1 --kill-on-bad-exit=1"
HERE = [
    *("--profile", str(REPOSITORY / "profiles/slurm")),
    *("--slurm-no-account", "--slurm-init-seconds-before-status-checks", "2", "--seconds-between-status-checks", "2"),
    *("--slurm-status-command", "squeue", "--latency-wait", "5"),
    *("--set-resources", "evaluate:gpu=1", "finetune:gpu=2", "finetune:nodes=2", "finetune:tasks=2"),
    *("finetune:tasks_per_gpu=0", f"finetune:mpi='{SRUN}'", "--set-threads", "finetune=1"),
]
LEASE = "from llama_nas.core.devices import leased_devices\nwith leased_devices(1) as held: print(*held)"


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with slurm.running_slurm():
        yield


def test_a_job_leases_the_device_that_slurm_gave_it():
    command = [
        "srun",
        "--quiet",
        "--nodelist=one",
        "--ntasks=1",
        "--mem=100",
        "--gpus=1",
        "sh",
        "-c",
        f"sleep 2; '{sys.executable}' -c '{LEASE}'",
    ]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert sorted(job.communicate(timeout=120)[0].strip() for job in both) == ["0", "1"]


def test_the_reduced_world_through_the_profile(local):
    folder = RUNS / "slurm"
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("world", "base"):  # pre-training is a job like any other, only the longest
        shutil.copytree(local / "results" / name, folder / "results" / name)
    with open(folder / "snakemake.log", "w") as log:
        run = subprocess.Popen(command(folder, *HERE), stdout=log, stderr=subprocess.STDOUT)
        try:
            requeue_and_cancel_training(run, folder)
            assert run.wait(timeout=2400) == 0, (folder / "snakemake.log").read_text()[-20000:]
        finally:
            run.terminate()
            run.wait()
    assert "resumed from" in (folder / "logs/finetune.log").read_text()
    requeued, last = slurm.jobs_of("finetune")
    assert requeued["Restarts"] == "1" and requeued["JobState"] == "CANCELLED"
    assert last["JobState"] == "COMPLETED" and int(memory(last)) == 2 * int(memory(requeued))
    assert last["TresPerJob"] == "gres:gpu:2" and last["NumNodes"] == "2"
    evaluations = slurm.jobs_of("evaluate")
    assert len(evaluations) == 3 and all(job["TresPerJob"] == "gres:gpu:1" for job in evaluations)
    assert not slurm.jobs_of("gather") and not slurm.jobs_of("propose"), "steps of seconds are no jobs"
    assert_same_results(local, folder)


def requeue_and_cancel_training(run: subprocess.Popen, folder: Path) -> None:
    """Requeue the training job after a checkpoint, as preemption does; when it has made another one, cancel it."""

    def wait_for(condition) -> None:
        end = time.monotonic() + 1200
        while not condition():
            alive = run.poll() is None and time.monotonic() < end
            assert alive, (folder / "snakemake.log").read_text()[-20000:]
            time.sleep(0.1)

    def saved() -> int:
        markers = folder.glob("results/checkpoints/*/latest")
        return max((int(marker.read_text()) for marker in markers), default=0)

    wait_for(saved)
    (job,) = slurm.jobs_of("finetune")
    subprocess.run(["scontrol", "requeue", job["JobId"]], check=True)
    wait_for(lambda: [job["JobState"] for job in slurm.jobs_of("finetune") if job["Restarts"] == "1"] == ["RUNNING"])
    before = saved()
    wait_for(lambda: saved() > before)
    subprocess.run(["scancel", job["JobId"]], check=True)


def memory(job: dict[str, str]) -> str:
    """MB of a job's request, e.g. of MinMemoryNode=8000M."""
    return job["MinMemoryNode"].removesuffix("M")
