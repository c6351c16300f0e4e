"""The order in which the base model misses its layers least, measured before fine-tuning."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from llama_nas.core.artifacts import write_json
from llama_nas.core.errors import UserError
from llama_nas.core.progress import track
from llama_nas.core.settings import Compute
from llama_nas.core.shape import Subnet
from llama_nas.models.elastic import full_network
from llama_nas.training.calibration import calibration_loss, calibration_rows, load_base
from llama_nas.training.data import load_rows

log = logging.getLogger(__name__)


def order_layers(output: Path, *, base: Path, rows: Path, smallest_depth: int, seed: int, compute: Compute) -> None:
    """Find the order in which layers are best dropped: each time the one without which the loss is lowest.

    Deeper networks keep what shallower ones keep.

    Args:
        base: Hugging Face model folder
        smallest_depth: layers of the shallowest network of the space; the others are dropped
        output: JSON: the layers in this order, and the loss after each
    """
    torch.set_num_threads(compute.threads)
    model = load_base(base, compute.device)
    full = full_network(model).blocks
    layers = len(full)
    if not 1 <= smallest_depth <= layers:
        raise UserError(f"--smallest-depth {smallest_depth}: must be in 1..{layers}, the model has {layers} layers")
    count = layers - smallest_depth
    calibration = calibration_rows(load_rows(rows, base), seed)
    dropped: list[int] = []
    losses = [calibration_loss(model, Subnet(full), calibration)]
    candidates = sum(layers - i for i in range(count))
    progress = track(range(candidates), candidates, "layer")
    for _ in range(count):
        found = {}
        for layer in sorted(set(range(layers)) - set(dropped)):
            gone = {layer, *dropped}
            subnet = Subnet(tuple(None if i in gone else block for i, block in enumerate(full)))
            found[layer] = calibration_loss(model, subnet, calibration)
            next(progress)
        dropped.append(min(found, key=lambda layer: found[layer]))
        losses.append(found[dropped[-1]])
        log.info("without layers %s: loss %.4f", dropped, losses[-1])
    write_json(output, {"layer_order": dropped, "losses": losses})
