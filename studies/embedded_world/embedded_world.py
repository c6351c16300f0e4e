"""Is the embedded world worth searching? Measured by the default run's stages.

    python studies/embedded_world/embedded_world.py --seeds 1 2 3 --work <scratch folder>

World and base model are the shipped ones. Each seed makes a super-network and a plainly fine-tuned network from the
base. The script scores networks of all three on all tasks, with the settings of workflow/presets/world.yaml. It does
not make again what a seed has already made in the scratch folder. It writes embedded_world.json beside itself and
prints the tables of README.md.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import math
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from scipy.stats import kendalltau

from llama_nas.config import SHIPPED_BASE, check_config
from llama_nas.core.artifacts import derived_seed, read_json, write_json
from llama_nas.core.shape import Subnet
from llama_nas.core.space import SearchSpace
from llama_nas.models.elastic import load_elastic
from llama_nas.scoring.forward import score_task
from llama_nas.scoring.metrics import answered_right
from llama_nas.tasks.format import CompiledTask

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = REPOSITORY / "workflow/presets/world.yaml"
RANDOM_NETWORKS = 200
CHANCE = {"arc_easy": 0.25, "arc_challenge": 0.25, "mmlu": 0.25, "truthfulqa_mc1": 0.25, "winogrande": 0.5}
log = logging.getLogger("embedded_world")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--work", type=Path, required=True, help="scratch folder, about 100 MB a seed")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = check_config(yaml.safe_load(CONFIG.read_text()))
    seeds = {str(seed): judge(measure(args.work / f"seed-{seed}", seed, config), config) for seed in args.seeds}
    write_json(args.output, {"embedded": config["embedded"], "training": config["training"], "seeds": seeds})
    print(markdown(seeds))


def measure(work: Path, seed: int, config: dict[str, Any]) -> dict[str, Any]:
    """Run the stages; returns the scores and answers of every network of every model, by task, and seconds."""
    prepare(work, config)
    space_file = declare(work / "space.json", work / "base", config["space"]["depths"], config["space"]["widths"])
    space = SearchSpace.read(space_file)
    networks = candidates(space, seed)
    training = {key: value for key, value in config["training"].items() if key != "max_length"}
    for name, subnet_steps in [("supernet", "alternate"), ("plain", "never")]:
        inputs = {"seed": seed, "base": work / "base", "rows": work / "rows", "space": space_file}
        own = {"subnet_steps": subnet_steps, "checkpoints": work / "checkpoints"}
        stage(work / name, "finetune", inputs | training | own)

    scores: dict[str, dict[str, list[dict[str, Any]]]] = {}
    answers: dict[str, dict[str, np.ndarray]] = {}
    torch.set_num_threads(config["compute"]["threads"])
    for name in ("base", "supernet", "plain"):
        model = load_elastic(work / name)
        own = networks if name == "supernet" else networks[networks["role"] != "random"]
        scores[name], answers[name] = {}, {}
        for task, settings in config["tasks"].items():
            compiled = compiled_task(work, task, settings)
            rows, correct = answer(model, compiled, space, own)
            scores[name][task], answers[name][task] = rows, correct
    seconds = {name: read_json(work / f"{name}.seconds.json") for name in ("supernet", "plain")}
    return {"scores": scores, "answers": answers, "seconds": seconds}


def prepare(work: Path, config: dict[str, Any]) -> None:
    """The shipped base, its world, and the token rows of the instructions."""
    world, base = work / "world", work / "base"
    size = {key: config["embedded"][key] for key in ("inhabitants", "items")}
    stage(world, "make-world", {"seed": config["seed"], **size})
    stage(base, "take-base", {"source": SHIPPED_BASE})
    instructions = {"instructions": world / "instructions.json", "max_length": config["training"]["max_length"]}
    stage(work / "rows", "tokenize", {"base": base, **instructions})


def declare(output: Path, model: Path, depths: Sequence[int], widths: Sequence[int], **settings: Any) -> Path:
    """Write space.json of a model; returns its path."""
    stage(output, "declare-space", {"model": model, "depths": depths, "widths": widths, **settings})
    return output


def compiled_task(work: Path, task: str, settings: dict[str, Any]) -> CompiledTask:
    keys = ("metric", "num_fewshot", "subtasks", "group", "chunk_tokens")
    names = {"task": task, "lm_eval_task": settings.get("lm_eval_task", task), "data_root": work / "world/hub"}
    given = {key: settings[key] for key in keys if key in settings}
    stage(work / "tasks" / task, "compile-task", {"model": work / "base", **names, **given})
    return CompiledTask.load(work / "tasks" / task)


def answer(
    model: Any, task: CompiledTask, space: SearchSpace, networks: pd.DataFrame
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Each network's accuracy, and which items it answers right, bool [networks, items]."""
    results = score_task(model, task, [space.parse(subnet_id) for subnet_id in networks["subnet_id"]]).log_likelihoods
    correct = np.stack([answered_right(task, task.metric, values) for values in results])
    stderr = correct.std(axis=1, ddof=1) / math.sqrt(correct.shape[1])
    columns = {"subnet_id": networks["subnet_id"], "role": networks["role"]}
    table = pd.DataFrame(columns).assign(accuracy=correct.mean(axis=1), stderr=stderr, items=correct.shape[1])
    return table.to_dict("records"), correct


