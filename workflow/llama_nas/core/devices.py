"""Which GPUs a job uses: a lease on devices of this machine that ends with the process that holds it.

Snakemake counts GPUs (the resource `gpu`) and tells no job which one is its own; two jobs on one workstation would
both take the first. A lease is a lock on one file per device, which the kernel drops when the process ends, however it
ends. Devices that a scheduler or a user chose (CUDA_VISIBLE_DEVICES) are the only ones considered.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from llama_nas.core.errors import UserError

log = logging.getLogger(__name__)

DEVICES = Path("/dev")
LOCKS = Path("/tmp/llama-nas-devices")  # one for all users of the machine; containers see the host's /tmp
RETRY_SECONDS = 1.0


def visible_devices() -> list[str]:
    """Numbers or UUIDs of CUDA_VISIBLE_DEVICES; where that is not set, the numbers of all of the machine's GPUs."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return [str(i) for i, _ in enumerate(DEVICES.glob("nvidia[0-9]*"))]
    return [device for device in chosen.replace(" ", "").split(",") if re.fullmatch(r"\d+|(GPU|MIG)-.+", device)]


@contextlib.contextmanager
def leased_devices(count: int) -> Iterator[list[str]]:
    """Hold `count` of the visible GPUs and make them the only visible ones; waits until so many are free.

    To be entered before CUDA is initialised. Where no GPU can be listed nothing is held. Raises UserError if there are
    fewer than `count` to be had.
    """
    devices = visible_devices() if count else []
    if not devices:
        yield []
        return
    if count > len(devices):
        raise UserError(f"{count} GPUs are needed (one per rank) and {len(devices)} visible here: {','.join(devices)}")
    before = {key: os.environ.get(key) for key in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")}
    # Numbers that a user chose are counted as CUDA counts for that user; ours are those of /dev.
    order = {} if before["CUDA_VISIBLE_DEVICES"] else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    with contextlib.ExitStack() as locks:
        held = _hold(devices, count, locks)
        log.info("GPU %s", ",".join(held))
        os.environ |= {"CUDA_VISIBLE_DEVICES": ",".join(held), **order}
        try:
            yield held
        finally:
            for key, value in before.items():
                os.environ.pop(key, None)
                if value is not None:
                    os.environ[key] = value


def _hold(devices: Sequence[str], count: int, locks: contextlib.ExitStack) -> list[str]:
    """Lock `count` devices, all or none at a time, so that two jobs never wait for each other's."""
    waiting = False
    while True:
        with contextlib.ExitStack() as attempt:
            held: list[str] = []
            for device in devices:
                if len(held) < count and _lock(device, attempt):
                    held.append(device)
            if len(held) == count:
                locks.enter_context(attempt.pop_all())
                return held
        if not waiting:
            log.info("waiting for %d of the GPUs %s: other jobs hold them", count, ",".join(devices))
        waiting = True
        time.sleep(RETRY_SECONDS)


def _lock(device: str, locks: contextlib.ExitStack) -> bool:
    """Lock a device's file until `locks` is closed; False if another process holds it."""
    # Under a scheduler that confines jobs to their devices, every job's first GPU is number 0 to it.
    name = f"{os.environ.get('SLURM_JOB_ID', 'machine')}-{device}"
    with contextlib.suppress(FileExistsError):
        LOCKS.mkdir()
        LOCKS.chmod(0o777)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(LOCKS / name, os.O_CREAT | os.O_EXCL, 0o666))
    file = os.open(LOCKS / name, os.O_RDONLY)
    locks.callback(os.close, file)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
