"""How much faster is the search's own NSGA-II than stock pymoo's, which draws the same random numbers?

    python studies/nsga2/nsga2.py [--table studies/search/data/embedded-1-arc_easy.csv.gz] [--repeats 5]

The search has NSGA-II on arrays; stock pymoo keeps an object for every individual. First the script measures the inner
NSGA-II of the variant strict alone (50 networks, 400 generations), which evaluates by a predictor that was fitted on a
first round. Then it measures whole searches of 250 evaluations, with all their fits, strict and default; for the latter
pymoo is given the search's own mutation and its own idea of a duplicate. Both take turns in one process, and the script
stops if they ever differ in one network. It writes nsga2.json beside itself and prints the table of README.md. Seconds
are the processor's, so that other work on the machine matters little.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.duplicate import DefaultDuplicateElimination
from pymoo.core.mutation import Mutation
from pymoo.core.problem import Problem
from pymoo.functions import is_compiled
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair

from llama_nas.core.artifacts import write_json
from llama_nas.core.machine import device_name
from llama_nas.core.space import SearchSpace
from llama_nas.search import encoding
from llama_nas.search.algorithms import nsga2 as ours
from llama_nas.search.algorithms import sampling
from llama_nas.search.algorithms.interface import Generation
from llama_nas.search.algorithms.predictors import Predictor, choose
from llama_nas.search.goals import resolve
from llama_nas.search.settings import Evolution, GoalSettings

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "search"))
from search import ALGORITHMS, OURS, PAPER, REFERENCE, Table, read, search  # noqa: E402

_, STRICT, GENERATIONS, POPULATION = ALGORITHMS[REFERENCE]
on_arrays = ours.nsga2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = HERE.parent / "search/data/embedded-1-arc_easy.csv.gz"
    parser.add_argument("--table", type=Path, default=default, help="a CSV of studies/search/data")
    parser.add_argument("--repeats", type=int, default=5, help="of each measurement, each with a seed of its own")
    parser.add_argument("--output", type=Path, default=HERE / "nsga2.json")
    args = parser.parse_args()
    table = read(args.table)
    record = {
        "processor": device_name("cpu"),
        "pymoo_is_compiled": is_compiled(),
        "table": table.name,
        "repeats": args.repeats,
        "inner": {
            kind: summary([inner(table, kind, seed) for seed in range(args.repeats)]) for kind in ("ridge", "svr")
        },
        "search": {
            name: summary([whole(table, name, seed) for seed in range(args.repeats)]) for name in (REFERENCE, OURS)
        },
    }
    write_json(args.output, record)
    print(markdown(record))


def inner(table: Table, kind: str, seed: int) -> dict[str, float]:
    """Processor seconds of one inner NSGA-II by each, on a predictor fitted on a random first round."""
    space, goals = table.space, resolve(GoalSettings(), table.space, table.task)
    rng = np.random.default_rng(seed)
    first, start = sampling.uniform(space, POPULATION, rng), sampling.uniform(space, POPULATION, rng)
    features, targets = encoding.one_hot(space, first), table.task.minimised(table.look_up(first)[:, 1])
    best, _ = choose(kind, STRICT, features, targets, seed)
    predictor = Predictor(kind, best.hyperparameters, STRICT, seed).fit(features, targets)
    spent = [0.0]

    def objectives(genotypes: np.ndarray) -> np.ndarray:
        began = time.process_time()
        predicted = table.task.minimised(predictor.predict(encoding.one_hot(space, genotypes)))
        values = goals.objectives(space, genotypes, predicted)
        spent[0] += time.process_time() - began
        return values

    settings = (space, objectives, start, POPULATION, Evolution(GENERATIONS, **PAPER), STRICT, seed)
    seconds, histories = in_turns(lambda: on_arrays(*settings), lambda: stock(*settings), seed)
    for one, other in zip(*histories, strict=True):
        check_same(one.genotypes, other.genotypes)
    return seconds | {"predictions": spent[0] / 2}


def whole(table: Table, name: str, seed: int) -> dict[str, float]:
    """Processor seconds of one search by each: all proposals, each with its fits."""

    def with_stock() -> np.ndarray:
        with mock.patch.object(ours, "nsga2", stock):
            return np.concatenate(list(search(table, name, seed)))

    seconds, networks = in_turns(lambda: np.concatenate(list(search(table, name, seed))), with_stock, seed)
    check_same(*networks)
    return seconds


def in_turns(by_us: Callable[[], Any], by_pymoo: Callable[[], Any], seed: int) -> tuple[dict[str, float], list[Any]]:
    """Seconds of each, and what each gave; who begins alternates with the seed."""
    seconds, results = {}, {}
    runs = {"ours": by_us, "pymoo": by_pymoo}
    for name in list(runs)[:: 1 if seed % 2 == 0 else -1]:
        began = time.process_time()
        results[name] = runs[name]()
        seconds[name] = time.process_time() - began
    return seconds, [results[name] for name in runs]


def check_same(one: np.ndarray, other: np.ndarray) -> None:
    if not np.array_equal(one, other):
        sys.exit("the two differ: their seconds are not of the same work")


def stock(
    space: SearchSpace,
    objectives: ours.Objectives,
    start: np.ndarray,
    population: int,
    evolution: Evolution,
    variant: str,
    seed: int,
    violation: Any = None,
) -> list[Generation]:
    """pymoo's NSGA-II in place of the function in `search/algorithms/nsga2.py`; without constraints."""

    class Space(Problem):
        def __init__(self) -> None:
            super().__init__(n_var=len(space.bounds), n_obj=2, xl=0, xu=space.bounds - 1, vtype=int)

        def _evaluate(self, X: np.ndarray, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            out["F"] = objectives(X)

    rounded = {"vtype": float, "repair": RoundingRepair()}
    polynomial = PM(prob=evolution.mutation_probability, eta=evolution.mutation_eta, **rounded)
    same_network = DefaultDuplicateElimination(func=lambda of: encoding.canonical(space, of.get("X").astype(int)))
    algorithm = NSGA2(
        pop_size=population,
        sampling=start,
        crossover=SBX(prob=evolution.crossover_probability, eta=evolution.crossover_eta, **rounded),
        mutation=polynomial if variant == STRICT else DiscreteReset(space),
        eliminate_duplicates=DefaultDuplicateElimination() if variant == STRICT else same_network,
    )
    algorithm.mating.n_max_iterations = ours.MATINGS[variant]
    algorithm.setup(Space(), termination=("n_gen", evolution.generations), seed=seed)
    history = []
    while algorithm.has_next():
        algorithm.next()
        own = algorithm.pop
        history.append(Generation(own.get("X"), own.get("F"), np.zeros(len(own)), own.get("rank"), own.get("crowding")))
    return history


class DiscreteReset(Mutation):
    """The mutation of the variant default. It replaces `do`, which would draw a number more for each individual."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.space = space

    def do(self, problem: Any, pop: Any, *args: Any, random_state: Any = None, **kwargs: Any) -> Any:
        pop.set("X", ours.reset(self.space, pop.get("X"), random_state))
        return pop


def summary(rows: list[dict[str, float]]) -> dict[str, float]:
    """Medians, and the median of the ratios of each pair."""
    medians = {name: float(np.median([row[name] for row in rows])) for name in rows[0]}
    ratios = [row["pymoo"] / row["ours"] for row in rows]
    return medians | {"ratio": float(np.median(ratios)), "ratios": [min(ratios), max(ratios)]}


def markdown(record: dict[str, Any]) -> str:
    lines = ["| | ours, s | pymoo, s | of both: predictions, s | pymoo / ours | lowest and highest |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    rows = {f"inner NSGA-II, {kind}": row for kind, row in record["inner"].items()}
    rows |= {f"whole search, {name}": row for name, row in record["search"].items()}
    for name, row in rows.items():
        predictions = f"{row['predictions']:.2f}" if "predictions" in row else ""
        low, high = row["ratios"]
        lines.append(
            f"| {name} | {row['ours']:.2f} | {row['pymoo']:.2f} | {predictions} | {row['ratio']:.1f} | "
            f"{low:.1f} to {high:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
