"""Probes: the loss of a fixed set of networks on rows held out of training, now and then while it runs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from llama_nas.core.shape import Subnet
from llama_nas.core.space import SearchSpace
from llama_nas.models.elastic import set_active
from llama_nas.training.config import TrainingConfig
from llama_nas.training.data import TokenRows, micro_batches
from llama_nas.training.loss import response_loss

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)

HELD_OUT = 256  # rows at most, and at most a tenth of all


def held_out(config: TrainingConfig, rows: int) -> int:
    """How many rows, the last ones, are kept for probes: whole passes of all ranks; none without `probe_every`."""
    if not config.probe_every:
        return 0
    together = config.micro_batch * config.ranks
    return max(1, min(HELD_OUT, rows // 10) // together) * together


def probe_networks(space: SearchSpace) -> list[Subnet]:
    """The full network, then each depth with full and with smallest blocks, largest depth first."""
    blocks = (0, space.blocks_by_size[0])
    depths = reversed(range(len(space.depths)))
    networks = [space.subnet((depth, *[block] * space.num_layers)) for depth in depths for block in blocks]
    return list(dict.fromkeys([space.full, *networks]))


def probe(
    accelerator: Accelerator, engine: Any, config: TrainingConfig, rows: TokenRows, step: int
) -> list[dict[str, Any]]:
    """Mean loss per response token of every probe network after `step` steps; one row of probes.csv each."""
    count = held_out(config, len(rows))
    batch = np.arange(len(rows) - count, len(rows))
    found = []
    engine.eval()
    for subnet in probe_networks(config.search_space):
        set_active(engine.module, subnet)
        total = torch.zeros((), dtype=torch.float64, device=accelerator.device)
        for own in micro_batches(batch, rows.lengths, accelerator.process_index, config.ranks, config.micro_batch):
            inputs, labels = (tensor.to(accelerator.device) for tensor in rows.batch(own))
            with torch.no_grad():
                total += response_loss(engine(input_ids=inputs, use_cache=False).logits, labels)
        torch.distributed.all_reduce(total)
        loss = total.item() / rows.response_tokens(batch)
        found.append({"step": step, "subnet_id": config.search_space.id(subnet), "loss": loss})
    engine.train()
    log.info("probes after step %d: %s", step, ", ".join(f"{row['subnet_id']} {row['loss']:.4f}" for row in found))
    return found