def stage(output: Path, command: str, values: dict[str, Any]) -> None:
    """Run `llama-nas command` unless its output is there; notes its wall time beside the output."""
    if output.exists():
        return
    arguments = ["llama-nas", command, "--output", str(output)]
    for key, value in values.items():
        if value is False:
            continue
        arguments.append(f"--{key.replace('_', '-')}")
        if value is not True:
            arguments += map(str, value) if isinstance(value, list | tuple) else [str(value)]
    log.info("%s", " ".join(arguments))
    output.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    subprocess.run(arguments, check=True)
    write_json(output.parent / f"{output.stem}.seconds.json", round(time.monotonic() - start, 1))


def candidates(space: SearchSpace, seed: int) -> pd.DataFrame:
    """The full and the smallest network, four probes between them, and distinct random ones."""
    wide, narrow, shallow = space.blocks[0], space.blocks[-1], space.depths[0]
    mixed = [narrow if i % 2 else wide for i in range(space.num_layers)]
    dropped = space.num_layers - shallow
    named = {
        "full": space.full,
        "smallest": Subnet((narrow,) * shallow + (None,) * dropped),
        "probe: narrow": Subnet((narrow,) * space.num_layers),
        "probe: shallow": Subnet((wide,) * shallow + (None,) * dropped),
        "probe: mixed": Subnet(tuple(mixed)),
        "probe: shallow, mixed": Subnet((*mixed[:shallow], *[None] * dropped)),
    }
    roles = {space.id(subnet): role for role, subnet in named.items()}
    rng = np.random.default_rng(derived_seed(seed, "embedded-world", "networks"))
    while len(roles) < len(named) + RANDOM_NETWORKS:
        roles.setdefault(space.id(space.subnet(space.random(rng))), "random")
    return pd.DataFrame({"candidate": range(len(roles)), "subnet_id": list(roles), "role": list(roles.values())})


