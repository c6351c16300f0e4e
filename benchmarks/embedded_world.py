"""Is the embedded world worth searching? Measures what docs/embedded-world.md claims, over several seeds.

    python benchmarks/embedded_world.py --folder runs/embedded-world --seeds 1 2 3

For each seed the workflow makes base model, super-network and compiled tasks of config.yaml in FOLDER/seed-S (what is
there already is kept), the base is fine-tuned once more without sub-network steps, and 200 random networks and a few
fixed ones are scored on every task. Prints the table of the docs page; raw scores go to FOLDER/seed-S/scores.csv.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from scipy.stats import kendalltau

from llama_nas.config import check_config
from llama_nas.space import ModelShape, SearchSpace

REPOSITORY = Path(__file__).resolve().parents[1]
RANDOM_NETWORKS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the runs go, or are")
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    args = parser.parse_args()
    config = check_config(yaml.safe_load((REPOSITORY / "config.yaml").read_text()))
    tables = []
    for seed in args.seeds:
        folder = args.folder / f"seed-{seed}"
        make_models(folder, seed, config, args.cores)
        scores = score_networks(folder, seed, config, args.cores)
        scores.to_csv(folder / "scores.csv", index=False)
        tables.append(judge(scores, config).assign(seed=seed))
    print(pd.concat(tables).pivot(index="criterion", columns="seed", values="value").to_markdown())


def make_models(folder: Path, seed: int, config: dict, cores: int) -> None:
    """Base, super-network and compiled tasks by the workflow; the plainly fine-tuned model by its stage."""
    tasks = [f"results/tasks/{task}" for task in config["tasks"]]
    workflow = ["snakemake", "--snakefile", REPOSITORY / "Snakefile", "--directory", folder, "--cores", str(cores)]
    subprocess.run([*workflow, "--config", f"seed={seed}", "--", "results/supernet", *tasks], check=True)
    if not (folder / "plain").exists():
        keys = ("ranks", "zero_stage", "dtype", "epochs", "global_batch", "micro_batch", "learning_rate", "warmup",
                "weight_decay", "max_grad_norm", "max_length", "checkpoint_every", "threads")  # fmt: skip
        options = [f"--{key.replace('_', '-')}={config['training'][key]}" for key in keys]
        command = ["llama-nas", "finetune", "--seed", str(seed), *space_options(config), *options]
        command += ["--subnet-steps", "never", "--base", folder / "results/base", "--output", folder / "plain"]
        command += ["--instructions", folder / "results/world/instructions.json", "--checkpoints", folder / "ckpt"]
        subprocess.run(command, check=True)


def space_options(config: dict) -> list[str]:
    space = config["space"]
    return ["--widths", *map(str, space["widths"]), "--depths", *map(str, space["depths"])]


def score_networks(folder: Path, seed: int, config: dict, cores: int) -> pd.DataFrame:
    """Rows: model (base, supernet, plain), role (full, smallest, probe, random), subnet_id, task, value, stderr, chance."""
    space = SearchSpace.for_model(ModelShape.from_folder(folder / "results/base"), **_space(config))
    rng = np.random.default_rng(seed)
    drawn = dict.fromkeys(space.canonical(space.random(rng)) for _ in range(3 * RANDOM_NETWORKS))
    random = [space.id(space.subnet(genotype)) for genotype in itertools.islice(drawn, RANDOM_NETWORKS)]
    shallow, deep = len(space.kept[0]), space.num_layers
    dropped = "x" * (deep - shallow)
    smallest = "1" * shallow + dropped
    probes = [smallest, "0" * shallow + dropped, "1" * deep, "01" * (deep // 2), ("10" * deep)[:shallow] + dropped]
    networks = {
        "base": [("full", "0" * deep)],
        "supernet": [("full", "0" * deep), *(("probe", p) for p in probes), *(("random", r) for r in random)],
        "plain": [("full", "0" * deep), *(("probe", p) for p in probes)],
    }
    jobs = [
        evaluate(folder, model, task, [id for _, id in listed], config)
        for model, listed in networks.items()
        for task in config["tasks"]
    ]
    for at_once in itertools.batched(jobs, cores) if hasattr(itertools, "batched") else _batched(jobs, cores):
        running = [(subprocess.Popen(command), output) for command, output in at_once]
        for process, output in running:
            if process.wait():
                raise SystemExit(f"evaluation failed: {output}")
    rows = []
    for model, listed in networks.items():
        for task, settings in config["tasks"].items():
            table = pd.read_csv(folder / f"scores/{model}-{task}.csv", dtype={"subnet_id": str})
            chance = json.loads((folder / f"results/tasks/{task}/task.json").read_text())["chance"]
            for (role, id), (_, row) in zip(listed, table.iterrows(), strict=True):
                value, stderr = row[settings["metric"]], row[f"{settings['metric']}_stderr"]
                rows.append([model, role, id, task, value, stderr, chance, row["items"]])
    return pd.DataFrame(rows, columns=["model", "role", "subnet_id", "task", "value", "stderr", "chance", "items"])


def _space(config: dict) -> dict:
    return {key: config["space"][key] for key in ("depths", "widths", "depth_selection")}


def _batched(items: list, size: int) -> list[list]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def evaluate(folder: Path, model: str, task: str, ids: list[str], config: dict) -> tuple[list, Path]:
    """The command that scores the networks `ids` of a model on a task, and the file it writes."""
    weights = folder / "plain" if model == "plain" else folder / "results" / model
    output, candidates = folder / f"scores/{model}-{task}.csv", folder / f"scores/{model}-candidates.csv"
    candidates.parent.mkdir(exist_ok=True)
    pd.DataFrame({"candidate": range(len(ids)), "subnet_id": ids}).to_csv(candidates, index=False)
    command = ["llama-nas", "evaluate", *space_options(config), "--supernet", weights, "--dtype", "fp32"]
    command += ["--task", folder / f"results/tasks/{task}", "--candidates", candidates, "--shard=1", "--shards=1"]
    return [*command, "--timings", folder / f"scores/{model}-{task}.json", "--output", output], output


def judge(scores: pd.DataFrame, config: dict) -> pd.DataFrame:
    """One row per criterion of the embedded world; values as text."""
    tasks = list(config["tasks"])
    full = {
        m: scores[(scores["model"] == m) & (scores["role"] == "full")].set_index("task") for m in ("base", "supernet")
    }
    base, best = full["base"], full["supernet"]
    supernet = scores[scores["model"] == "supernet"]
    probes, random = supernet[supernet["role"] == "probe"], supernet[supernet["role"] == "random"]
    smallest = probes[probes["subnet_id"] == probes["subnet_id"].iloc[0]].set_index("task")
    gap = (best["value"] - smallest["value"]) / np.hypot(best["stderr"], smallest["stderr"])
    by_task = random.groupby("task")
    spread = by_task["value"].var() / (by_task["stderr"].apply(lambda s: (s**2).mean()))
    ranks = random.pivot(index="subnet_id", columns="task", values="value")
    taus = {pair: kendalltau(ranks[pair[0]], ranks[pair[1]]).statistic for pair in itertools.combinations(tasks, 2)}
    lowest = min(taus, key=taus.get)
    plain = scores[(scores["model"] == "plain") & (scores["role"] == "probe")]
    joined = probes.merge(plain, on=["subnet_id", "task"], suffixes=("", "_plain"))
    joined["difference"] = joined["value"] - joined["value_plain"]
    joined["variance"] = joined["stderr"] ** 2 + joined["stderr_plain"] ** 2
    gain = joined.groupby("subnet_id", sort=False).agg(difference=("difference", "mean"), variance=("variance", "sum"))
    gain = gain["difference"] / (np.sqrt(gain["variance"]) / len(tasks))

    def listed(values: pd.Series, form: str) -> str:
        return ", ".join(f"{task} {format(values[task], form)}" for task in tasks)

    over = (base["value"] - base["chance"]) * 100
    lines = [
        ("items per task", listed(base["items"].astype(int), "d")),
        ("base accuracy, %", listed(base["value"] * 100, ".1f")),
        ("1 base above chance, points", f"{listed(over, '.1f')}: {(over >= 25).sum()} tasks >= 25 (wanted 4)"),
        ("2 base below 95 %", f"{(base['value'] < 0.95).sum()} tasks (wanted 3)"),
        ("super-network, full size, %", listed(best["value"] * 100, ".1f")),
        ("smallest sub-network, %", listed(smallest["value"] * 100, ".1f")),
        ("3 full above smallest, standard errors", f"{listed(gap, '.1f')}: {(gap >= 5).sum()} tasks >= 5 (wanted 3)"),
        (f"4 variance between {len(ranks)} random networks / sampling variance",
         f"{listed(spread, '.1f')}: {(spread > 2).sum()} tasks > 2 (wanted 3)"),
        ("5 lowest Kendall tau between two tasks' rankings", f"{taus[lowest]:.2f} ({lowest[0]}, {lowest[1]}) (wanted < 0.7)"),
        ("6 probes over plain fine-tuning, standard errors of the mean over tasks",
         f"{', '.join(f'{id} {value:.1f}' for id, value in gain.items())} (wanted >= 3)"),
    ]  # fmt: skip
    return pd.DataFrame(lines, columns=["criterion", "value"])


if __name__ == "__main__":
    main()
