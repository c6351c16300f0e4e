"""Random search: the least that another algorithm must beat."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from llama_nas.search import encoding
from llama_nas.search.algorithms import sampling
from llama_nas.search.algorithms.interface import Proposal, State
from llama_nas.search.settings import AlgorithmSettings, Evolution


@dataclass(frozen=True)
class RandomSearch:
    """Distinct networks, uniform per gene (in a small space, per network)."""

    settings: AlgorithmSettings
    evolution: Evolution | None = None
    uses_predictor = False

    def first(self, state: State) -> Proposal:
        return self._draw(state, [])

    def next(self, state: State) -> Proposal:
        return self._draw(state, encoding.subnet_ids(state.space, state.known.genotypes))

    def _draw(self, state: State, known: Collection[str]) -> Proposal:
        drawn = sampling.unseen(state.space, state.count, known, state.rng, state.goals)
        return Proposal(drawn, ["random"] * len(drawn))
