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

MATINGS = 10  # tries per generation to fill up with new networks; pymoo's 100 take minutes in a nearly used-up space
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


# pymoo's operators on integers: without vtype=float the children would be cut off to integers before they are rounded.
ROUNDED = {"vtype": float, "repair": RoundingRepair()}


def crossover(operators: Operators) -> SBX:
    """Simulated binary crossover, rounded; a mating crosses with the given probability, each gene with pymoo's 0.5."""
    return SBX(prob=operators.crossover_probability, eta=operators.crossover_eta, **ROUNDED)


def mutation(operators: Operators, variant: str) -> Mutation:
    """strict: polynomial mutation, rounded; default: discrete reset, which uses none of the settings.

    The paper's probability 0.02 is read as pymoo 0.6 and DyNAS-T's last release read it: per individual, and each
    gene of a mutated individual takes part with chance 1 / genes.
    """
    if variant == "strict":
        return PM(prob=operators.mutation_probability, eta=operators.mutation_eta, **ROUNDED)
    return DiscreteReset()


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

    Repeats are dropped by genotype in the variant `strict`, by network in `default`.
    It ends early when no mating gives a new individual, as in a space that is used up.
    """
    if variant == "strict":
        repeats = DefaultDuplicateElimination()
    else:
        repeats = DefaultDuplicateElimination(func=lambda individuals: canonical(space, individuals.get("X")))
    algorithm = NSGA2(
        pop_size=population,
        sampling=start,
        crossover=crossover(operators),
        mutation=mutation(operators, variant),
        eliminate_duplicates=repeats,
    )
    if variant == "default":
        algorithm.mating.n_max_iterations = MATINGS
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
