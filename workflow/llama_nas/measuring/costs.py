"""Seconds of one decoder layer at each MLP width, measured once on the device that will run the networks.

A layer alone would find its weights in a cache and the device idle, so layers are timed in whole networks: those of
one width, at each depth of the space, each made of the tensors an export has. The table is the solution, by least
squares of relative errors, of  seconds = overhead + the sum of the layers' seconds;  the overhead is the embedding, the
head and whatever else a pass does once. Other networks, of mixed widths, are timed in turns with them and say whether
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

from llama_nas.core.artifacts import derived_seed, read_json, write_json
from llama_nas.core.errors import UserError
from llama_nas.models.folder import check_base, load_model
from llama_nas.core.machine import device_name
from llama_nas.core.progress import track
from llama_nas.core.space import SearchSpace, Subnet
from llama_nas.measuring.throughput import WARMUP_RUNS, Phase, run_seconds

log = logging.getLogger(__name__)

RIGHT = 0.1  # relative error of a prediction that is not warned about; our choice
LIBRARIES = ("torch", "transformers")


def measure_costs(
    output: Path,
    *,
    model: Path,
    depths: Sequence[int],
    widths: Sequence[int],
    depth_selection: str,
    dtype: str,
    batch_size: int,
    sequence_length: int,
    new_tokens: int,
    repeats: int,
    checks: int,
    seed: int,
    device: str,
    threads: int,
) -> None:
    """Write the table as JSON: per phase the overhead and each width's layer, and every network timed.

    prefill: seconds of one pass over `batch_size` x `sequence_length` tokens. decode: seconds of one step, a token for
    each of `batch_size` rows, the mean of `new_tokens` steps behind `sequence_length` cached tokens. Medians over
    `repeats`. checks: random networks of the space, timed beside its smallest and largest; a prediction that is off by
    more than RIGHT is warned about.
    """
    shape = check_base(model)
    space = SearchSpace.for_model(shape, depths, widths, depth_selection)
    limit = read_json(model / "config.json")["max_position_embeddings"]
    if sequence_length + new_tokens > limit:
        raise UserError(
            f"config.yaml: costs.sequence_length {sequence_length} and costs.new_tokens {new_tokens} are beyond the "
            f"{limit} positions of {model}"
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no CUDA device is available")
    torch.set_num_threads(threads)
    fitted = uniform_networks(space)
    rng = np.random.default_rng(derived_seed(seed, "measure-costs"))
    drawn = [space.subnet(space.random(rng)) for _ in range(checks)]
    smallest = space.subnet((0, *[int(np.argmin(space.widths))] * space.num_layers))
    checked = [smallest, fitted[-1], *drawn]
    phases = [
        Phase("prefill", batch_size, sequence_length, 1, 0),
        Phase("decode", batch_size, 1, new_tokens, sequence_length),
    ]
    parts = Parts(load_model(model, dtype, device), space.widths)
    networks = list(dict.fromkeys([*fitted, *checked]))
    seconds = time_in_turns(parts, networks, phases, repeats)

    tables, rows = {}, []
    for phase in phases:
        medians = {network: float(np.median(seconds[network, phase])) for network in networks}
        tables[phase.name] = layer_table(space, {network: medians[network] for network in fitted})
        for network, use in [*((n, "fit") for n in fitted), *((n, "check") for n in checked)]:
            predicted = predict(tables[phase.name], network)
            low, high = np.percentile(seconds[network, phase], [25, 75])
            rows.append(
                {
                    "phase": phase.name,
                    "subnet_id": space.id(network),
                    "use": use,
                    "predicted_seconds": predicted,
                    "measured_seconds": medians[network],
                    "measured_q1": float(low),
                    "measured_q3": float(high),
                    "relative_error": predicted / medians[network] - 1,
                }
            )
        tables[phase.name]["largest_error"] = _report(phase.name, rows)
    write_json(
        output,
        {
            "device": device,
            "device_name": device_name(device),
            "threads": threads,
            "dtype": dtype,
            "batch_size": batch_size,
            "sequence_length": sequence_length,
            "new_tokens": new_tokens,
            "repeats": repeats,
            "versions": {library: version(library) for library in LIBRARIES},
            "shape": dataclasses.asdict(shape),
            "phases": tables,
            "networks": rows,
        },
    )


def uniform_networks(space: SearchSpace) -> list[Subnet]:
    """Every network of one width, smallest first, largest last; of a space of one depth, also at half of it.

    One depth alone would not tell the layers from what surrounds them.
    """
    kept = list(space.kept)
    if len(kept) == 1:
        kept.insert(0, kept[0][: max(1, len(kept[0]) // 2)])
    return [
        Subnet(tuple(width if layer in layers else None for layer in range(space.num_layers)))
        for layers, width in product(kept, sorted(space.widths))
    ]


class Parts:
    """A model taken apart into layers and, of each layer, an MLP of every width, to be put together as any network."""

    def __init__(self, model: Any, widths: Sequence[int]) -> None:
        self.model = model
        self.layers = list(model.model.layers)
        self.layer_types = getattr(model.config, "layer_types", None)
        self.mlps = [{width: _cut(layer.mlp, width) for width in widths} for layer in self.layers]

    def network(self, subnet: Subnet) -> Any:
        """The model as this network, until the next call."""
        for position, (layer, width) in enumerate(zip(subnet.kept, subnet.kept_widths, strict=True)):
            self.layers[layer].mlp = self.mlps[layer][width]
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


def layer_table(space: SearchSpace, medians: dict[Subnet, float]) -> dict[str, Any]:
    """overhead_seconds, and layer_seconds by width, that fit the networks' seconds best."""
    measured = np.array(list(medians.values()))
    counts = [[network.kept_widths.count(width) for width in space.widths] for network in medians]
    terms = np.column_stack([np.ones(len(measured)), counts])
    solution, *_ = np.linalg.lstsq(terms / measured[:, None], np.ones(len(measured)), rcond=None)
    overhead, *layers = map(float, solution)
    by_width = {str(width): seconds for width, seconds in zip(space.widths, layers, strict=True)}
    return {"overhead_seconds": overhead, "layer_seconds": by_width}


def predict(table: dict[str, Any], network: Subnet) -> float:
    """Seconds of a network by the table."""
    return table["overhead_seconds"] + sum(table["layer_seconds"][str(width)] for width in network.kept_widths)


def _report(phase: str, rows: Sequence[dict[str, Any]]) -> float:
    """The largest relative error of a phase's checks, logged with the networks whose prediction is wrong."""
    checks = [row for row in rows if row["phase"] == phase and row["use"] == "check"]
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
