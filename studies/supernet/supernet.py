"""Which way of training makes the better super-network? Each lever against the paper's recipe on the embedded world.

    python studies/supernet/supernet.py --seeds 1 2 3 --work <folder of studies/embedded_world/embedded_world.py>

World and base model are the shipped ones; a seed is one of the training. The script makes what the folder lacks by
`llama-nas` stages, with the settings of workflow/presets/world.yaml. It trains each variant with the steps and rows of
the paper's recipe, and judges it on all tasks by a fixed set of probe networks and by the hypervolume of the front of
a fixed set of random ones. It does not make again what a seed has already made. It writes supernet.json beside itself
and prints the table of README.md.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from llama_nas.config import check_config
from llama_nas.core.artifacts import derived_seed, read_json, write_json
from llama_nas.core.pareto import hypervolume
from llama_nas.core.space import Genotype, SearchSpace
from llama_nas.models.elastic import load_elastic

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "embedded_world"))
from embedded_world import CHANCE, CONFIG, answer, compiled_task, declare, prepare, stage  # noqa: E402

RANDOM_NETWORKS = 30
log = logging.getLogger("supernet")


@dataclass(frozen=True)
class Variant:
    """A way to train: settings of `llama-nas finetune` that differ from the paper's, and which base and layers."""

    settings: dict[str, Any] = field(default_factory=dict)
    base: str = "base"  # or `ordered`: its channels sorted by importance
    depth_selection: str = "first"  # or `importance`: as `llama-nas order-layers` finds


