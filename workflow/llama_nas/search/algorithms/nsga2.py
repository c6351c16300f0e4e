"""NSGA-II over integer genotypes, on arrays; and as a search algorithm on real evaluations.

The variant `strict` is pymoo's NSGA-II with its SBX, polynomial mutation and rounding repair, draw for draw: tests
compare the populations bit by bit, with constraints and without. pymoo keeps an object for every individual, which
takes most of the time where an evaluation is a prediction; its sorting and crowding distance are used as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
from pymoo.operators.survival.rank_and_crowding.metrics import calc_crowding_distance
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting
from pymoo.util.randomized_argsort import randomized_argsort

from llama_nas.core.progress import track
from llama_nas.core.space import SearchSpace
from llama_nas.search import encoding
from llama_nas.search.algorithms import sampling
from llama_nas.search.algorithms.interface import Generation, Known, Proposal, State
from llama_nas.search.encoding import canonical
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
        parents = self._survivors(space, state.goals, known)
        fits = partial(state.goals.fits, space)
        children = mate(space, parents, state.count, self.evolution, "default", known.genotypes, state.rng, fits)
        taken = encoding.subnet_ids(space, np.concatenate([known.genotypes, children]))
        rest = sampling.unseen(space, state.count - len(children), taken, state.rng, state.goals)
        origins = ["nsga2"] * len(children) + ["random"] * len(rest)
        return Proposal(np.concatenate([children, rest]), origins)

    def _survivors(self, space: SearchSpace, goals: Goals, known: Known) -> Generation:
        """The population after the last round: the rounds' survivors once more, one round after the other."""
        ties = np.random.default_rng(0)  # the same each time: earlier rounds must end as they did
        genotypes, objectives = known.genotypes[:0], known.objectives[:0]
        for round_number in np.unique(known.rounds):
            of_round = known.rounds == round_number
            genotypes = np.concatenate([genotypes, known.genotypes[of_round]])
            objectives = np.concatenate([objectives, known.objectives[of_round]])
            violation = goals.violation(space, genotypes, objectives[:, -1])
            survivors = survive(genotypes, objectives, violation, self.settings.population, ties)
            genotypes, objectives = survivors.genotypes, survivors.objectives
        return survivors


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
    rng = np.random.default_rng(seed)
    start = np.array([row for _, row in _distinct(space, start, variant, set())])
    values = objectives(start)
    history = [survive(start, values, violation(start, values), len(start), rng)]
    for _ in track(range(1, evolution.generations), evolution.generations - 1, "NSGA-II generations"):
        parents = history[-1]
        children = mate(space, parents, population, evolution, variant, parents.genotypes, rng)
        if not len(children):
            break
        values = objectives(children)
        beyond = np.concatenate([parents.violation, violation(children, values)])
        merged = np.concatenate([parents.genotypes, children])
        values = np.concatenate([parents.objectives, values])
        history.append(survive(merged, values, beyond, population, rng))
    return history


def survive(
    genotypes: np.ndarray, objectives: np.ndarray, violation: np.ndarray, count: int, rng: np.random.Generator
) -> Generation:
    """The `count` best by non-domination rank, and of the rank that is cut, by crowding distance (ties by chance).

    Networks beyond the constraints follow where too few are within, those of the smallest violation first.
    """
    objectives = objectives.astype(float)
    within = np.flatnonzero(violation <= 0)
    chosen, rank, crowding = [within[:0]], np.zeros(len(genotypes), dtype=int), np.zeros(len(genotypes))
    missing = min(count, len(genotypes))
    levels = _fronts(objectives[within], min(missing, len(within)))
    for level, front in enumerate(levels):
        front = within[front]
        rank[front], crowding[front] = level, _crowding(objectives[front])
        if len(front) > missing:
            front = front[randomized_argsort(crowding[front], order="descending", random_state=rng)[:missing]]
        missing -= len(front)
        chosen.append(front)
    beyond = np.flatnonzero(violation > 0)
    beyond = beyond[np.argsort(violation[beyond])][:missing]
    rank[beyond] = len(levels) + np.arange(len(beyond))
    order = np.concatenate([*chosen, beyond])
    return Generation(genotypes[order], objectives[order], violation[order], rank[order], crowding[order])


