"""Prefill throughput of model folders, measured side by side."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch

from llama_nas.artifacts import read_json, write_table
from llama_nas.errors import UserError
from llama_nas.hf_folder import load_model, weight_files
from llama_nas.progress import track
from llama_nas.space import PRECISIONS

log = logging.getLogger(__name__)

WARMUP_RUNS = 2


@dataclass(frozen=True)
class Entry:
    """One model to measure, as given on the command line."""

    name: str
    precision: str
    folder: Path


def measure_throughput(
    output: Path,
    models: Sequence[str],
    batch_size: int,
    sequence_length: int,
    repeats: int,
    device: str,
    threads: int,
) -> None:
    """Time forward passes over `batch_size` x `sequence_length` random tokens; write tokens/s per model as CSV.

    models: `NAME:PRECISION=FOLDER` each. A run is a prefill as a server does it: all positions through the network,
    keys and values cached, logits of the last position. The models take turns run by run, so that a drift of the
    machine meets all alike; where they do not fit in memory together, they are measured one after the other.
    Columns: median and quartiles of tokens/s over the repeats.
    """
    entries = [_parse(text) for text in models]
    if repeats < 1:
        raise UserError("--repeats must be at least 1")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no CUDA device is available")
    for entry in entries:
        limit = read_json(entry.folder / "config.json")["max_position_embeddings"]
        if sequence_length > limit:
            raise UserError(f"--sequence-length {sequence_length} is beyond the {limit} positions of {entry.folder}")
    torch.set_num_threads(threads)
    # Twice the files: activations, and folders loaded at a wider dtype than stored.
    needed = sum(2 * path.stat().st_size for entry in entries for path in weight_files(entry.folder))
    together = needed < _free_bytes(device)
    log.info("%d models, %s", len(entries), "taking turns" if together else "one after the other: memory is short")
    seconds: dict[Entry, list[float]] = {}
    for group in [entries] if together else [[entry] for entry in entries]:
        seconds |= _time_in_turns(group, batch_size, sequence_length, repeats, device)
    rows = []
    for entry in entries:
        q1, median, q3 = np.percentile(batch_size * sequence_length / np.array(seconds[entry]), [25, 50, 75])
        rows.append(
            {
                "model": entry.name,
                "precision": entry.precision,
                "device": device,
                "threads": threads,
                "batch_size": batch_size,
                "sequence_length": sequence_length,
                "repeats": repeats,
                "tokens_per_second": median,
                "tokens_per_second_q1": q1,
                "tokens_per_second_q3": q3,
            }
        )
    write_table(output, pd.DataFrame(rows))


def _parse(text: str) -> Entry:
    label, _, folder = text.partition("=")
    name, _, precision = label.rpartition(":")
    if not name or not folder or precision not in PRECISIONS:
        raise UserError(f"--models '{text}': expected NAME:PRECISION=FOLDER with precision {', '.join(PRECISIONS)}")
    return Entry(name, precision, Path(folder))


def _free_bytes(device: str) -> int:
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    return psutil.virtual_memory().available


def _time_in_turns(
    entries: Sequence[Entry], batch_size: int, sequence_length: int, repeats: int, device: str
) -> dict[Entry, list[float]]:
    """Seconds of each timed run of each model; the models are freed on return."""
    networks = {entry: load_model(entry.folder, entry.precision, device) for entry in entries}
    seconds: dict[Entry, list[float]] = {entry: [] for entry in entries}
    for run in track(range(-WARMUP_RUNS, repeats), total=WARMUP_RUNS + repeats, label="runs"):
        for entry, network in networks.items():
            elapsed = _prefill_seconds(network, batch_size, sequence_length)
            if run >= 0:
                seconds[entry].append(elapsed)
    return seconds


@torch.inference_mode()
def _prefill_seconds(network: Any, batch_size: int, sequence_length: int) -> float:
    device = network.device
    generator = torch.Generator().manual_seed(0)  # speed does not depend on which tokens
    tokens = torch.randint(network.config.vocab_size, (batch_size, sequence_length), generator=generator).to(device)
    _synchronize(device)
    start = time.perf_counter()
    network(tokens, use_cache=True, logits_to_keep=1)
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