VARIANTS = {
    "plain": Variant({"subnet_steps": "never"}),
    "paper": Variant(),
    "stratified": Variant({"subnet_sampling": "stratified"}),
    "sandwich": Variant({"subnet_sampling": "sandwich"}),
    "distillation": Variant({"distillation": 0.5}),
    "freeze": Variant({"freeze_inactive": True}),
    "channels": Variant(base="ordered"),
    "even": Variant(depth_selection="even"),
    "importance": Variant(depth_selection="importance"),
    "combined": Variant({"distillation": 0.5}, base="ordered", depth_selection="importance"),
}
UNTRAINED = "base"  # the pre-trained model's own sub-networks
MADE_BY_EMBEDDED_WORLD = {"paper": "supernet", "plain": "plain"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--alone", nargs="*", default=["smallest", "narrow", "shallow"], help="probes trained alone")
    parser.add_argument("--tasks", nargs="+", help="of the preset; default: all")
    parser.add_argument("--work", type=Path, required=True, help="scratch folder, about 100 MB a seed")
    parser.add_argument("--output", type=Path, default=HERE / "supernet.json")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = check_config(yaml.safe_load(CONFIG.read_text()))
    config["tasks"] = {task: config["tasks"][task] for task in args.tasks or config["tasks"]}
    torch.set_num_threads(config["compute"]["threads"])
    seeds = {}
    for seed in args.seeds:
        work = args.work / f"seed-{seed}"
        prepare(work, config)
        seeds[str(seed)] = {name: measure(work, seed, name, config) for name in [UNTRAINED, *args.variants]}
        seeds[str(seed)] |= {f"alone: {role}": alone(work, seed, role, config) for role in args.alone}
    write_json(args.output, {"training": config["training"], "tasks": list(config["tasks"]), "seeds": seeds})
    print(markdown(seeds))


def measure(work: Path, seed: int, name: str, config: dict[str, Any]) -> dict[str, Any]:
    """Train a variant unless it is there, and score it."""
    variant = VARIANTS.get(name, Variant())
    space_file = variant_space(work, seed, variant, config)
    folder = work / ("base" if name == UNTRAINED else MADE_BY_EMBEDDED_WORLD.get(name, f"variant-{name}"))
    if name != UNTRAINED:
        if variant.base == "ordered":
            stage(work / "ordered", "order-channels", {"seed": seed, "base": work / "base", "rows": work / "rows"})
        train(folder, work / variant.base, work / "rows", seed, space_file, config, variant.settings)
    return scores(folder, work, seed, space_file, config)


def variant_space(work: Path, seed: int, variant: Variant, config: dict[str, Any]) -> Path:
    """space.json of the variant; measures the order of the layers first where the variant asks for that."""
    depths, selection = config["space"]["depths"], variant.depth_selection
    settings: dict[str, Any] = {"depth_selection": selection}
    if selection == "importance":
        settings["layer_order"] = work / "layer_order.json"
        order = {"seed": seed, "base": work / "base", "rows": work / "rows", "smallest_depth": depths[0]}
        stage(settings["layer_order"], "order-layers", order)
    return declare(work / f"space-{selection}.json", work / "base", depths, config["space"]["widths"], **settings)


def train(
    folder: Path,
    base: Path,
    rows: Path,
    seed: int,
    space_file: Path,
    config: dict[str, Any],
    settings: dict[str, Any],
) -> None:
    training = {key: value for key, value in config["training"].items() if key != "max_length"}
    training |= {"ranks": 1, "micro_batch": training["global_batch"]}  # the same trajectory, up to rounding
    folders = {"base": base, "rows": rows, "space": space_file, "checkpoints": folder.with_suffix(".checkpoints")}
    stage(folder, "finetune", {"seed": seed} | folders | training | settings)


def alone(work: Path, seed: int, role: str, config: dict[str, Any]) -> dict[str, Any]:
    """A probe cut out of the base and trained as a model of its own, with the same rows and steps."""
    space_file = variant_space(work, seed, Variant(), config)
    space = SearchSpace.read(space_file)
    subnet = space.subnet(probes(space)[role])
    folder, cut = work / f"alone-{role}", work / f"cut-{role}"
    stage(cut, "export", {"supernet": work / "base", "space": space_file, "subnet": space.id(subnet)})
    own = declare(work / f"space-{role}.json", cut, [subnet.layers], [subnet.widths[0]])
    train(folder, cut, work / "rows", seed, own, config, {"subnet_steps": "never"})
    tasks = score_networks(folder, work, own, {role: (0,) * (1 + subnet.layers)}, config)
    return {"probes": {role: float(np.mean([task[role] for task in tasks.values()]))}, "tasks": tasks}


def probes(space: SearchSpace) -> dict[str, Genotype]:
    """Fixed networks across the space, by genotype: which layers a depth keeps is the space's own affair."""
    deep, narrow, layers = len(space.depths) - 1, len(space.blocks) - 1, space.num_layers
    mixed = tuple(narrow if i % 2 else 0 for i in range(layers))
    return {
        "full": (deep, *[0] * layers),
        "mixed": (deep, *mixed),
        "shallow": (0, *[0] * layers),
        "shallow, mixed": (0, *mixed),
        "narrow": (deep, *[narrow] * layers),
        "smallest": (0, *[narrow] * layers),
    }


def scores(folder: Path, work: Path, seed: int, space_file: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Accuracy of the probes, mean over tasks, and the hypervolume of the front of probes and random networks."""
    space = SearchSpace.read(space_file)
    rng = np.random.default_rng(derived_seed(seed, "benchmarks", "supernet"))
    drawn = {f"random {i}": space.random(rng) for i in range(RANDOM_NETWORKS)}
    named = probes(space) | drawn
    tasks = score_networks(folder, work, space_file, named, config)
    mean = {role: float(np.mean([task[role] for task in tasks.values()])) for role in named}
    sizes = np.array([space.shape.parameters(space.subnet(genotype)) for genotype in named.values()])
    return {
        "probes": {role: mean[role] for role in probes(space)},
        "random_mean": float(np.mean([mean[role] for role in drawn])),
        "hypervolume": front_hypervolume(sizes, np.array(list(mean.values())), tasks),
        "tasks": {task: {role: own[role] for role in probes(space)} for task, own in tasks.items()},
    }


def front_hypervolume(sizes: np.ndarray, accuracies: np.ndarray, tasks: Iterable[str]) -> float:
    """Share of the rectangle (smallest to largest network) x (chance to 1) that the front dominates."""
    chance = float(np.mean([CHANCE[task] for task in tasks]))
    points = np.stack([(sizes - sizes.min()) / (sizes.max() - sizes.min()), (1 - accuracies) / (1 - chance)], axis=1)
    return hypervolume(points, np.array([1.0, 1.0]))


def score_networks(
    folder: Path, work: Path, space_file: Path, named: dict[str, Genotype], config: dict[str, Any]
) -> dict[str, dict[str, float]]:
    """Accuracy of each network on each task; kept beside the model, so that it is computed once."""
    import pandas as pd

    path = folder.with_name(f"{folder.name}-{space_file.stem}.scores.json")
    found = read_json(path) if path.exists() else {}
    missing = {task: settings for task, settings in config["tasks"].items() if task not in found}
    if not missing:
        return {task: found[task] for task in config["tasks"]}
    model, space = load_elastic(folder), SearchSpace.read(space_file)
    ids = [space.id(space.subnet(genotype)) for genotype in named.values()]
    unique = pd.DataFrame({"subnet_id": list(dict.fromkeys(ids)), "role": ""})
    for task, settings in missing.items():
        rows, _ = answer(model, compiled_task(work, task, settings), space, unique)
        accuracy = {row["subnet_id"]: row["accuracy"] for row in rows}
        found[task] = {role: accuracy[id] for role, id in zip(named, ids, strict=True)}
        write_json(path, found)
    return {task: found[task] for task in config["tasks"]}


def markdown(seeds: dict[str, Any]) -> str:
    """Means over the seeds with standard errors, and each variant's difference to the paper's recipe, seed by seed."""
    roles = ["full", "mixed", "shallow", "shallow, mixed", "narrow", "smallest"]
    lines = [
        "| variant | " + " | ".join(roles) + f" | {RANDOM_NETWORKS} random | hypervolume | hypervolume - paper's |"
    ]
    lines += ["|---|" + "---|" * (len(roles) + 3)]
    for name in next(iter(seeds.values())):
        own = [seed[name] for seed in seeds.values()]
        cells = [_with_error([100 * o["probes"][r] for o in own]) if r in own[0]["probes"] else "" for r in roles]
        if "hypervolume" in own[0]:
            cells.append(_with_error([100 * o["random_mean"] for o in own]))
            cells.append(_with_error([100 * o["hypervolume"] for o in own]))
            gains = [100 * (seed[name]["hypervolume"] - seed["paper"]["hypervolume"]) for seed in seeds.values()]
            cells.append("" if name == "paper" else _with_error(gains, sign="+"))
        else:
            cells += ["", "", ""]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _with_error(values: list[float], sign: str = "") -> str:
    """Mean and its standard error over the seeds; one seed has none."""
    mean = f"{np.mean(values):{sign}.1f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1) / math.sqrt(len(values)):.1f}"


if __name__ == "__main__":
    main()
