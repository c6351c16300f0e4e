"""NSGA-II over integer genotypes by pymoo; and as a search algorithm on real evaluations.

The variant `strict` is stock: simulated binary crossover, polynomial mutation, rounding. `default` mutates by discrete
reset and tells individuals apart by network, not by genotype.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2, binary_tournament
from pymoo.core.duplicate import DuplicateElimination
from pymoo.core.mating import Mating
from pymoo.core.mutation import Mutation
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.selection.tournament import TournamentSelection
from pymoo.operators.survival.rank_and_crowding import RankAndCrowding
from pymoo.operators.survival.rank_and_crowding.metrics import calc_crowding_distance
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from llama_nas.core.progress import track
from llama_nas.core.space import SearchSpace
from llama_nas.search import encoding
from llama_nas.search.algorithms import sampling
from llama_nas.search.algorithms.interface import Generation, Known, Proposal, State
from llama_nas.search.goals import Goals
from llama_nas.search.settings import AlgorithmSettings, Evolution

# Tries per generation to fill up with new individuals: pymoo's own number, which takes minutes in a nearly used-up
# space if every network must be new.
MATINGS = {"strict": 100, "default": 10}
Objectives = Callable[[np.ndarray], np.ndarray]  # genotypes [n, g] -> minimised objectives [n, m]
# genotypes [n, g] and their objectives [n, m] -> how far each is beyond the constraints, [n], 0 within
Violation = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Nsga2:
    """NSGA-II on real evaluations alone: what a search is worth without a predictor.

    It has what LINAS's `default` has: a first round spread over the sizes, discrete mutation, no network twice.
    """

    settings: AlgorithmSettings
    evolution: Evolution | None = None
    uses_predictor = False

    def first(self, state: State) -> Proposal:
        return Proposal(*sampling.spread(state.space, state.goals, state.count, state.rng))

    def next(self, state: State) -> Proposal:
        assert self.evolution is not None
        space, known = state.space, state.known
        parents = survivors(space, state.goals, known, self.settings.population)
        new = NewNetworks(space, known.genotypes, partial(state.goals.fits, space))
        children = children_of(space, parents, state.count, self.evolution, new, state.rng)
        taken = encoding.subnet_ids(space, np.concatenate([known.genotypes, children]))
        rest = sampling.unseen(space, state.count - len(children), taken, state.rng, state.goals)
        origins = ["nsga2"] * len(children) + ["random"] * len(rest)
        return Proposal(np.concatenate([children, rest]), origins)


def survivors(space: SearchSpace, goals: Goals, known: Known, count: int) -> Population:
    """The population after the last round: the rounds' survivors once more, one round after the other."""
    ties = np.random.default_rng(0)  # the same each time: earlier rounds must end as they did
    population, problem = Population.empty(), _problem(space, known.objectives.shape[1])
    for round_number in np.unique(known.rounds):
        own = known.rounds == round_number
        genotypes, objectives = known.genotypes[own], known.objectives[own].astype(float)
        violation = goals.violation(space, genotypes, objectives[:, -1])
        evaluated = Population.new(X=genotypes, F=objectives, G=violation[:, None], H=np.empty((len(genotypes), 0)))
        merged = Population.merge(population, evaluated)
        population = RankAndCrowding().do(problem, merged, n_survive=count, random_state=ties)
    return population


def children_of(
    space: SearchSpace,
    parents: Population,
    count: int,
    evolution: Evolution,
    new: NewNetworks,
    rng: np.random.Generator,
) -> np.ndarray:
    """Children by binary tournament, crossover and discrete mutation, int [<= count, g], all of them `new`."""
    mating = Mating(
        TournamentSelection(func_comp=binary_tournament),
        _crossover(evolution),
        DiscreteReset(space),
        eliminate_duplicates=new,
        n_max_iterations=MATINGS["default"],
    )
    # The tournament asks the algorithm for no more than this.
    algorithm = SimpleNamespace(tournament_type="comp_by_dom_and_crowding", random_state=rng)
    children = mating.do(
        _problem(space, parents.get("F").shape[1]), parents, count, random_state=rng, algorithm=algorithm
    )
    return children.get("X").astype(int).reshape(len(children), len(space.bounds))


def nsga2(
    space: SearchSpace,
    objectives: Objectives,
    start: np.ndarray,
    population: int,
    evolution: Evolution,
    variant: str,
    seed: int,
    violation: Violation = lambda genotypes, objectives: np.zeros(len(genotypes)),
) -> list[Generation]:
    """Run NSGA-II from the genotypes `start`, [<= population, g]; every generation, the start included.

    violation: constraints, by Deb's rules; none by default. Repeats are dropped by genotype in the variant `strict`, by
    network in `default`. It ends early when no mating gives a new individual, as in a space that is used up.
    """
    algorithm: Any = NSGA2(
        pop_size=population,
        sampling=start,
        crossover=_crossover(evolution),
        mutation=_polynomial(evolution) if variant == "strict" else DiscreteReset(space),
        eliminate_duplicates=NewGenotypes() if variant == "strict" else NewNetworks(space),
    )
    algorithm.mating.n_max_iterations = MATINGS[variant]
    problem = _problem(space, objectives(start[:1]).shape[1], objectives, violation)
    algorithm.setup(problem, termination=("n_gen", evolution.generations), seed=seed)
    history = []
    for _ in track(range(evolution.generations), evolution.generations, "NSGA-II generations"):
        infills = algorithm.infill()
        if infills is None:
            break
        algorithm.evaluator.eval(problem, infills, algorithm=algorithm)
        algorithm.advance(infills=infills)
        history.append(_generation(algorithm.pop))
    return history