def judge(measured: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """The figures each requirement is about, and how many tasks meet it."""
    tasks = list(config["tasks"])
    scores = measured["scores"]

    def one(model: str, task: str, role: str) -> dict[str, Any]:
        return next(row for row in scores[model][task] if row["role"] == role)

    per_task: dict[str, dict[str, float]] = {}
    for task in tasks:
        base, full, smallest = (
            one("base", task, "full"),
            one("supernet", task, "full"),
            one("supernet", task, "smallest"),
        )
        drawn = [row for row in scores["supernet"][task] if row["role"] == "random"]
        sampling = np.mean([row["stderr"] ** 2 for row in drawn])
        per_task[task] = {
            "items": base["items"],
            "base": base["accuracy"],
            "base_above_chance": base["accuracy"] - CHANCE[task],
            "full": full["accuracy"],
            "smallest": smallest["accuracy"],
            "smallest_of_base": one("base", task, "smallest")["accuracy"],
            "full_minus_smallest_in_stderr": difference(full, smallest),
            "random_mean": float(np.mean([row["accuracy"] for row in drawn])),
            "random_std": float(np.std([row["accuracy"] for row in drawn], ddof=1)),
            "variance_ratio": float(np.var([row["accuracy"] for row in drawn], ddof=1) / sampling),
        }
    taus = {}
    for first, second in itertools.combinations(tasks, 2):
        columns = [
            [row["accuracy"] for row in scores["supernet"][t] if row["role"] == "random"] for t in (first, second)
        ]
        taus[f"{first} / {second}"] = float(kendalltau(*columns).statistic)
    answers = measured["answers"]
    gains: dict[str, list[np.ndarray]] = {}  # per item: both networks answer the same ones
    for i, row in enumerate(scores["plain"][tasks[0]]):
        if row["role"] != "full":
            pairs = [(answers["supernet"][task][i], answers["plain"][task][i]) for task in tasks]
            gains[row["role"]] = [ours.astype(float) - plain for ours, plain in pairs]
    probes = {role: mean_gain(own) for role, own in gains.items()}
    all_probes = mean_gain([np.mean(of_task, axis=0) for of_task in zip(*gains.values(), strict=True)])
    values = per_task.values()
    met = {
        "tasks with at least 500 items": sum(v["items"] >= 500 for v in values),
        "tasks with base at least 25 points above chance (>= 4)": sum(v["base_above_chance"] >= 0.25 for v in values),
        "tasks with base below 95 % (>= 3)": sum(v["base"] < 0.95 for v in values),
        "tasks with full at least 5 standard errors above smallest (>= 3)": sum(
            v["full_minus_smallest_in_stderr"] >= 5 for v in values
        ),
        "tasks with variance ratio above 2 (>= 3)": sum(v["variance_ratio"] > 2 for v in values),
        "lowest Kendall tau of two tasks (< 0.7)": min(taus.values()),
        "gain of the probes over plain fine-tuning, in standard errors (>= 3)": all_probes["in_stderr"],
        f"probes that gain at least 3 standard errors, of {len(probes)}": sum(
            p["in_stderr"] >= 3 for p in probes.values()
        ),
    }
    return {"met": met, "tasks": per_task, "kendall_tau": taus, "probes": probes, "seconds": measured["seconds"]}


def mean_gain(gains: list[np.ndarray]) -> dict[str, float]:
    """Mean over tasks of the mean per-item gain, and that in its standard errors; gains: one array [items] a task."""
    mean = float(np.mean([gain.mean() for gain in gains]))
    error = math.sqrt(sum(gain.var(ddof=1) / len(gain) for gain in gains)) / len(gains)
    return {"points": 100 * mean, "in_stderr": mean / error}


def difference(first: dict[str, Any], second: dict[str, Any]) -> float:
    """first - second in standard errors, as of two independent samples: cautious, for the items are the same."""
    return (first["accuracy"] - second["accuracy"]) / math.hypot(first["stderr"], second["stderr"])


def markdown(seeds: dict[str, Any]) -> str:
    """The tables of README.md."""
    lines = ["| requirement | " + " | ".join(f"seed {seed}" for seed in seeds) + " |"]
    lines += ["|---|" + "---|" * len(seeds)]
    for name in next(iter(seeds.values()))["met"]:
        figures = [seed["met"][name] for seed in seeds.values()]
        lines.append(
            f"| {name} | " + " | ".join(f"{x:.2f}" if isinstance(x, float) else str(x) for x in figures) + " |"
        )
    lines += ["", "| seed | task | base | super-network, full | smallest | (full - smallest) / stderr | "
              "200 random: mean ± std | variance ratio |", "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for seed, result in seeds.items():
        for task, v in result["tasks"].items():
            lines.append(
                f"| {seed} | {task} | {100 * v['base']:.1f} | {100 * v['full']:.1f} | {100 * v['smallest']:.1f} | "
                f"{v['full_minus_smallest_in_stderr']:.1f} | {100 * v['random_mean']:.1f} ± "
                f"{100 * v['random_std']:.1f} | {v['variance_ratio']:.1f} |"
            )
    lines += [
        "",
        "| seed | probe | mean gain over plain fine-tuning, points | in standard errors |",
        "|---|---|---|---|",
    ]
    for seed, result in seeds.items():
        for role, v in result["probes"].items():
            lines.append(f"| {seed} | {role} | {v['points']:.1f} | {v['in_stderr']:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
