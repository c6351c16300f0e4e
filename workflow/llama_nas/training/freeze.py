"""`freeze_inactive`: an optimizer step leaves everything outside the active sub-network as it was, on every engine.

Without it, AdamW moves a dropped layer and the channels beyond a layer's width by their momentum and weight decay,
although their gradients are zero. With it their weights and both moments stay bit for bit. What stays common to all
is the number of steps that AdamW's bias correction counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from llama_nas.core.shape import Subnet
from llama_nas.models.elastic import active_part


@dataclass(frozen=True)
class Fragment:
    """A stretch of a weight, and where it lies in a tensor that the optimizer steps on this rank."""

    name: str
    shape: torch.Size
    start: int  # in the weight, flattened
    offset: int  # in the optimizer's tensor, flattened
    length: int


class InactiveFreezer:
    """Undoes the optimizer's update of what is inactive, between that update and its copy into the model's weights."""

    def __init__(self, engine: Any) -> None:
        self.subnet: Subnet | None = None  # of the current step; None: the full network, nothing is inactive
        self._engine = engine
        self._kept: list[tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]] = []
        engine.basic_optimizer.register_step_pre_hook(self._keep)
        engine.basic_optimizer.register_step_post_hook(self._put_back)

    def _keep(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self.subnet is None:
            return
        fragments = local_fragments(self._engine)
        for group in optimizer.param_groups:
            for tensor in group["params"]:
                inactive = self._inactive(fragments[id(tensor)], tensor)
                if inactive.any():
                    values = {key: flat[inactive] for key, flat in _flat_values(optimizer, tensor)}
                    self._kept.append((tensor, inactive, values))

    def _put_back(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for tensor, inactive, values in self._kept:
            for key, flat in _flat_values(optimizer, tensor):
                flat[inactive] = values.get(key, 0.0)  # moments that this step made were zero before it
        self._kept.clear()

    def _inactive(self, fragments: list[Fragment], tensor: torch.Tensor) -> torch.Tensor:
        """Which elements of an optimizer's tensor belong to no active weight, bool [elements]."""
        assert self.subnet is not None
        inactive = torch.zeros(tensor.numel(), dtype=torch.bool, device=tensor.device)
        for fragment in fragments:
            mask = torch.ones(fragment.shape, dtype=torch.bool, device=tensor.device)
            part = active_part(fragment.name, mask, self.subnet)
            if part is not None:
                part.zero_()
            stretch = mask.flatten()[fragment.start : fragment.start + fragment.length]
            inactive[fragment.offset : fragment.offset + fragment.length] = stretch
        return inactive


def _flat_values(optimizer: torch.optim.Optimizer, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights and the moments of an optimizer's tensor, flattened views."""
    yield "weight", tensor.detach().view(-1)
    for key, value in optimizer.state.get(tensor, {}).items():
        if torch.is_tensor(value) and value.shape == tensor.shape:
            yield key, value.view(-1)


def local_fragments(engine: Any) -> dict[int, list[Fragment]]:
    """Which stretches of which weights each tensor of this rank's optimizer holds, by the tensor's id.

    Where DeepSpeed 0.19.8 keeps this, by stage: 0, the weights themselves or their fp32 copies in the same order;
    1 and 2, `_hp_mapping` of each weight; 3, `grad_position`, an equal share of every weight for each rank.
    """
    names = {id(weight): name for name, weight in engine.module.named_parameters()}
    if engine.zero_optimization_partition_weights():
        return _partitioned_weights(engine, names)
    if engine.zero_optimization():
        return _partitioned_optimizer(engine, names)
    return {
        id(master): [Fragment(names[id(weight)], weight.shape, 0, 0, weight.numel())]
        for weight, master in _unpartitioned(engine)
    }


def _partitioned_weights(engine: Any, names: dict[int, str]) -> dict[int, list[Fragment]]:
    """ZeRO-3."""
    optimizer = engine.optimizer
    tensors = optimizer.fp32_partitioned_groups_flat
    fragments: dict[int, list[Fragment]] = {id(tensor): [] for tensor in tensors}
    for weight in (weight for group in optimizer.fp16_groups for weight in group):
        group, offset, share = optimizer.grad_position[optimizer.get_param_id(weight)]
        start = engine.global_rank * share
        length = min(share, max(weight.ds_numel - start, 0))  # the last rank's share is filled up
        fragments[id(tensors[group])].append(Fragment(names[id(weight)], weight.ds_shape, start, offset, length))
    return fragments


def _partitioned_optimizer(engine: Any, names: dict[int, str]) -> dict[int, list[Fragment]]:
    """ZeRO-1 and 2."""
    tensors = engine.optimizer.single_partition_of_fp32_groups
    fragments: dict[int, list[Fragment]] = {id(tensor): [] for tensor in tensors}
    for weight in engine.module.parameters():
        if (mapping := weight._hp_mapping) is not None:
            lies, stretch = mapping.hp_fragment_address, mapping.lp_fragment_address
            fragment = Fragment(names[id(weight)], weight.shape, stretch.start, lies.start, stretch.numel)
            fragments[id(tensors[mapping.param_group_index])].append(fragment)
    return fragments


def _unpartitioned(engine: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Stage 0: each weight with the tensor that the optimizer steps for it."""
    if engine.optimizer is engine.basic_optimizer:
        yield from ((weight, weight) for weight in engine.module.parameters())
        return
    for weights, masters in zip(engine.optimizer.fp16_groups, engine.optimizer.fp32_groups, strict=True):
        yield from zip(weights, masters, strict=True)
