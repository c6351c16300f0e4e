"""Checkpoints of a run: DeepSpeed's own, one folder per step, valid once the `latest` file names it.

A run's folder is named by its identity, so that a changed configuration never resumes a stale run. These files are
private to this machine and user and are removed when the run succeeds; they are the one place where torch's pickle
format is read, and only files that this very run wrote.
"""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from llama_nas.core.artifacts import read_table, write_table, write_text
from llama_nas.core.errors import UserError

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)

Tables = dict[str, list[Any]]  # what a run has recorded so far: rows by the name of their file, `training`, `probes`


def latest_step(folder: Path) -> int:
    """How many optimizer steps the newest complete checkpoint has behind it; 0 without one."""
    marker = folder / "latest"
    return int(marker.read_text()) if marker.exists() else 0


def save(accelerator: Accelerator, engine: Any, folder: Path, step: int, tables: Tables) -> None:
    """Write a checkpoint after `step` steps on all ranks, make it the latest, and remove all others.

    Raises UserError where it cannot be written (a full disk); the one before it is untouched.
    """
    try:
        engine.save_checkpoint(str(folder), tag=_tag(step), save_latest=False)
        if accelerator.is_main_process:
            write_tables(folder / _tag(step), tables)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            write_text(folder / "latest", str(step))
            _prune(folder, step)
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError where a file cannot be written
        if latest_step(folder) < step:
            shutil.rmtree(folder / _tag(step), ignore_errors=True)
        raise UserError(
            f"{folder}: the checkpoint after step {step} could not be written ({str(error).splitlines()[0]}); make "
            f"room and start again: the run continues after step {latest_step(folder)}"
        ) from error


def restore(accelerator: Accelerator, engine: Any, folder: Path) -> Tables | None:
    """Load the latest checkpoint into the engine; returns what was recorded up to it, or None where there is none."""
    step = latest_step(folder)
    accelerator.wait_for_everyone()  # every rank has read the marker before any rank can move it
    if accelerator.is_main_process and folder.exists():
        _prune(folder, step)
    if step == 0:
        return None
    loaded, _ = engine.load_checkpoint(str(folder), tag=_tag(step), load_lr_scheduler_states=False)
    if loaded is None:
        raise RuntimeError(f"{folder / _tag(step)}: DeepSpeed could not load the checkpoint")
    log.info("resumed from %s after step %d", folder, step)
    return {path.stem: read_table(path).to_dict("records") for path in (folder / _tag(step)).glob("*.csv")}


def write_tables(folder: Path, tables: Tables) -> None:
    for name, rows in tables.items():
        if rows:
            write_table(folder / f"{name}.csv", pd.DataFrame(rows))


def remove_stale(checkpoints: Path, identity: str) -> None:
    """Remove the checkpoints of every other run under `checkpoints`: a changed configuration never comes back to them.

    One run at a time may use the folder.
    """
    for path in checkpoints.glob("*"):
        if re.fullmatch("[0-9a-f]{16}", path.name) and path.name != identity:
            shutil.rmtree(path)
            log.info("removed %s: checkpoints of a run with another configuration, other inputs or other code", path)


def _tag(step: int) -> str:
    return f"step-{step:08d}"


def _prune(folder: Path, keep: int) -> None:
    """Remove every step's folder but one: older checkpoints, and what an interrupted save left behind."""
    for path in folder.glob("step-*"):
        if path.name != _tag(keep):
            shutil.rmtree(path)
