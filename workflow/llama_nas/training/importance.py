"""What matters in the base model, measured before fine-tuning: the order of its MLP channels, and of its layers.

Both look at the same calibration rows, drawn from the instructions (MultiPruner and Minitron use a few hundred rows
of their training data as well).

Shape suffixes: T tokens, W MLP width, D hidden size.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from llama_nas.artifacts import atomic_folder, derived_seed, write_json
from llama_nas.elastic import LAYERS, active, load_elastic
from llama_nas.errors import UserError
from llama_nas.hf_folder import CHANNEL_ORDER_FILE, weight_files
from llama_nas.progress import track
from llama_nas.space import Subnet
from llama_nas.training.data import TokenRows, load_rows
from llama_nas.training.loss import response_loss

log = logging.getLogger(__name__)

CALIBRATION_ROWS = 256
HIDDEN = shutil.ignore_patterns(".*")  # Snakemake's own files


def order_channels(output: Path, *, base: Path, rows: Path, seed: int, device: str, threads: int) -> None:
    """Write the base model with the MLP channels of each layer in descending importance: the same function.

    A channel's importance is the mean absolute activation that enters the down projection, times the L2 norm of the
    column by which it leaves (NVIDIA Puzzletron's channel contribution). Rows of gate and up and columns of down move
    together, in the dtype and the files of the base.
    """
    torch.set_num_threads(threads)
    model = _load(base, device)
    importances = channel_importances(model, calibration_rows(load_rows(rows, base), seed))
    order = [torch.argsort(importance_W, descending=True, stable=True).cpu() for importance_W in importances]
    for layer, importance_W in enumerate(importances):
        share = importance_W.sort(descending=True).values[: len(importance_W) // 2].sum() / importance_W.sum()
        log.info("layer %d: %.0f %% of the importance in half the channels", layer, 100 * share)
    with atomic_folder(output) as folder:
        shutil.copytree(base, folder, dirs_exist_ok=True, copy_function=shutil.copyfile, ignore=HIDDEN)
        for path in weight_files(folder):
            weights = {name: _in_order(name, weight, order) for name, weight in load_file(path).items()}
            path.unlink()
            save_file(weights, path, metadata={"format": "pt"})
        write_json(folder / CHANNEL_ORDER_FILE, [layer_order.tolist() for layer_order in order])


def order_layers(output: Path, *, base: Path, rows: Path, count: int, seed: int, device: str, threads: int) -> None:
    """Write the order in which `count` layers are best dropped: each time the one without which the loss is lowest.

    The list is a value for the config key space.depth_selection; deeper networks keep what shallower ones keep.
    """
    torch.set_num_threads(threads)
    model = _load(base, device)
    layers, width = len(model.model.layers), model.config.intermediate_size
    if not 0 <= count < layers:
        raise UserError(f"--count {count}: must be in 0..{layers - 1}, the model has {layers} layers")
    calibration = calibration_rows(load_rows(rows, base), seed)
    dropped: list[int] = []
    losses = [calibration_loss(model, Subnet((width,) * layers), calibration)]
    candidates = sum(layers - i for i in range(count))
    progress = track(range(candidates), candidates, "layer")
    for _ in range(count):
        found = {}
        for layer in sorted(set(range(layers)) - set(dropped)):
            gone = {layer, *dropped}
            subnet = Subnet(tuple(None if i in gone else width for i in range(layers)))
            found[layer] = calibration_loss(model, subnet, calibration)
            next(progress)
        dropped.append(min(found, key=lambda layer: found[layer]))
        losses.append(found[dropped[-1]])
        log.info("without layers %s: loss %.4f", dropped, losses[-1])
    write_json(output, {"depth_selection": dropped, "losses": losses})
    log.info("config.yaml: space.depth_selection: %s", dropped)


def _load(base: Path, device: str) -> Any:
    """bf16 halves the memory where GPUs compute in it; on CPUs fp32 is faster and exact."""
    return load_elastic(base, "bf16" if device == "cuda" else "fp32", device)


def calibration_rows(rows: TokenRows, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(inputs, labels), int64 [1, T] each, of up to CALIBRATION_ROWS rows: one at a time, so nothing is padding."""
    drawn = np.random.default_rng(derived_seed(seed, "calibration")).permutation(len(rows))[:CALIBRATION_ROWS]
    return [rows.batch(np.array([row])) for row in sorted(drawn)]


@torch.no_grad()
def channel_importances(model: Any, calibration: list[tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor]:
    """Importance of each MLP channel of each layer, fp64 [W]."""
    sums = [torch.zeros(model.config.intermediate_size, dtype=torch.float64) for _ in model.model.layers]

    def added_to(total_W: torch.Tensor) -> Any:
        def hook(_: Any, arguments: tuple[torch.Tensor, ...]) -> None:
            total_W.add_(arguments[0].abs().flatten(0, -2).sum(dim=0, dtype=torch.float64).cpu())

        return hook

    hooks = [
        layer.mlp.down_proj.register_forward_pre_hook(added_to(total_W))
        for layer, total_W in zip(model.model.layers, sums, strict=True)
    ]
    for inputs, _ in track(calibration, len(calibration), "calibration rows"):
        model(input_ids=inputs.to(model.device), use_cache=False)
    for hook in hooks:
        hook.remove()
    tokens = sum(inputs.numel() for inputs, _ in calibration)
    down_DW = [layer.mlp.down_proj.weight.double().cpu() for layer in model.model.layers]
    return [total_W / tokens * down.norm(dim=0) for total_W, down in zip(sums, down_DW, strict=True)]


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


def _in_order(name: str, weight: torch.Tensor, order: list[torch.Tensor]) -> torch.Tensor:
    """An MLP weight of the base with its channels in the new order; any other weight as it is."""
    if not name.startswith(LAYERS):
        return weight
    layer, rest = name.removeprefix(LAYERS).split(".", 1)
    if rest.startswith(("mlp.gate_proj.", "mlp.up_proj.")):
        return weight[order[int(layer)]].contiguous()
    return weight[:, order[int(layer)]].contiguous() if rest == "mlp.down_proj.weight" else weight
