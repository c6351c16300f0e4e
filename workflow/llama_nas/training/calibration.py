"""Calibration: what the full base model and its sub-networks do on rows drawn from the instructions.

MultiPruner and Minitron calibrate on a few hundred rows of their training data as well.

Shape suffixes: B rows, T tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from llama_nas.core.artifacts import derived_seed
from llama_nas.core.shape import Subnet
from llama_nas.models.elastic import active, load_elastic
from llama_nas.training.data import TokenRows
from llama_nas.training.loss import response_loss

CALIBRATION_ROWS = 256
BATCH_ROWS = 8  # at most, computed together


def load_base(base: Path, device: str) -> Any:
    """bf16 halves the memory where GPUs compute in it; on CPUs fp32 is faster and exact."""
    return load_elastic(base, "bf16" if device == "cuda" else "fp32", device)


def calibration_rows(rows: TokenRows, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(inputs, labels), int64 [B, T] each, of up to CALIBRATION_ROWS rows: those of one length together, unpadded."""
    drawn = np.random.default_rng(derived_seed(seed, "calibration")).permutation(len(rows))[:CALIBRATION_ROWS]
    batches = []
    for length in np.unique(rows.lengths[drawn]):
        own = np.sort(drawn[rows.lengths[drawn] == length])
        batches += [rows.batch(own[first : first + BATCH_ROWS]) for first in range(0, len(own), BATCH_ROWS)]
    return batches


@torch.no_grad()
def calibration_loss(model: Any, subnet: Subnet, calibration: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Mean loss per response token of a sub-network."""
    total, tokens = 0.0, 0
    with active(model, subnet):
        for inputs, labels in calibration:
            logits = model(input_ids=inputs.to(model.device), use_cache=False).logits
            total += response_loss(logits, labels.to(model.device)).item()
            tokens += int((labels >= 0).sum())
    return total / tokens