def _fronts(objectives: np.ndarray, ranked: int | None = None) -> list[np.ndarray]:
    """Indices of the rows of each non-domination rank, until so many rows are ranked (None: all)."""
    return NonDominatedSorting().do(objectives, n_stop_if_ranked=ranked) if len(objectives) else []


def mate(
    space: SearchSpace,
    parents: Generation,
    count: int,
    evolution: Evolution,
    variant: str,
    known: np.ndarray,
    rng: np.random.Generator,
    fits: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Children by binary tournament, crossover and mutation, int [<= count, g]: distinct, and none of `known`, [n, g].

    fits: which genotypes may be children, bool [n] (default: all). Fewer than `count` where MATINGS tries do not give
    more.
    """
    taken = {key for key, _ in _distinct(space, known, variant, set())}
    wins = _wins(parents)
    children: list[np.ndarray] = []
    for _ in range(MATINGS[variant]):
        matings = math.ceil((count - len(children)) / 2)
        pairs = parents.genotypes[_tournament(wins, matings, rng)]
        offspring = crossed(space, pairs, evolution, rng)
        if variant == "strict":
            offspring = polynomially_mutated(space, offspring, evolution, rng)
        else:
            offspring = reset(space, offspring, rng)
        if fits is not None:
            offspring = offspring[fits(offspring)]
        for key, row in _distinct(space, offspring, variant, taken):
            if len(children) < count:
                taken.add(key)
                children.append(row)
        if len(children) == count:
            break
    return np.array(children, dtype=int).reshape(len(children), len(space.bounds))


def _wins(parents: Generation) -> np.ndarray:
    """Who wins a tournament of each two, int [p, p]: 0 the first, 1 the second, -1 either of them.

    The dominating one, else the less crowded; where one is beyond the constraints, the one with the smaller violation.
    """
    values, crowding = parents.objectives, parents.crowding
    no_worse = (values[:, None] <= values[None]).all(axis=2)
    open_ended = no_worse == no_worse.T  # equal, or incomparable
    less_crowded = crowding[:, None] > crowding[None]
    wins = np.where(np.where(open_ended, less_crowded, no_worse), 0, 1)
    wins[open_ended & (crowding[:, None] == crowding[None])] = -1
    first, second = parents.violation[:, None], parents.violation[None]
    by_violation = np.where(first == second, -1, np.where(first < second, 0, 1))
    return np.where((first > 0) | (second > 0), by_violation, wins)


def _tournament(wins: np.ndarray, matings: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of the parents, int [matings, 2], each the winner over another one."""
    permutations = [rng.permutation(len(wins)) for _ in range(math.ceil(4 * matings / len(wins)))]
    rivals = np.concatenate(permutations)[: 4 * matings].reshape(-1, 2)
    winner = wins[rivals[:, 0], rivals[:, 1]]
    tied = np.flatnonzero(winner < 0)
    winner[tied] = rng.integers(0, 2, size=len(tied))
    return rivals[np.arange(len(rivals)), winner].reshape(matings, 2)


def crossed(space: SearchSpace, pairs: np.ndarray, evolution: Evolution, rng: np.random.Generator) -> np.ndarray:
    """Simulated binary crossover, rounded: children of the pairs, int [2 * matings, g], first the first of each pair.

    pairs: int [matings, 2, g]. A mating crosses with the given probability, each gene of it with pymoo's 0.5; genes on
    which the parents agree stay as they are (Deb and Agrawal 1995; pymoo 0.6.2, operators/crossover/sbx.py).
    """
    matings, _, genes = pairs.shape
    children = pairs.swapaxes(0, 1).copy()
    mates = np.less(rng.random(matings), evolution.crossover_probability)
    if mates.any():
        rng.random((matings, 1))  # pymoo draws here which matings exchange values; all do
        at = (rng.random((matings, genes)) < 0.5) & (children[0] != children[1])
        first, second = children[:, at].astype(float)
        low, high, top = np.minimum(first, second), np.maximum(first, second), space.bounds[np.nonzero(at)[1]] - 1.0
        draw, swap = rng.random(len(low)), rng.random(len(low)) < 0.5
        power, gap = evolution.crossover_eta + 1.0, high - low
        nearer_low = 0.5 * ((low + high) - _spread(1.0 + 2.0 * low / gap, draw, power) * gap)
        nearer_high = 0.5 * ((low + high) + _spread(1.0 + 2.0 * (top - high) / gap, draw, power) * gap)
        new = np.where(swap, (nearer_high, nearer_low), (nearer_low, nearer_high))  # pymoo orders by value, then swaps
        new = np.around(np.clip(new, 0, top)).astype(int)
        crossing = np.broadcast_to(mates[:, None], at.shape)[at]
        children[:, at] = np.where(crossing, new, children[:, at])
    return children.reshape(2 * matings, genes)


def _spread(beta: np.ndarray, draw: np.ndarray, power: float) -> np.ndarray:
    """SBX's spread factor for uniform draws, [n]."""
    alpha = 2.0 - beta**-power
    inner = draw <= 1.0 / alpha
    return np.where(inner, draw * alpha, 1.0 / (2.0 - draw * alpha)) ** (1.0 / power)


def polynomially_mutated(
    space: SearchSpace, genotypes: np.ndarray, evolution: Evolution, rng: np.random.Generator
) -> np.ndarray:
    """Polynomial mutation, rounded (pymoo 0.6.2, operators/mutation/pm.py).

    The paper's probability 0.02 is read as pymoo 0.6 and DyNAS-T's last release read it: per individual, and each
    gene of a mutated individual takes part with chance 1 / genes. With eta 20 and rounding that practically never
    changes a two-valued gene (chance 2.4e-7).
    """
    part = (rng.random(genotypes.shape) < min(0.5, 1 / genotypes.shape[1])) & (space.bounds > 1)
    draw = rng.random(part.sum())
    hit = rng.random(len(genotypes)) <= evolution.mutation_probability
    chosen = hit[np.nonzero(part)[0]]
    part, draw = part & hit[:, None], draw[chosen]
    if not len(draw):
        return genotypes
    span = np.broadcast_to(space.bounds - 1.0, part.shape)[part]
    before, power = genotypes[part].astype(float), evolution.mutation_eta + 1.0
    below, above = before / span, (span - before) / span
    down = (2.0 * draw + (1.0 - 2.0 * draw) * (1.0 - below) ** power) ** (1.0 / power) - 1.0
    up = 1.0 - (2.0 * (1.0 - draw) + 2.0 * (draw - 0.5) * (1.0 - above) ** power) ** (1.0 / power)
    after = genotypes.copy()
    after[part] = np.around(np.clip(before + np.where(draw <= 0.5, down, up) * span, 0, span)).astype(int)
    return after


def reset(space: SearchSpace, genotypes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Discrete mutation: each gene takes, with chance 1 / genes, another of its values, all equally likely."""
    hit = (rng.random(genotypes.shape) < 1 / genotypes.shape[1]) & (space.bounds > 1)
    move = rng.integers(1, np.maximum(space.bounds, 2), size=genotypes.shape)
    return np.where(hit, (genotypes + move) % space.bounds, genotypes)


def _distinct(
    space: SearchSpace, genotypes: np.ndarray, variant: str, taken: set[bytes]
) -> Iterable[tuple[bytes, np.ndarray]]:
    """Each genotype (`strict`) or network (`default`) once, but those in `taken`, with what makes it that one."""
    same = canonical(space, genotypes) if variant == "default" else genotypes
    found: dict[bytes, np.ndarray] = {}
    for identity, genotype in zip(np.ascontiguousarray(same, dtype=int), genotypes, strict=True):
        if (key := identity.tobytes()) not in taken:
            found.setdefault(key, genotype)
    return found.items()


def _crowding(objectives: np.ndarray) -> np.ndarray:
    """Crowding distance within one front, [n]; infinite at its ends."""
    return calc_crowding_distance(objectives) if len(objectives) > 2 else np.full(len(objectives), np.inf)


def by_rank_and_crowding(objectives: np.ndarray, violation: np.ndarray) -> np.ndarray:
    """NSGA-II's order of preference, int [n]: non-domination rank, within it the least crowded first.

    Last come the networks beyond the constraints, those of the smallest violation first.
    """
    within, beyond = np.flatnonzero(violation <= 0), np.flatnonzero(violation > 0)
    fronts = [within[front] for front in _fronts(objectives[within])]
    order = [front[np.argsort(-_crowding(objectives[front]), kind="stable")] for front in fronts]
    return np.concatenate([*order, beyond[np.argsort(violation[beyond], kind="stable")]])
