"""LINAS (arXiv 2202.12954): between real evaluations, NSGA-II searches a predictor and says what to evaluate next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llama_nas.core.space import SearchSpace
from llama_nas.search import encoding
from llama_nas.search.algorithms import nsga2, sampling
from llama_nas.search.algorithms.interface import Generation, Proposal, State
from llama_nas.search.settings import AlgorithmSettings, Evolution


@dataclass(frozen=True)
class Linas:
    """The variant `strict` is the authors' procedure as released (DyNAS-T), `default` ours (docs/design/search.md).

    The inner NSGA-II predicts the metric alone: costs are exact.
    """

    settings: AlgorithmSettings
    evolution: Evolution | None = None
    uses_predictor = True

    def first(self, state: State) -> Proposal:
        """strict: uniform per gene, repeats kept. default: `sampling.spread`."""
        if self.settings.variant == "strict":
            return Proposal(sampling.uniform(state.space, state.count, state.rng), ["random"] * state.count)
        return Proposal(*sampling.spread(state.space, state.goals, state.count, state.rng))

    def next(self, state: State) -> Proposal:
        """strict: the whole last population as it is, evaluated networks included.

        default: only new networks: those of the last population, then the best others the search met, then random ones.
        """
        history = self._search_predictions(state)
        if self.settings.variant == "strict":
            last = history[-1]
            return Proposal(last.genotypes, ["nsga2"] * len(last.genotypes), last.objectives[:, -1], history)
        return self._new_networks(state, history)

    def _search_predictions(self, state: State) -> list[Generation]:
        """Every generation of the inner NSGA-II."""
        assert self.evolution is not None
        space, goals, population = state.space, state.goals, self.settings.population

        def violation(genotypes: np.ndarray, objectives: np.ndarray) -> np.ndarray:
            return goals.violation(space, genotypes, objectives[:, -1])

        return nsga2.nsga2(
            space,
            lambda genotypes: _objectives(state, genotypes),
            sampling.uniform(space, population, state.rng),
            population,
            self.evolution,
            self.settings.variant,
            int(state.rng.integers(2**63)),
            violation,
        )

    def _new_networks(self, state: State, history: list[Generation]) -> Proposal:
        space, goals, count, last = state.space, state.goals, state.count, history[-1]
        evaluated = set(encoding.subnet_ids(space, state.known.genotypes))
        preferred = last.genotypes[nsga2.by_rank_and_crowding(last.objectives, last.violation)]
        picked = _new(space, preferred[goals.fits(space, preferred)], evaluated)[:count]
        taken = evaluated.union(encoding.subnet_ids(space, picked))
        met = _new(space, np.concatenate([generation.genotypes for generation in history]), taken)
        met = met[goals.fits(space, met)]
        values = _objectives(state, met)
        order = nsga2.by_rank_and_crowding(values, goals.violation(space, met, values[:, -1]))
        refill = met[order][: count - len(picked)]
        taken.update(encoding.subnet_ids(space, refill))
        rest = sampling.unseen(space, count - len(picked) - len(refill), taken, state.rng, goals)
        origins = ["nsga2"] * len(picked) + ["refill"] * len(refill) + ["random"] * len(rest)
        genotypes = np.concatenate([picked, refill, rest])
        return Proposal(genotypes, origins, _predict(state, genotypes), history)


def _predict(state: State, genotypes: np.ndarray) -> np.ndarray:
    assert state.predict is not None
    return state.predict(genotypes)


def _objectives(state: State, genotypes: np.ndarray) -> np.ndarray:
    return state.goals.objectives(state.space, genotypes, _predict(state, genotypes))


def _new(space: SearchSpace, genotypes: np.ndarray, known: set[str]) -> np.ndarray:
    """The distinct networks that are not in `known`, in the order given, canonical, int [<= n, g]."""
    genotypes = encoding.canonical(space, genotypes)
    first: dict[str, int] = {}
    for i, subnet_id in enumerate(encoding.subnet_ids(space, genotypes)):
        if subnet_id not in known:
            first.setdefault(subnet_id, i)
    return genotypes[list(first.values())]
