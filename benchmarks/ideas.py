"""Do evaluations of the same networks on another task help a search? Against `default`, on development tables.

    python benchmarks/ideas.py --other benchmarks/data/embedded-1-arc_easy.csv.gz --tables <the world's other tables>

The other task was searched before, by `default` with the same seed, so its evaluations are free. An idea's gain is the
difference of the mean hypervolume share after 50, 100, ... 250 evaluations, paired by table and seed, with its 95 %
interval. `default` is that of benchmarks/search.csv.gz.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import search as benchmark
from search import EVALUATIONS, Table, read

from llama_nas.artifacts import derived_seed
from llama_nas.pareto import non_dominated
from llama_nas.search import encoding
from llama_nas.search.algorithms import algorithm
from llama_nas.search.goals import Declared
from llama_nas.search.predictors import Predictor, choose
from llama_nas.search.proposal import Known, Predict

BUDGETS = (50, 100, 150, 200, 250)
POPULATION, GENERATIONS = 25, 100
IDEAS = {
    "first round begins with the front of another task": ("front",),
    "another task's predicted score as an input": ("feature",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, required=True)
    parser.add_argument("--tables", type=Path, nargs="+", required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    args = parser.parse_args()
    runs = [(args.other, table, seed) for table, seed in product(args.tables, range(args.seeds))]
    with ProcessPoolExecutor(args.jobs) as processes:
        for name, parts in IDEAS.items():
            rows = processes.map(measure, [parts] * len(runs), *zip(*runs, strict=True))
            measured = pd.DataFrame(rows).set_index(["table", "seed"])
            print(line(name, measured - default().loc[measured.index]), flush=True)


def default() -> pd.DataFrame:
    """The searches of benchmarks/search.csv.gz without any other task."""
    rows = pd.read_csv(Path(__file__).with_name("search.csv.gz"))
    rows = rows[(rows["algorithm"] == "linas, default") & rows["evaluations"].isin(BUDGETS)]
    rows["evaluations"] = rows["evaluations"].astype(str)
    return rows.pivot(index=["table", "seed"], columns="evaluations", values="hypervolume")[list(map(str, BUDGETS))]


def line(name: str, gains: pd.DataFrame) -> str:
    gain = gains.mean(axis=1)
    half = 1.96 * gain.std(ddof=1) / np.sqrt(len(gain))
    by_table = " | ".join(f"{table} {1000 * value:+.1f}" for table, value in gain.groupby("table").mean().items())
    by_budget = " ".join(f"{1000 * value:+.1f}" for value in gains.mean())
    return f"| {name} | {1000 * gain.mean():+.1f} ± {1000 * half:.1f} | {by_table} | {by_budget} |"


def measure(parts: tuple[str, ...], other: Path, path: Path, seed: int) -> dict[str, Any]:
    """Share of the true hypervolume after 50, 100, ... evaluations of one search."""
    table = read(path)
    values = table.look_up(np.concatenate(list(search(parts, other, table, seed))))
    return {"table": table.name, "seed": seed} | {str(n): table.share(values[:n]) for n in BUDGETS}


@cache
def searched(other: Path, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Genotypes and minimised objectives of a whole search of the other task."""
    genotypes = np.concatenate(list(benchmark.search(read(other), "linas, default", seed)))
    return genotypes, read(other).look_up(genotypes)


def search(parts: tuple[str, ...], other: Path, table: Table, seed: int) -> Iterator[np.ndarray]:
    """benchmarks/search.py's, with the evaluations of another task."""
    chosen = algorithm("linas", "default", POPULATION, GENERATIONS)
    space, goals, task = table.space, Declared().on(table.space, table.shape, table.task), table.task.name
    batch = chosen.first(
        space, goals, POPULATION, np.random.default_rng(derived_seed(seed, "sample", task, 1))
    ).genotypes
    if "front" in parts:
        batch = with_front(space, batch, *searched(other, seed))
    known = Known(batch[:0], np.empty((0, 2)), np.empty(0, dtype=int))
    for round_number in range(1, EVALUATIONS // POPULATION + 1):
        yield batch
        known = Known(
            np.concatenate([known.genotypes, encoding.canonical(space, batch)]),
            np.concatenate([known.objectives, table.look_up(batch)]),
            np.concatenate([known.rounds, np.full(len(batch), round_number)]),
        )
        if len(known.rounds) == EVALUATIONS:
            return
        features = encoder(parts, other, table, seed)
        predict = fitted(table, features, known, derived_seed(seed, "fit", task, round_number))
        rng = np.random.default_rng(derived_seed(seed, "propose", task, round_number))
        batch = chosen.next(space, goals, known, POPULATION, predict, rng).genotypes


def with_front(space, batch: np.ndarray, genotypes: np.ndarray, objectives: np.ndarray) -> np.ndarray:
    """Half of a first round (every other stratum) replaced by members of the front, spread over the size axis."""
    front = genotypes[non_dominated(objectives)]
    front = front[np.argsort(objectives[non_dominated(objectives)][:, 0])]
    picked = front[np.unique(np.linspace(0, len(front) - 1, len(batch) // 2).astype(int))]
    joined = encoding.canonical(space, np.concatenate([picked, batch[::2], batch[1::2]]))
    _, first = np.unique(encoding.subnet_ids(space, joined), return_index=True)
    return joined[np.sort(first)][: len(batch)]


@cache
def model_of_other(other: Path, seed: int) -> Predictor:
    table, (genotypes, objectives) = read(other), searched(other, seed)
    features, targets = encoding.one_hot(table.space, genotypes), table.task.minimised(objectives[:, 1])
    best, _ = choose("auto", "default", features, targets, seed)
    return Predictor(best.kind, best.hyperparameters, "default", seed).fit(features, targets)


def encoder(parts: tuple[str, ...], other: Path, table: Table, seed: int):
    def features(genotypes: np.ndarray) -> np.ndarray:
        encoded = encoding.one_hot(table.space, genotypes)
        if "feature" not in parts:
            return encoded
        predicted = model_of_other(other, seed).predict(encoded)
        scaled = (predicted - predicted_mean(other, seed)[0]) / predicted_mean(other, seed)[1]
        return np.column_stack([encoded, scaled])

    return features


@cache
def predicted_mean(other: Path, seed: int) -> tuple[float, float]:
    values = read(other).task.minimised(searched(other, seed)[1][:, 1])
    return float(values.mean()), float(values.std())


def fitted(table: Table, features, known: Known, seed: int) -> Predict:
    inputs, targets = features(known.genotypes), table.task.minimised(known.objectives[:, 1])
    best, _ = choose("auto", "default", inputs, targets, seed)
    predictor = Predictor(best.kind, best.hyperparameters, "default", seed).fit(inputs, targets)
    return lambda genotypes: table.task.minimised(predictor.predict(features(genotypes)))


if __name__ == "__main__":
    main()
