"""The losses of fine-tuning: sums over the response tokens of a micro-batch.

Shape suffixes: B rows, T tokens of a row, R response tokens of all rows, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from llama_nas.core.shape import Subnet
from llama_nas.models.elastic import set_active
from llama_nas.training.data import IGNORED


def response_loss(logits_BTV: torch.Tensor, labels_BT: torch.Tensor) -> torch.Tensor:
    """Cross-entropy summed over the response tokens."""
    return functional.cross_entropy(
        logits_BTV.float().flatten(0, 1), labels_BT.flatten(), ignore_index=IGNORED, reduction="sum"
    )


def distillation_loss(
    engine: Any, subnet: Subnet, inputs_BT: torch.Tensor, labels_BT: torch.Tensor, weight: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(cross-entropy, objective) of a sub-network, both summed over the response tokens; `subnet` is active after it.

    The objective is (1 - weight) x cross-entropy + weight x KL(full network || sub-network), the full network with
    the same weights and without gradient: InstaTune's in-place distillation (arXiv 2308.15609) in alternating steps,
    at the cost of one more forward pass.
    """
    set_active(engine.module, None)
    with torch.no_grad():
        teacher_BTV = engine(input_ids=inputs_BT, use_cache=False).logits
    set_active(engine.module, subnet)
    student_BTV = engine(input_ids=inputs_BT, use_cache=False).logits
    on_response_BT = labels_BT != IGNORED
    teacher_RV = teacher_BTV[on_response_BT].float().log_softmax(-1)
    student_RV = student_BTV[on_response_BT].float().log_softmax(-1)
    divergence = functional.kl_div(student_RV, teacher_RV, log_target=True, reduction="sum")
    loss = response_loss(student_BTV, labels_BT)
    return loss, (1 - weight) * loss + weight * divergence
