"""Which ideas does LINAS's `default` owe its front to? Each against the simpler version, on tables of real scores.

    python benchmarks/ideas.py --tables benchmarks/data/embedded-1-*.csv.gz [--seeds 10] [--jobs 2]

Every idea changes one thing of its base. Its gain is the difference of the mean hypervolume share after 50, 100, ...
250 evaluations, paired by table and seed, with its 95 % interval. Writes benchmarks/ideas.csv, prints the table.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr
from scipy.stats import norm, rankdata
from search import EVALUATIONS, Table, read

from llama_nas.artifacts import derived_seed, write_table
from llama_nas.pareto import non_dominated
from llama_nas.search import encoding, nsga, sampling
from llama_nas.search.additive import one_gene_changes
from llama_nas.search.linas import _new
from llama_nas.search.predictors import Predictor, choose
from llama_nas.search.proposal import Predict

BUDGETS = (50, 100, 150, 200, 250)
ROOT_HALF_PI = 1.2533  # standard deviation over mean absolute error of a normal distribution


@dataclass(frozen=True)
class Recipe:
    """LINAS with each of its parts exchangeable."""

    first: str = "spread"
    batch: int = 50
    start: int = 0  # networks of the first round; 0: as many as of every round
    known_again: bool = False
    mutation: str = "default"
    masked: bool = True
    warm: bool = True
    predictor: str = "ridge"  # a kind, `auto`, `mean` of all kinds, or `ranks`: auto on normal scores of the ranks
    choice: str = "population"  # or `hypervolume`: expected improvement, with this share of the predictor's error:
    error_share: float = 0.0
    inner: int = 50  # population of the inner search
    generations: int = 50


BASE = Recipe()
IDEAS: dict[str, tuple[Recipe, Recipe]] = {  # the version with the idea, and the simpler one
    "networks known are not evaluated again": (BASE, replace(BASE, known_again=True)),
    "discrete mutation": (BASE, replace(BASE, mutation="strict")),
    "masked encoding": (BASE, replace(BASE, masked=False)),
    "warm start of the inner search": (BASE, replace(BASE, warm=False)),
    "first round stratified over size": (replace(BASE, first="stratified"), replace(BASE, first="random")),
    "first round with the corners": (BASE, replace(BASE, first="stratified")),
    "first round of one-gene changes": (replace(BASE, first="one-gene"), BASE),
    "25 networks a round": (replace(BASE, batch=25), BASE),
    "first round without the corners, 25 a round": (
        replace(BASE, batch=25, first="stratified"),
        replace(BASE, batch=25),
    ),
    "one-gene changes, 25 a round": (
        replace(BASE, batch=25, first="one-gene"),
        replace(BASE, batch=25, first="stratified"),
    ),
    "inner population 25, 25 a round": (
        replace(BASE, batch=25, inner=25, generations=100),
        replace(BASE, batch=25, generations=50),
    ),
    "10 networks a round": (
        replace(BASE, batch=10, start=25, first="stratified"),
        replace(BASE, batch=25, first="stratified"),
    ),
    "100 inner generations instead of 50": (replace(BASE, generations=100), BASE),
    "best of ridge, SVR, LightGBM by tau": (replace(BASE, predictor="auto"), BASE),
    "SVR instead of ridge": (replace(BASE, predictor="svr"), BASE),
    "LightGBM instead of ridge": (replace(BASE, predictor="lightgbm"), BASE),
    "mean of ridge, SVR, LightGBM": (replace(BASE, predictor="mean"), BASE),
    "ranks instead of values": (replace(BASE, predictor="ranks"), replace(BASE, predictor="auto")),
    "batch by predicted hypervolume": (replace(BASE, choice="hypervolume"), BASE),
    "batch by expected hypervolume, half the error": (
        replace(BASE, choice="hypervolume", error_share=0.5),
        BASE,
    ),
    "the same, 25 a round": (
        replace(BASE, choice="hypervolume", error_share=0.5, batch=25, first="stratified"),
        replace(BASE, batch=25, first="stratified"),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, nargs="+", required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--ideas", nargs="+", default=list(IDEAS), choices=list(IDEAS))
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    args = parser.parse_args()
    measured: dict[Recipe, pd.DataFrame] = {}
    with ProcessPoolExecutor(args.jobs) as processes:
        for name in args.ideas:
            for recipe in IDEAS[name]:
                if recipe not in measured:
                    runs = list(product(args.tables, range(args.seeds)))
                    rows = processes.map(measure, [recipe] * len(runs), *zip(*runs, strict=True))
                    measured[recipe] = pd.DataFrame(rows).set_index(["table", "seed"])
            gain = measured[IDEAS[name][0]].mean(axis=1) - measured[IDEAS[name][1]].mean(axis=1)
            print(line(name, gain), flush=True)
            frames = [frame.assign(recipe=str(recipe)).reset_index() for recipe, frame in measured.items()]
            write_table(args.output, pd.concat(frames))


def line(name: str, gain: pd.Series) -> str:
    half = 1.96 * gain.std(ddof=1) / np.sqrt(len(gain))
    by_table = " | ".join(f"{1000 * value:+.1f}" for value in gain.groupby("table").mean())
    return f"| {name} | {1000 * gain.mean():+.1f} ± {1000 * half:.1f} | {by_table} |"


def measure(recipe: Recipe, path: Path, seed: int) -> dict[str, Any]:
    """Share of the true hypervolume after 50, 100, ... evaluations of one search."""
    table = read(path)
    values = table.look_up(np.concatenate(list(search(recipe, table, seed))))
    return {"table": table.name, "seed": seed} | {str(n): table.share(values[:n]) for n in BUDGETS}


def search(recipe: Recipe, table: Table, seed: int) -> Iterator[np.ndarray]:
    """The genotypes of each round, int [n, g]."""
    space, task = table.space, table.task.name
    batch = first_round(recipe, table, np.random.default_rng(derived_seed(seed, "sample", task, 1)))
    known, round_number = batch[:0], 1
    while True:
        yield batch
        known = np.concatenate([known, encoding.canonical(space, batch)])
        if len(known) >= EVALUATIONS:
            return
        fit_seed = derived_seed(seed, "fit", task, round_number)
        rng = np.random.default_rng(derived_seed(seed, "propose", task, round_number))
        batch = next_round(recipe, table, known, *fitted(recipe, table, known, fit_seed), rng)
        batch, round_number = batch[: EVALUATIONS - len(known)], round_number + 1


def first_round(recipe: Recipe, table: Table, rng: np.random.Generator) -> np.ndarray:
    space, shape, count = table.space, table.shape, recipe.start or recipe.batch
    if recipe.first == "random":
        return sampling.unseen(space, count, [], rng)
    if recipe.first == "stratified":
        return sampling.stratified(space, shape, count, [], rng)
    if recipe.first == "one-gene":
        changes = one_gene_changes(space)[:count]
        known = encoding.subnet_ids(space, changes)
        return np.concatenate([changes, sampling.stratified(space, shape, count - len(changes), known, rng)])
    return sampling.spread(space, shape, count, rng)[0]


def next_round(
    recipe: Recipe, table: Table, known: np.ndarray, predict: Predict, error: float, rng: np.random.Generator
) -> np.ndarray:
    space, shape, count = table.space, table.shape, recipe.batch

    def objectives(genotypes: np.ndarray) -> np.ndarray:
        return np.column_stack([encoding.parameters(space, shape, genotypes), predict(genotypes)])

    measured = table.look_up(known)
    front = known[non_dominated(measured)][: recipe.inner] if recipe.warm else known[:0]
    start = np.concatenate([front, sampling.uniform(space, recipe.inner - len(front), rng)])
    seed = int(rng.integers(2**63))
    history = nsga.nsga2(space, objectives, start, recipe.inner, recipe.generations, nsga.PAPER, recipe.mutation, seed)
    last = history[-1].genotypes[nsga.by_rank_and_crowding(history[-1].objectives)]
    if recipe.known_again:
        return last[:count]
    evaluated = set(encoding.subnet_ids(space, known))
    met = _new(space, np.concatenate([generation.genotypes for generation in history]), evaluated)
    if recipe.choice == "population":
        chosen = _new(space, last, evaluated)[:count]
        others = _new(space, met, evaluated.union(encoding.subnet_ids(space, chosen)))
        chosen = np.concatenate([chosen, others[nsga.by_rank_and_crowding(objectives(others))]])[:count]
    else:
        chosen = met[greedy(measured, objectives(met), count, recipe.error_share * error)]
    taken = evaluated.union(encoding.subnet_ids(space, chosen))
    return np.concatenate([chosen, sampling.unseen(space, count - len(chosen), taken, rng)])


def greedy(measured: np.ndarray, candidates: np.ndarray, count: int, error: float) -> list[int]:
    """The `count` candidates of the largest expected hypervolume improvement, each added with its prediction."""
    low = measured.min(axis=0)
    scale = np.where(measured.max(axis=0) > low, measured.max(axis=0) - low, 1)
    front, candidates, error = (measured - low) / scale, (candidates - low) / scale, error / scale[1]
    chosen: list[int] = []
    for _ in range(min(count, len(candidates))):
        front = front[non_dominated(front)]
        gains = improvement(front[np.argsort(front[:, 0])], candidates, error)
        gains[chosen] = -1
        chosen.append(int(np.argmax(gains)))
        front = np.concatenate([front, candidates[chosen[-1:]]])
    return chosen


def improvement(front: np.ndarray, candidates: np.ndarray, error: float) -> np.ndarray:
    """Expected hypervolume improvement, [n], where size is exact and the metric normal; up to the point (1, 1)."""
    left, right = np.append(-np.inf, front[:, 0]), np.append(front[:, 0], 1.0)
    gap = np.append(1.0, np.minimum(front[:, 1], 1.0)) - candidates[:, 1:]
    gain = np.maximum(gap, 0)
    if error > 0:
        z = gap / error
        gain = error * (z * ndtr(z) + np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi))
    width = np.maximum(right - np.maximum(left, candidates[:, :1]), 0)
    return (width * gain).sum(axis=1)


def fitted(recipe: Recipe, table: Table, known: np.ndarray, seed: int) -> tuple[Predict, float]:
    """Predictions of the minimised metric, and their standard error by cross-validation."""

    def features(genotypes: np.ndarray) -> np.ndarray:
        return encoding.one_hot(table.space, genotypes, recipe.masked)

    targets = table.task.minimised(table.look_up(known)[:, 1])
    if recipe.predictor == "ranks":
        targets = norm.ppf((rankdata(targets) - 0.5) / len(targets))
    kind = "auto" if recipe.predictor in ("mean", "ranks") else recipe.predictor
    best, choices = choose(kind, "default", features(known), targets, seed)
    used = choices if recipe.predictor == "mean" else [best]
    predictors = [Predictor(c.kind, c.hyperparameters, "default", seed).fit(features(known), targets) for c in used]

    def predict(genotypes: np.ndarray) -> np.ndarray:
        inputs = features(genotypes)
        return table.task.minimised(np.mean([predictor.predict(inputs) for predictor in predictors], axis=0))

    return predict, ROOT_HALF_PI * float(np.mean([choice.quality.mae for choice in used]))


if __name__ == "__main__":
    main()
