"""What a search algorithm is: it says what to evaluate first, and what next, given all real evaluations so far.

An algorithm keeps no state between rounds: it reads everything from the evaluations, so that a search goes on from
its artifacts. Objectives are minimised, [n, m]: exact costs, and last the metric (`goals.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from llama_nas.search.goals import Goals
from llama_nas.search.nsga import Generation
from llama_nas.space import SearchSpace

Predict = Callable[[np.ndarray], np.ndarray]  # genotypes [n, g] -> predicted metric, minimised, [n]


@dataclass(frozen=True)
class Known:
    """What has been evaluated for real: genotypes [n, g], minimised objectives [n, m] and the round of each, [n]."""

    genotypes: np.ndarray
    objectives: np.ndarray
    rounds: np.ndarray


@dataclass(frozen=True)
class Proposal:
    """The next candidates [n, g] with the origin of each, and what they were proposed with."""

    genotypes: np.ndarray
    origins: list[str]
    predicted: np.ndarray | None = None  # the metric expected of each, minimised, [n]; NaN where nothing was
    generations: Sequence[Generation] = field(default_factory=list)  # of an inner NSGA-II run


class Algorithm(Protocol):
    """`count` is how many networks to propose; fewer come back only where the algorithm or the space has no more."""

    uses_predictor: bool

    def first(self, space: SearchSpace, goals: Goals, count: int, rng: np.random.Generator) -> Proposal: ...

    def next(
        self,
        space: SearchSpace,
        goals: Goals,
        known: Known,
        count: int,
        predict: Predict | None,
        rng: np.random.Generator,
    ) -> Proposal:
        """predict: for an algorithm that `uses_predictor`, fitted on `known`."""
        ...


def due(population: int, rounds: int, known: Known) -> int:
    """How many networks to propose after so many rounds: a population, and what earlier rounds left over."""
    return (rounds + 1) * population - len(known.rounds)
