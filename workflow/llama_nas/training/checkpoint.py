"""Checkpoints of a run: DeepSpeed's own, one folder per step, valid once the `latest` file names it.

A run's folder is named by its identity, so that a changed configuration never resumes a stale run. These files are
private to this machine and user and are removed when the run succeeds; they are the one place where torch's pickle
format is read, and only files that this very run wrote.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_nas.artifacts import read_table, write_table, write_text

if TYPE_CHECKING:
    import pandas as pd
    from accelerate import Accelerator

log = logging.getLogger(__name__)


def latest_step(folder: Path) -> int:
    """How many optimizer steps the newest complete checkpoint has behind it; 0 without one."""
    marker = folder / "latest"
    return int(marker.read_text()) if marker.exists() else 0


def save(accelerator: Accelerator, engine: Any, folder: Path, step: int, history: pd.DataFrame) -> None:
    """Write a checkpoint after `step` steps on all ranks, make it the latest, and remove all others."""
    engine.save_checkpoint(str(folder), tag=_tag(step), save_latest=False)
    if accelerator.is_main_process:
        write_table(folder / _tag(step) / "training.csv", history)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_text(folder / "latest", str(step))
        _prune(folder, step)


def restore(accelerator: Accelerator, engine: Any, folder: Path) -> pd.DataFrame | None:
    """Load the latest checkpoint into the engine; returns the history up to it, or None where there is none."""
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
    return read_table(folder / _tag(step) / "training.csv")


def _tag(step: int) -> str:
    return f"step-{step:08d}"


def _prune(folder: Path, keep: int) -> None:
    """Remove every step's folder but one: older checkpoints, and what an interrupted save left behind."""
    for path in folder.glob("step-*"):
        if path.name != _tag(keep):
            shutil.rmtree(path)
