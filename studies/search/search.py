"""How much front a search finds per evaluation, on tables of every network's real score.

    python studies/search/search.py --tables studies/search/data/*.csv.gz [--seeds 20] [--jobs 2]

The script runs each algorithm on each table with each seed, by the code of the workflow's stages. It evaluates no
network: it looks scores up. Hypervolume is of (parameters, metric), between the smallest and the largest network and
from the table's worst score on. It is a share of the true front's, taken after every fifth evaluation in the order of
candidates.csv. The script prints `default` against `strict`, table by table: medians, the difference paired by seed,
and the median number of evaluations until strict LINAS's own median at 250 is reached. Then it prints every algorithm's
medians and 5-95 % range, the share of the true front that it finds, repeats and seconds. It writes search.csv.gz and
search.svg beside itself.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from llama_nas.analysis.figures import NO_METADATA, STYLE
from llama_nas.core.artifacts import derived_seed, read_json, read_table
from llama_nas.core.pareto import hypervolume, non_dominated
from llama_nas.core.space import SearchSpace
from llama_nas.search import encoding
from llama_nas.search.algorithms import make
from llama_nas.search.algorithms.interface import Known, Predict, State, due
from llama_nas.search.algorithms.predictors import Predictor, choose
from llama_nas.search.goals import resolve
from llama_nas.search.settings import AlgorithmSettings, Evolution, GoalSettings
from llama_nas.search.tables import Task

HERE = Path(__file__).resolve().parent
EVALUATIONS = 250
EVERY = 5  # evaluations between two points of a curve
TABULATED = (50, 100, 125, 150, 200, 250)  # columns of the table
ALGORITHMS = {  # name, variant, inner generations, networks a round; strict with DyNAS-T's 20,000 predictions a round
    "linas, strict": ("linas", "strict", 400, 50),
    "linas, default": ("linas", "default", 100, 25),
    "nsga2": ("nsga2", "default", 0, 50),
    "random": ("random", "default", 0, 50),
    "additive": ("additive", "default", 0, 50),
}
PAPER = {"crossover_probability": 0.9, "crossover_eta": 15.0, "mutation_probability": 0.02, "mutation_eta": 20.0}
PANELS = 4  # of the figure, side by side
REFERENCE, OURS = "linas, strict", "linas, default"


@dataclass(frozen=True)
class Table:
    """The truth about one task of one super-network."""

    name: str
    task: Task
    space: SearchSpace
    objectives: dict[str, tuple[float, float]]  # subnet id: parameters and metric, minimised
    worst: np.ndarray  # [2], the largest size and the worst score
    best: np.ndarray  # [2]
    front: set[tuple[float, float]]

    def look_up(self, genotypes: np.ndarray) -> np.ndarray:
        return np.array([self.objectives[i] for i in encoding.subnet_ids(self.space, genotypes)]).reshape(-1, 2)

    def share(self, objectives: np.ndarray) -> float:
        """Hypervolume over that of the true front; both axes are scaled to 0..1."""
        return self._hypervolume(objectives) / self._hypervolume(np.array(list(self.front)))

    def _hypervolume(self, objectives: np.ndarray) -> float:
        scaled = (objectives - self.best) / (self.worst - self.best)
        return hypervolume(scaled, np.array([1.0 + 1e-9, 1.0 + 1e-9]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, nargs="+", required=True, help="CSVs of `llama-nas tabulate`")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--algorithms", nargs="+", default=list(ALGORITHMS), choices=list(ALGORITHMS))
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--known", type=Path, nargs="*", default=[], help="CSVs of earlier calls, not to be run again")
    parser.add_argument("--output", type=Path, default=HERE / "search.csv.gz")
    parser.add_argument("--figure", type=Path, default=HERE / "search.svg")
    args = parser.parse_args()
    if len({stem(path) for path in args.tables}) < len(args.tables):
        sys.exit("--tables: two files of the same name; results are told apart by it")
    rows: list[dict[str, Any]] = [row for path in args.known for row in pd.read_csv(path).to_dict("records")]
    known = {(row["table"], row["algorithm"]) for row in rows}
    with ProcessPoolExecutor(args.jobs) as processes:
        for path, name in product(args.tables, args.algorithms):
            if (stem(path), name) in known:
                continue
            start = time.perf_counter()
            for of_seed in processes.map(partial(measure, path, name), range(args.seeds)):
                rows += of_seed
            print(f"{stem(path)}: {name}, {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    result = pd.DataFrame(rows)
    result.to_csv(args.output, index=False)
    figure(result, args.figure)
    print(markdown(result))


def stem(path: Path) -> str:
    """`arc_easy` of arc_easy.csv and of arc_easy.csv.gz."""
    return path.name.split(".")[0]


@cache
def read(path: Path) -> Table:
    """A table and, beside it, the JSON that says what it is of."""
    about = read_json(path.parent / f"{stem(path)}.json")
    task = Task(about["task"], about["metric"], about["higher_is_better"])
    space = SearchSpace.from_stored(about["space"], path)
    rows = read_table(path, ["subnet_id", "parameters", task.metric])
    values = np.column_stack([rows["parameters"], task.minimised(rows[task.metric].to_numpy())]).astype(float)
    objectives = dict(zip(rows["subnet_id"], map(tuple, values.tolist()), strict=True))
    front = set(map(tuple, values[non_dominated(values)].tolist()))
    return Table(stem(path), task, space, objectives, values.max(axis=0), values.min(axis=0), front)


def measure(path: Path, name: str, seed: int) -> list[dict[str, Any]]:
    """Share of the true hypervolume, of the true front's networks, repeats and seconds along one search."""
    table = read(path)
    start = time.perf_counter()
    genotypes = np.concatenate(list(search(table, name, seed)))
    seconds = time.perf_counter() - start
    values, ids = table.look_up(genotypes), encoding.subnet_ids(table.space, genotypes)
    rows = []
    for evaluations in range(EVERY, len(ids) + 1, EVERY):
        seen = values[:evaluations]
        found = table.front & set(map(tuple, seen.tolist()))
        rows.append(
            {
                "table": table.name,
                "algorithm": name,
                "seed": seed,
                "evaluations": evaluations,
                "hypervolume": table.share(seen),
                "front_found": len(found) / len(table.front),
                "repeats": evaluations - len(set(ids[:evaluations])),
                "seconds": seconds * evaluations / len(ids),
            }
        )
    return rows


