"""What a search algorithm is: it says what to evaluate first, and what next, given all real evaluations so far.

An algorithm keeps no state between rounds: it reads everything from the evaluations, so that a search goes on from
its artifacts. Objectives are minimised, [n, m]: exact costs, and last the metric (`goals.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from llama_nas.core.space import SearchSpace
from llama_nas.search.goals import Goals
from llama_nas.search.settings import AlgorithmSettings, Evolution

Predict = Callable[[np.ndarray], np.ndarray]  # genotypes [n, g] -> predicted metric, minimised, [n]


@dataclass(frozen=True)
class Generation:
    """One population after survival: genotypes [p, g], minimised objectives [p, m], the others [p].

    Networks beyond the constraints are ranked by their violation, behind all others, and have no crowding distance.
    """

    genotypes: np.ndarray
    objectives: np.ndarray
    violation: np.ndarray
    rank: np.ndarray
    crowding: np.ndarray


@dataclass(frozen=True)
class Known:
    """What has been evaluated for real: genotypes [n, g], minimised objectives [n, m] and the round of each, [n]."""

    genotypes: np.ndarray
    objectives: np.ndarray
    rounds: np.ndarray

    @classmethod
    def nothing(cls, space: SearchSpace, goals: Goals) -> Known:
        """Before the first round."""
        genes, objectives = 1 + space.num_layers, len(goals.costs) + 1
        return cls(np.empty((0, genes), dtype=int), np.empty((0, objectives)), np.empty(0, dtype=int))


@dataclass(frozen=True)
class State:
    """A search between two rounds.

    count: how many networks to propose; fewer come back only where the algorithm or the space has no more.
    predict: fitted on `known`, for an algorithm that `uses_predictor`.
    """

    space: SearchSpace
    goals: Goals
    known: Known
    count: int
    rng: np.random.Generator
    predict: Predict | None = None


@dataclass(frozen=True)
class Proposal:
    """The next candidates [n, g] with the origin of each, and what they were proposed with."""

    genotypes: np.ndarray
    origins: list[str]
    predicted: np.ndarray | None = None  # the metric expected of each, minimised, [n]; NaN where nothing was
    generations: Sequence[Generation] = field(default_factory=list)  # of an inner NSGA-II run


class Algorithm(Protocol):
    """One file of this folder, and a line in its `ALGORITHMS`."""

    uses_predictor: bool

    def __init__(self, settings: AlgorithmSettings, evolution: Evolution | None = None) -> None:
        """evolution: None before a first round, where it has no meaning."""

    def first(self, state: State) -> Proposal:
        """The first round's candidates; nothing is known."""
        ...

    def next(self, state: State) -> Proposal:
        """The candidates of the round after the last one known."""
        ...


def due(population: int, rounds: int, known: Known) -> int:
    """How many networks to propose after so many rounds: a population, and what earlier rounds left over."""
    return (rounds + 1) * population - len(known.rounds)
