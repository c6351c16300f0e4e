"""The order of importance of the base model's MLP channels, measured before fine-tuning.

Shape suffixes: T tokens, W MLP width, D hidden size.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from llama_nas.core.artifacts import atomic_folder, write_json
from llama_nas.core.progress import track
from llama_nas.core.settings import Compute
from llama_nas.models.elastic import LAYERS
from llama_nas.models.folder import CHANNEL_ORDER_FILE, weight_files
from llama_nas.training.calibration import calibration_rows, load_base
from llama_nas.training.data import load_rows

log = logging.getLogger(__name__)

HIDDEN = shutil.ignore_patterns(".*")  # Snakemake's own files


def order_channels(output: Path, *, base: Path, rows: Path, seed: int, compute: Compute) -> None:
    """Sort the MLP channels of the base model by importance, so that the first N are the N most important.

    A channel's importance is the mean absolute activation that enters the down projection, times the L2 norm of the
    column by which it leaves (NVIDIA Puzzletron's channel contribution). Rows of gate and up and columns of down move
    together, in the dtype and the files of the base.

    Args:
        base: Hugging Face model folder
        output: Hugging Face model folder that computes the same function
    """
    torch.set_num_threads(compute.threads)
    model = load_base(base, compute.device)
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


def _in_order(name: str, weight: torch.Tensor, order: list[torch.Tensor]) -> torch.Tensor:
    """An MLP weight of the base with its channels in the new order; any other weight as it is."""
    if not name.startswith(LAYERS):
        return weight
    layer, rest = name.removeprefix(LAYERS).split(".", 1)
    if rest.startswith(("mlp.gate_proj.", "mlp.up_proj.")):
        return weight[order[int(layer)]].contiguous()
    return weight[:, order[int(layer)]].contiguous() if rest == "mlp.down_proj.weight" else weight