def search(table: Table, name: str, seed: int) -> Iterator[np.ndarray]:
    """The genotypes of each round, int [n, g]: what the stages sample and propose do, without files."""
    kind, variant, generations, population = ALGORITHMS[name]
    chosen = make(AlgorithmSettings(kind, variant, population), Evolution(generations, **PAPER))
    space, goals, task = table.space, resolve(GoalSettings(), table.space, table.task), table.task.name
    known = Known.nothing(space, goals)
    rng = np.random.default_rng(derived_seed(seed, "sample", task, 1))
    batch = chosen.first(State(space, goals, known, population, rng)).genotypes
    rounds = EVALUATIONS // population
    for round_number in range(1, rounds + 1):
        yield batch
        if round_number == rounds:
            return
        known = Known(
            np.concatenate([known.genotypes, encoding.canonical(space, batch)]),
            np.concatenate([known.objectives, table.look_up(batch)]),
            np.concatenate([known.rounds, np.full(len(batch), round_number)]),
        )
        predict = None
        if chosen.uses_predictor:
            predict = fitted(table, variant, known, derived_seed(seed, "fit", task, round_number))
        rng = np.random.default_rng(derived_seed(seed, "propose", task, round_number))
        count = due(population, round_number, known)
        batch = chosen.next(State(space, goals, known, count, rng, predict)).genotypes


def fitted(table: Table, variant: str, known: Known, seed: int) -> Predict:
    """Predictions of the minimised metric by the best predictor, fitted on the metric as it is."""
    features = encoding.one_hot(table.space, known.genotypes)
    targets = table.task.minimised(known.objectives[:, 1])
    best, _ = choose("auto", variant, features, targets, seed)
    predictor = Predictor(best.kind, best.hyperparameters, variant, seed).fit(features, targets)
    return lambda genotypes: table.task.minimised(predictor.predict(encoding.one_hot(table.space, genotypes)))


