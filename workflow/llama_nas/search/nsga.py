"""NSGA-II of pymoo over integer genotypes; objectives are functions of a whole population at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.duplicate import DefaultDuplicateElimination
from pymoo.core.mutation import Mutation
from pymoo.core.problem import Problem
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.survival.rank_and_crowding.metrics import calc_crowding_distance
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from llama_nas.progress import track
from llama_nas.search.encoding import canonical
from llama_nas.space import SearchSpace

Objectives = Callable[[np.ndarray], np.ndarray]  # genotypes [n, g] -> minimised objectives [n, 2]


@dataclass(frozen=True)
class Operators:
    """The paper's settings (section 3.1); eta is the distribution index of the simulated operators."""

    crossover_probability: float
    crossover_eta: float
    mutation_probability: float
    mutation_eta: float


@dataclass(frozen=True)
class Generation:
    """One population after survival: genotypes [p, g], minimised objectives [p, 2], non-domination rank [p]."""

    genotypes: np.ndarray
    objectives: np.ndarray
    rank: np.ndarray


class DiscreteReset(Mutation):
    """Each gene takes, with chance `prob_var` (1 / genes by default), another of its values, all equally likely.

    Polynomial mutation with eta 20 and rounding practically never changes a two-valued gene (chance 2.4e-7).
    """

    def _do(self, problem, X, *args, random_state=None, **kwargs):
        values = (problem.xu - problem.xl + 1).astype(int)
        hit = random_state.random(X.shape) < self.get_prob_var(problem, size=(len(X), 1))
        move = random_state.integers(1, np.maximum(values, 2), size=X.shape)
        return np.where(hit & (values > 1), (X + move) % values, X)


class _GenotypeProblem(Problem):
    def __init__(self, space: SearchSpace, objectives: Objectives):
        super().__init__(n_var=len(space.bounds), n_obj=2, xl=0, xu=space.bounds - 1, vtype=int)
        self._objectives = objectives

    def _evaluate(self, X, out, *args, **kwargs):
        out["F"] = self._objectives(X)


def nsga2(
    space: SearchSpace,
    objectives: Objectives,
    start: np.ndarray,
    population: int,
    generations: int,
    operators: Operators,
    variant: str,
    seed: int,
) -> list[Generation]:
    """Run NSGA-II from the genotypes `start`, [<= population, g]; every generation, the start included.

    Crossover (both variants): SBX on the integers as floats, rounded; `crossover_probability` is per mating and each
    gene takes part with pymoo's chance 0.5. Mutation:
    strict: polynomial, rounded; `mutation_probability` is per individual and each gene takes part with pymoo's chance
    1 / genes (pymoo 0.6 reading of the paper's 0.02). Repeats are dropped by genotype.
    default: discrete reset with chance 1 / genes per gene, the mutation settings are not used. Repeats are dropped by
    network.
    It ends early when no mating gives a new individual, as in a space that is used up.
    """
    # vtype=float: without it pymoo stores the children in the parents' integer type, cut off before they are rounded.
    rounded = {"vtype": float, "repair": RoundingRepair()}
    strict = variant == "strict"
    algorithm = NSGA2(
        pop_size=population,
        sampling=start,
        crossover=SBX(prob=operators.crossover_probability, eta=operators.crossover_eta, **rounded),
        mutation=PM(prob=operators.mutation_probability, eta=operators.mutation_eta, **rounded)
        if strict
        else DiscreteReset(),
        eliminate_duplicates=True
        if strict
        else DefaultDuplicateElimination(func=lambda individuals: canonical(space, individuals.get("X"))),
    )
    algorithm.setup(_GenotypeProblem(space, objectives), termination=("n_gen", generations), seed=seed)
    history = []
    for _ in track(range(generations), generations, "NSGA-II generations"):
        algorithm.next()
        individuals = algorithm.pop
        history.append(Generation(individuals.get("X"), individuals.get("F"), individuals.get("rank")))
        if not algorithm.has_next():
            break
    return history


def by_rank_and_crowding(objectives: np.ndarray) -> np.ndarray:
    """NSGA-II's order of preference, int [n]: non-domination rank, within it the least crowded first."""
    order = []
    for front in NonDominatedSorting().do(objectives):
        order.extend(front[np.argsort(-calc_crowding_distance(objectives[front]), kind="stable")])
    return np.array(order, dtype=int)
