"""A SLURM cluster on this machine, by the distribution's own daemons: two nodes with two fake GPUs each.

Both nodes are this machine, so what runs on one alone is run as on any single machine; jobs on two are spread for real.

Needs root and Debian's slurm-wlm and munge. Everything lies in /run/llama-nas-slurm but for the configuration, which
SLURM's commands look for in /etc/slurm inside jobs.
"""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

STATE = Path("/run/llama-nas-slurm")
ETC = Path("/etc/slurm")
NODES = ("one", "two")
DAEMONS = ("munged", "slurmctld", "slurmd")

SLURM_CONF = """\
ClusterName=one-machine
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
AuthType=auth/munge
# A requeued job waits until its old credential has expired.
AuthInfo=socket={state}/munge.socket,cred_expire=5
StateSaveLocation={state}/slurmctld
SlurmdSpoolDir={state}/%n
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
ReturnToService=2
# Without accounting, what became of a job is known as long as slurmctld remembers it.
MinJobAge=3600
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName=DEFAULT CPUs={cpus} RealMemory={memory} Gres=gpu:2 State=UNKNOWN
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port=16818
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port=16819
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@contextlib.contextmanager
def running_slurm() -> Iterator[None]:
    """Start munged, slurmctld and slurmd, wait until the node is idle, and stop them again."""
    missing = [name for name in DAEMONS if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        raise RuntimeError(f"needs root and Debian's slurm-wlm and munge (missing: {', '.join(missing) or 'root'})")
    if (ETC / "slurm.conf").exists():
        raise RuntimeError(f"{ETC}/slurm.conf: this machine has a SLURM of its own, which this test would replace")
    shutil.rmtree(STATE, ignore_errors=True)
    for folder in (ETC, STATE, *(STATE / name for name in ("slurmctld", *NODES))):
        folder.mkdir(exist_ok=True)
    host = platform.node().partition(".")[0]
    memory = psutil.virtual_memory().total // 2**20 * 9 // 10
    configuration = SLURM_CONF.format(host=host, state=STATE, cpus=psutil.cpu_count(), memory=memory)
    (ETC / "slurm.conf").write_text(configuration)
    gpus = [f"NodeName={node} Name=gpu File={STATE}/{node}-gpu[0-1]\n" for node in NODES]
    (ETC / "gres.conf").write_text("".join(gpus))
    for node in NODES:  # of regular files SLURM would make no CUDA_VISIBLE_DEVICES
        for gpu in (0, 1):
            os.mknod(STATE / f"{node}-gpu{gpu}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    key = STATE / "munge.key-file"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    files = ("key-file", "socket", "pid-file", "log-file", "seed-file")
    munge = [f"--{option}={STATE}/munge.{option}" for option in files]
    processes = []
    try:
        daemons = [["munged", "--foreground", *munge], ["slurmctld", "-D", "-c"]]
        for command in (*daemons, *(["slurmd", "-D", "-N", node] for node in NODES)):
            with open(STATE / f"{len(processes)}-{command[0]}.out", "w") as output:
                processes.append(subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT))
            if command[0] == "munged":
                _wait_for((STATE / "munge.socket").exists, "munged")
        _wait_for(
            lambda: _output("sinfo", "--noheader", "--Node", "--format=%T").split() == ["idle"] * 2, "SLURM's nodes"
        )
        yield
    finally:
        _output("scancel", f"--user={os.environ.get('USER', 'root')}")
        for process in reversed(processes):
            process.terminate()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for name in ("slurm.conf", "gres.conf"):
            (ETC / name).unlink()


def jobs() -> list[dict[str, str]]:
    """All jobs that slurmctld remembers, by `scontrol show jobs`."""
    lines = _output("scontrol", "--oneliner", "show", "jobs").splitlines()
    return [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines if "JobId=" in line]


def jobs_of(rule: str) -> list[dict[str, str]]:
    """Jobs of a Snakemake rule, oldest first."""
    return [job for job in jobs() if job.get("Comment", "").startswith(f"rule_{rule}")]


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout


def _wait_for(condition, what: str, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            logs = "\n".join(f"{path}:\n{path.read_text()[-3000:]}" for path in STATE.glob("*.out"))
            raise RuntimeError(f"{what} did not come up in {seconds:.0f} seconds\n{logs}")
        time.sleep(0.2)