def statistics(result: pd.DataFrame) -> pd.DataFrame:
    """One row per table and algorithm."""
    rows = []
    for table, of_table in result.groupby("table", sort=False):
        last = of_table[of_table["evaluations"] == EVALUATIONS]
        strict = last.loc[last["algorithm"] == REFERENCE].set_index("seed")["hypervolume"]
        for name, own in of_table.groupby("algorithm", sort=False):
            at_end = own[own["evaluations"] == EVALUATIONS].set_index("seed")
            by_budget = own.groupby("evaluations")["hypervolume"]
            row: dict[str, Any] = {"table": table, "algorithm": name}
            row |= {f"at {n}": values.median() for n, values in by_budget if n in TABULATED}
            row |= {
                "low": by_budget.get_group(EVALUATIONS).quantile(0.05),
                "high": by_budget.get_group(EVALUATIONS).quantile(0.95),
            }
            if len(strict):
                reached = own[own["hypervolume"] >= strict.median()].groupby("seed")["evaluations"].min()
                row["reaches strict"] = reached.reindex(own["seed"].unique()).fillna(np.inf).median()
                difference = (at_end["hypervolume"] - strict).to_numpy()
                row["difference"] = difference.mean()
                row["interval"] = (
                    1.96 * difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else np.nan
                )
            row |= {key: at_end[key].mean() for key in ("front_found", "repeats", "seconds")}
            rows.append(row)
    return pd.DataFrame(rows)


def markdown(result: pd.DataFrame) -> str:
    """What is expected of `default`, table by table; then every algorithm on every table."""
    rows = statistics(result)
    lines = []
    if {REFERENCE, OURS} <= set(rows["algorithm"]):
        lines += [
            "| table | strict at 250 | default at 125 | default at 250 | difference at 250, 95 % interval | "
            "evaluations to strict's median at 250 |",
            "|---|---|---|---|---|---|",
        ]
        for table, own in rows.set_index("algorithm").groupby("table", sort=False):
            strict, default = own.loc[REFERENCE], own.loc[OURS]
            lines.append(
                f"| {table} | {strict['at 250']:.4f} | {default['at 125']:.4f} | {default['at 250']:.4f} | "
                f"{default['difference']:+.4f} ± {default['interval']:.4f} | {default['reaches strict']:.0f} |"
            )
        lines.append("")
    lines += [
        "| table | algorithm | "
        + " | ".join(map(str, TABULATED))
        + " | 5-95 % at 250 | true front found | repeats | s |",
        "|---|---|" + "---|" * (len(TABULATED) + 4),
    ]
    for row in rows.to_dict("records"):
        lines.append(
            f"| {row['table']} | {row['algorithm']} | "
            + " | ".join(f"{row[f'at {n}']:.4f}" for n in TABULATED)
            + f" | {row['low']:.4f}-{row['high']:.4f} | {row['front_found']:.2f} | "
            f"{row['repeats']:.0f} | {row['seconds']:.1f} |"
        )
    return "\n".join(lines)


@rc_context(STYLE)
def figure(result: pd.DataFrame, path: Path) -> None:
    """One panel per table: median and 5-95 % band against evaluations."""
    tables = list(result["table"].unique())
    rows = -(-len(tables) // PANELS)
    drawing = Figure(figsize=(4.2 * min(PANELS, len(tables)), 3.4 * rows), layout="constrained")
    panels = drawing.subplots(rows, min(PANELS, len(tables)), squeeze=False, sharex=True)
    for axes, table in zip(panels.flat, tables, strict=False):
        for name, own in result[result["table"] == table].groupby("algorithm", sort=False):
            band = own.groupby("evaluations")["hypervolume"].quantile([0.05, 0.5, 0.95]).unstack()
            axes.plot(band.index, band[0.5], label=name)
            axes.fill_between(band.index, band[0.05], band[0.95], alpha=0.15)
        axes.set(title=table, xlabel="evaluations", ylim=(0.8, 1.005))
        axes.tick_params(labelbottom=True)  # a column's last panel may be missing
        axes.grid(alpha=0.3)
    for axes in panels.flat[len(tables) :]:
        axes.remove()
    drawing.supylabel("share of the true hypervolume", fontsize="medium")
    drawing.suptitle("Median and 5-95 % range of the seeds", fontsize="medium")
    panels[0, 0].legend(loc="lower right", frameon=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(path, metadata=NO_METADATA if path.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
