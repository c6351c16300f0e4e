"""Seconds of one decoder layer as each block of the space, measured once on the device that will run the networks.

A layer alone would find its weights in a cache and the device idle, so layers are timed in whole networks: those of
one block, at each depth of the space, each made of the tensors an export has. The table is the solution, by least
squares of relative errors, of  seconds = overhead + the sum of the layers' seconds;  the overhead is the embedding, the
head and whatever else a pass does once. Other networks, of mixed blocks, are timed in turns with them and say whether
it holds.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Sequence
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llama_nas.core.artifacts import derived_seed
from llama_nas.core.costs import LayerCosts
from llama_nas.core.machine import device_name
from llama_nas.core.precisions import FloatPrecision
from llama_nas.core.progress import track
from llama_nas.core.settings import Compute
from llama_nas.core.shape import Block, Subnet
from llama_nas.core.space import SearchSpace
from llama_nas.measuring.settings import CostSettings
from llama_nas.measuring.throughput import WARMUP_RUNS, Phase, check_positions, run_seconds
from llama_nas.models.folder import check_base, load_model

log = logging.getLogger(__name__)

RIGHT = 0.1  # relative error of a prediction that is not warned about; our choice
LIBRARIES = ("torch", "transformers")


def measure_costs(
    *,
    model: Path,
    space: Path,
    dtype: FloatPrecision,
    timing: CostSettings,
    seed: int,
    compute: Compute,
    prefill: Path,
    decode: Path,
) -> None:
    """Measure what one layer as each block costs in seconds, for the search's objective latency.

    prefill: seconds of one pass over a batch of rows. decode: seconds of one step, a token for each row, the mean of
    the steps behind the cached context. Medians over the repeats. A prediction of a checked network (the smallest, the
    largest and random ones) that is off by more than RIGHT is warned about.

    Args:
        model: Hugging Face model folder: the base
        prefill: out: JSON, the table of layer costs of a prefill, with every network timed
        decode: out: JSON, the same of a decode step
    """
    check_base(model)
    declared = SearchSpace.read(space)
    declared.check_model(model)
    check_positions(model, timing.sequence_length, timing.new_tokens, "costs")
    torch.set_num_threads(compute.threads)
    fitted = uniform_networks(declared)
    rng = np.random.default_rng(derived_seed(seed, "measure-costs"))
    drawn = [declared.subnet(declared.random(rng)) for _ in range(timing.checks)]
    checked = [declared.smallest, fitted[-1], *drawn]
    phases = {
        prefill: Phase("prefill", timing.batch_size, timing.sequence_length, 1, 0),
        decode: Phase("decode", timing.batch_size, 1, timing.new_tokens, timing.sequence_length),
    }
    parts = Parts(load_model(model, dtype, compute.device), declared.blocks)
    networks = list(dict.fromkeys([*fitted, *checked]))
    seconds = time_in_turns(parts, networks, list(phases.values()), timing.repeats)
    about = {
        "device": compute.device,
        "device_name": device_name(compute.device),
        "threads": compute.threads,
        "dtype": dtype,
        **dataclasses.asdict(timing),
        "versions": {library: version(library) for library in LIBRARIES},
    }
    for path, phase in phases.items():
        times = {network: seconds[network, phase] for network in networks}
        table = layer_table(declared, {network: float(np.median(times[network])) for network in fitted})
        rows = [_row(declared, table, network, "fit", times[network]) for network in fitted]
        rows += [_row(declared, table, network, "check", times[network]) for network in checked]
        largest = _report(phase.name, rows)
        table.write(path, declared, {"phase": phase.name, **about, "largest_error": largest, "networks": rows})


def _row(space: SearchSpace, table: LayerCosts, network: Subnet, use: str, seconds: Sequence[float]) -> dict[str, Any]:
    """One timed network. use: whether the table was fitted to it, or is checked by it."""
    low, median, high = map(float, np.percentile(seconds, [25, 50, 75]))
    predicted = predict(space, table, network)
    return {
        "subnet_id": space.id(network),
        "use": use,
        "predicted_seconds": predicted,
        "measured_seconds": median,
        "measured_q1": low,
        "measured_q3": high,
        "relative_error": predicted / median - 1,
    }


def uniform_networks(space: SearchSpace) -> list[Subnet]:
    """Every network of one block, smallest first, largest last; of a space of one depth, also at half of it.

    One depth alone would not tell the layers from what surrounds them.
    """
    kept = list(space.kept)
    if len(kept) == 1:
        kept.insert(0, kept[0][: max(1, len(kept[0]) // 2)])
    return [
        Subnet(tuple(space.blocks[i] if layer in layers else None for layer in range(space.num_layers)))
        for layers, i in product(kept, space.blocks_by_size)
    ]


class Parts:
    """A model taken apart into layers and, of each layer, an MLP for every block, to be put together as any network."""

    def __init__(self, model: Any, blocks: Sequence[Block]) -> None:
        self.model = model
        self.layers = list(model.model.layers)
        self.layer_types = getattr(model.config, "layer_types", None)
        self.mlps = [{block: _cut(layer.mlp, block.mlp_width) for block in blocks} for layer in self.layers]

    def network(self, subnet: Subnet) -> Any:
        """The model as this network, until the next call."""
        for position, (layer, block) in enumerate(zip(subnet.kept, subnet.kept_blocks, strict=True)):
            self.layers[layer].mlp = self.mlps[layer][block]
            self.layers[layer].self_attn.layer_idx = position  # of its keys and values in the cache
        self.model.model.layers = torch.nn.ModuleList(self.layers[layer] for layer in subnet.kept)
        self.model.config.num_hidden_layers = subnet.layers
        if self.layer_types is not None:
            self.model.config.layer_types = [self.layer_types[layer] for layer in subnet.kept]
        return self.model


def _cut(mlp: Any, width: int) -> Any:
    """The MLP with its first `width` channels, as tensors of its own like those of an export."""
    if width == mlp.gate_proj.out_features:
        return mlp
    cut = copy.deepcopy(mlp)
    for linear in (cut.gate_proj, cut.up_proj):
        linear.weight = torch.nn.Parameter(linear.weight[:width].clone(), requires_grad=False)
        linear.out_features = width
        if linear.bias is not None:
            linear.bias = torch.nn.Parameter(linear.bias[:width].clone(), requires_grad=False)
    cut.down_proj.weight = torch.nn.Parameter(cut.down_proj.weight[:, :width].contiguous(), requires_grad=False)
    cut.down_proj.in_features = width
    return cut


def time_in_turns(
    parts: Parts, networks: Sequence[Subnet], phases: Sequence[Phase], repeats: int
) -> dict[tuple[Subnet, Phase], list[float]]:
    """Seconds per step of each network and phase, one per repeat; a drift of the machine meets all networks alike."""
    seconds: dict[tuple[Subnet, Phase], list[float]] = {pair: [] for pair in product(networks, phases)}
    for network, phase in seconds:
        run_seconds(parts.network(network), phase, WARMUP_RUNS)
    for _ in track(range(repeats), total=repeats, label="turns"):
        for (network, phase), found in seconds.items():
            found.append(run_seconds(parts.network(network), phase, 1)[0] / phase.steps)
    return seconds


def layer_table(space: SearchSpace, medians: dict[Subnet, float]) -> LayerCosts:
    """The table that fits the networks' seconds best."""
    measured = np.array(list(medians.values()))
    counts = [[network.kept_blocks.count(block) for block in space.blocks] for network in medians]
    terms = np.column_stack([np.ones(len(measured)), counts])
    solution, *_ = np.linalg.lstsq(terms / measured[:, None], np.ones(len(measured)), rcond=None)
    overhead, *layers = map(float, solution)
    return LayerCosts("latency", overhead, tuple(layers))


def predict(space: SearchSpace, table: LayerCosts, network: Subnet) -> float:
    """Seconds of a network by the table."""
    return table.without + sum(table.of_block[space.blocks.index(block)] for block in network.kept_blocks)


def _report(phase: str, rows: Sequence[dict[str, Any]]) -> float:
    """The largest relative error of a phase's checks, logged with the networks whose prediction is wrong."""
    checks = [row for row in rows if row["use"] == "check"]
    largest = max(abs(row["relative_error"]) for row in checks)
    log.info("%s: %d networks predicted within %.1f %% of their whole", phase, len(checks), 100 * largest)
    for row in checks:
        if abs(row["relative_error"]) > RIGHT:
            log.warning(
                "%s of %s: predicted %.3g s, measured %.3g s (quartiles %.3g to %.3g): this table is off by %.0f %%",
                phase, row["subnet_id"], row["predicted_seconds"], row["measured_seconds"], row["measured_q1"],
                row["measured_q3"], 100 * row["relative_error"],
            )  # fmt: skip
    return largest
