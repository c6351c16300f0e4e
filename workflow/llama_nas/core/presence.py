"""Which runs are alive in a folder: what a killed run leaves behind is told from what a living one holds."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO


@contextlib.contextmanager
def present(path: Path) -> Iterator[list[str]]:
    """Be one of the runs that are alive, until the end of the block; yields the others, as `process 12 on host`.

    path: a file that all runs of a folder name. Each holds a shared lock on it, which the kernel takes back however
    the process ends. That is certain among processes of one host only: a run of another host counts as alive until it
    ends in order.
    """
    own = f"process {os.getpid()} on {platform.node()}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        alone = _try_alone(file.fileno())
        others = [line for line in _lines(file) if not alone or line.rpartition(" on ")[2] != platform.node()]
        _rewrite(file, [*others, own])
        fcntl.flock(file, fcntl.LOCK_SH)
        try:
            yield others
        finally:
            _rewrite(file, [line for line in _lines(file) if line != own])


def _lines(file: TextIO) -> list[str]:
    file.seek(0)
    return file.read().splitlines()


def _rewrite(file: TextIO, lines: list[str]) -> None:
    file.truncate(0)
    file.write("".join(f"{line}\n" for line in lines))
    file.flush()


def _try_alone(descriptor: int) -> bool:
    """Whether no other process holds a lock on the file."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
