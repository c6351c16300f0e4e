"""LINAS (arXiv 2202.12954): between real evaluations, NSGA-II searches a predictor and says what to evaluate next."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from llama_nas.search import encoding, nsga, sampling
from llama_nas.search.goals import Goals
from llama_nas.search.proposal import Known, Predict, Proposal
from llama_nas.space import SearchSpace

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Linas:
    """variant: `strict` is the authors' procedure as released (DyNAS-T), `default` ours; see docs/search.md.

    population, generations: of the inner NSGA-II on predictions. Size is exact, never predicted.
    """

    variant: str
    population: int
    generations: int
    operators: nsga.Operators
    uses_predictor = True

    def first(self, space: SearchSpace, goals: Goals, count: int, rng: np.random.Generator) -> Proposal:
        """strict: uniform per gene, repeats kept. default: `sampling.spread`."""
        if self.variant == "strict":
            return Proposal(sampling.uniform(space, count, rng), ["random"] * count)
        return Proposal(*sampling.spread(space, goals, count, rng))

    def next(
        self,
        space: SearchSpace,
        goals: Goals,
        known: Known,
        count: int,
        predict: Predict | None,
        rng: np.random.Generator,
    ) -> Proposal:
        """strict: the whole last population as it is, evaluated networks included.

        default: only new networks: those of the last population, then the best others the search met, then random ones.
        """
        assert predict is not None

        def objectives(genotypes: np.ndarray) -> np.ndarray:
            return goals.objectives(space, genotypes, predict(genotypes))

        def violation(genotypes: np.ndarray, objectives: np.ndarray) -> np.ndarray:
            return goals.violation(space, genotypes, objectives[:, -1])

        history = nsga.nsga2(
            space,
            objectives,
            sampling.uniform(space, self.population, rng),
            self.population,
            self.generations,
            self.operators,
            self.variant,
            int(rng.integers(2**63)),
            violation,
        )
        last = history[-1]
        if self.variant == "strict":
            return Proposal(last.genotypes, ["nsga2"] * len(last.genotypes), last.objectives[:, -1], history)

        evaluated = set(encoding.subnet_ids(space, known.genotypes))
        preferred = last.genotypes[nsga.by_rank_and_crowding(last.objectives, last.violation)]
        picked = _new(space, preferred[goals.fits(space, preferred)], evaluated)[:count]
        taken = evaluated.union(encoding.subnet_ids(space, picked))
        met = _new(space, np.concatenate([generation.genotypes for generation in history]), taken)
        met = met[goals.fits(space, met)]
        values = objectives(met)
        refill = met[nsga.by_rank_and_crowding(values, violation(met, values))][: count - len(picked)]
        taken.update(encoding.subnet_ids(space, refill))
        rest = sampling.unseen(space, count - len(picked) - len(refill), taken, rng, goals)
        origins = ["nsga2"] * len(picked) + ["refill"] * len(refill) + ["random"] * len(rest)
        genotypes = np.concatenate([picked, refill, rest])
        return Proposal(genotypes, origins, predict(genotypes), history)


def _new(space: SearchSpace, genotypes: np.ndarray, known: set[str]) -> np.ndarray:
    """The distinct networks that are not in `known`, in the order given, canonical, int [<= n, g]."""
    genotypes = encoding.canonical(space, genotypes)
    first: dict[str, int] = {}
    for i, subnet_id in enumerate(encoding.subnet_ids(space, genotypes)):
        if subnet_id not in known:
            first.setdefault(subnet_id, i)
    return genotypes[list(first.values())]
