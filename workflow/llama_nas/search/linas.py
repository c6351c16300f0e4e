"""One LINAS round on predictions (arXiv 2202.12954): NSGA-II from a start, and which networks to evaluate next."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llama_nas.pareto import non_dominated
from llama_nas.search import encoding, nsga, sampling
from llama_nas.space import ModelShape, SearchSpace

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Known:
    """What has been evaluated for real: genotypes [n, g] and minimised objectives [n, 2] (exact size, metric)."""

    genotypes: np.ndarray
    objectives: np.ndarray


@dataclass(frozen=True)
class Proposal:
    """The next candidates [n, g] with the origin of each, and every generation of the inner search."""

    genotypes: np.ndarray
    origins: list[str]
    generations: list[nsga.Generation]


def propose(
    space: SearchSpace,
    shape: ModelShape,
    predict: Callable[[np.ndarray], np.ndarray],
    known: Known,
    population: int,
    generations: int,
    operators: nsga.Operators,
    variant: str,
    seed: int,
) -> Proposal:
    """Search the predictor with NSGA-II and pick the next round's networks.

    predict: genotypes [n, g] -> predicted metric, minimised, [n]. Size is exact, never predicted.
    strict: random start, and the whole last population as it is, evaluated networks included.
    default: starts from the front of the real evaluations, and proposes only new networks: those of the last
    population, then the best others the search met, then random ones; fewer than `population` if no more exist.
    """
    rng = np.random.default_rng(seed)

    def objectives(genotypes: np.ndarray) -> np.ndarray:
        return np.column_stack([encoding.parameters(space, shape, genotypes), predict(genotypes)])

    if variant == "strict":
        start = sampling.uniform(space, population, rng)
    else:
        start = _from_front(space, known, population, rng)
    inner_seed = int(rng.integers(2**63))
    history = nsga.nsga2(space, objectives, start, population, generations, operators, variant, inner_seed)
    last = history[-1].genotypes
    if variant == "strict":
        return Proposal(last, ["nsga2"] * len(last), history)

    evaluated = set(encoding.subnet_ids(space, known.genotypes))
    picked = _new(space, last[nsga.by_rank_and_crowding(history[-1].objectives)], evaluated)[:population]
    taken = evaluated.union(encoding.subnet_ids(space, picked))
    met = _new(space, np.concatenate([generation.genotypes for generation in history]), taken)
    refill = met[nsga.by_rank_and_crowding(objectives(met))][: population - len(picked)]
    taken.update(encoding.subnet_ids(space, refill))
    rest = sampling.unseen(space, population - len(picked) - len(refill), taken, rng)
    total = len(picked) + len(refill) + len(rest)
    if total < population:
        log.info("the space is used up: %d new networks instead of %d", total, population)
    origins = ["nsga2"] * len(picked) + ["refill"] * len(refill) + ["random"] * len(rest)
    return Proposal(np.concatenate([picked, refill, rest]), origins, history)


def _from_front(space: SearchSpace, known: Known, population: int, rng: np.random.Generator) -> np.ndarray:
    """The evaluated front, filled up with uniformly random genotypes, int [population, g]."""
    front = known.genotypes[non_dominated(known.objectives)][:population]
    return np.concatenate([front, sampling.uniform(space, population - len(front), rng)])


def _new(space: SearchSpace, genotypes: np.ndarray, known: set[str]) -> np.ndarray:
    """The distinct networks that are not in `known`, in the order given, canonical, int [<= n, g]."""
    genotypes = encoding.canonical(space, genotypes)
    first: dict[str, int] = {}
    for i, subnet_id in enumerate(encoding.subnet_ids(space, genotypes)):
        if subnet_id not in known:
            first.setdefault(subnet_id, i)
    return genotypes[list(first.values())]