def _problem(
    space: SearchSpace, num_objectives: int, objectives: Objectives | None = None, violation: Violation | None = None
) -> Problem:
    """The space as pymoo sees it; without objectives where nothing is evaluated."""

    class Networks(Problem):
        def __init__(self) -> None:
            shape = {"n_var": len(space.bounds), "n_obj": num_objectives, "n_ieq_constr": 1}
            super().__init__(**shape, xl=0, xu=space.bounds - 1, vtype=int)

        def _evaluate(self, X: np.ndarray, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            assert objectives is not None and violation is not None
            out["F"] = objectives(X)
            out["G"] = violation(X, out["F"])

    return Networks()


def _generation(population: Population) -> Generation:
    """What is kept of a population; pymoo ranks only those within the constraints."""
    violation = population.get("CV")[:, 0]
    rank, crowding = np.zeros(len(population), dtype=int), np.zeros(len(population))
    within, beyond = np.flatnonzero(violation <= 0), np.flatnonzero(violation > 0)
    rank[within], crowding[within] = population[within].get("rank", "crowding")
    rank[beyond] = rank[within].max(initial=-1) + 1 + np.arange(len(beyond))
    return Generation(population.get("X").astype(int), population.get("F"), violation, rank, crowding)


def _crossover(evolution: Evolution) -> SBX:
    probability, eta = evolution.crossover_probability, evolution.crossover_eta
    return SBX(prob=probability, eta=eta, vtype=float, repair=RoundingRepair())


def _polynomial(evolution: Evolution) -> PM:
    """Polynomial mutation, rounded.

    The paper's probability 0.02 is read as pymoo 0.6 and DyNAS-T's last release read it: per individual, and each
    gene of a mutated individual takes part with chance 1 / genes. With eta 20 and rounding that practically never
    changes a two-valued gene (chance 2.4e-7).
    """
    probability, eta = evolution.mutation_probability, evolution.mutation_eta
    return PM(prob=probability, eta=eta, vtype=float, repair=RoundingRepair())


class DiscreteReset(Mutation):
    """Discrete mutation: each gene takes, with chance 1 / genes, another of its values, all equally likely."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.bounds = space.bounds

    def do(self, problem: Any, pop: Any, *args: Any, random_state: Any = None, **kwargs: Any) -> Any:
        """In place of the class's own `do`, which would draw another number for each individual."""
        genotypes = pop.get("X").astype(int)
        hit = (random_state.random(genotypes.shape) < 1 / genotypes.shape[1]) & (self.bounds > 1)
        move = random_state.integers(1, np.maximum(self.bounds, 2), size=genotypes.shape)
        pop.set("X", np.where(hit, (genotypes + move) % self.bounds, genotypes))
        return pop


class NewGenotypes(DuplicateElimination):
    """Keeps each genotype once."""

    def do(self, pop: Any, *others: Any, **kwargs: Any) -> Any:
        seen = {key for other in others if len(other) for key in self.keys(other.get("X").astype(int))}
        kept = []
        for i, key in enumerate(self.keys(pop.get("X").astype(int)) if len(pop) else []):
            if key not in seen:
                seen.add(key)
                kept.append(i)
        return pop[kept]

    def keys(self, genotypes: np.ndarray) -> list[Any]:
        """What makes an individual the same as another."""
        return [genotype.tobytes() for genotype in np.ascontiguousarray(genotypes, dtype=int)]


class NewNetworks(NewGenotypes):
    """Keeps each network once, none of the `known` genotypes', and only those that fit."""

    def __init__(
        self,
        space: SearchSpace,
        known: np.ndarray | None = None,
        fits: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        super().__init__()
        self.space, self.fits = space, fits
        self.known = set() if known is None else set(self.keys(known))

    def do(self, pop: Any, *others: Any, **kwargs: Any) -> Any:
        if len(pop) and self.fits is not None:
            pop = pop[self.fits(pop.get("X").astype(int))]
        if len(pop) and self.known:
            pop = pop[[key not in self.known for key in self.keys(pop.get("X").astype(int))]]
        return super().do(pop, *others)

    def keys(self, genotypes: np.ndarray) -> list[Any]:
        return super().keys(encoding.canonical(self.space, genotypes))


def by_rank_and_crowding(objectives: np.ndarray, violation: np.ndarray) -> np.ndarray:
    """NSGA-II's order of preference, int [n]: non-domination rank, within it the least crowded first.

    Last come the networks beyond the constraints, those of the smallest violation first.
    """
    within, beyond = np.flatnonzero(violation <= 0), np.flatnonzero(violation > 0)
    fronts = NonDominatedSorting().do(objectives[within]) if len(within) else []
    order = []
    for front in (within[front] for front in fronts):
        crowding = calc_crowding_distance(objectives[front]) if len(front) > 2 else np.full(len(front), np.inf)
        order.append(front[np.argsort(-crowding, kind="stable")])
    return np.concatenate([*order, beyond[np.argsort(violation[beyond], kind="stable")]])
