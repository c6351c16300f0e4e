"""The search algorithms by their name in the config (`search.algorithm`)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from llama_nas.search import encoding, nsga, sampling
from llama_nas.search.additive import Additive
from llama_nas.search.goals import Goals
from llama_nas.search.linas import Linas
from llama_nas.search.nsga import PAPER, Operators
from llama_nas.search.proposal import Algorithm, Known, Predict, Proposal
from llama_nas.space import SearchSpace


def algorithm(
    name: str, variant: str, population: int, generations: int = 1, operators: Operators = PAPER
) -> Algorithm:
    """variant, generations: read by LINAS alone. generations, operators: of no meaning in a first round."""
    if name == "linas":
        return Linas(variant, population, generations, operators)
    if name == "nsga2":
        return Nsga2(population, operators)
    return Random() if name == "random" else Additive()


@dataclass(frozen=True)
class Nsga2:
    """NSGA-II on real evaluations alone: what a search is worth without a predictor.

    It has what LINAS's `default` has: a first round spread over the sizes, discrete mutation, no network twice.
    """

    population: int
    operators: Operators
    uses_predictor = False

    def first(self, space: SearchSpace, goals: Goals, count: int, rng: np.random.Generator) -> Proposal:
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
        parents = self._survivors(space, goals, known)
        fits = partial(goals.fits, space)
        children = nsga.mate(space, parents, count, self.operators, "default", known.genotypes, rng, fits)
        taken = encoding.subnet_ids(space, np.concatenate([known.genotypes, children]))
        rest = sampling.unseen(space, count - len(children), taken, rng, goals)
        origins = ["nsga2"] * len(children) + ["random"] * len(rest)
        return Proposal(np.concatenate([children, rest]), origins)

    def _survivors(self, space: SearchSpace, goals: Goals, known: Known) -> nsga.Generation:
        """The population after the last round: the rounds' survivors once more, one round after the other."""
        ties = np.random.default_rng(0)  # the same each time: earlier rounds must end as they did
        genotypes, objectives = known.genotypes[:0], known.objectives[:0]
        for round_number in np.unique(known.rounds):
            of_round = known.rounds == round_number
            genotypes = np.concatenate([genotypes, known.genotypes[of_round]])
            objectives = np.concatenate([objectives, known.objectives[of_round]])
            violation = goals.violation(space, genotypes, objectives[:, -1])
            survivors = nsga.survive(genotypes, objectives, violation, self.population, ties)
            genotypes, objectives = survivors.genotypes, survivors.objectives
        return survivors


@dataclass(frozen=True)
class Random:
    """Distinct networks, uniform per gene (in a small space, per network): the least that a search must beat."""

    uses_predictor = False

    def first(self, space: SearchSpace, goals: Goals, count: int, rng: np.random.Generator) -> Proposal:
        return self._draw(space, goals, count, [], rng)

    def next(
        self,
        space: SearchSpace,
        goals: Goals,
        known: Known,
        count: int,
        predict: Predict | None,
        rng: np.random.Generator,
    ) -> Proposal:
        return self._draw(space, goals, count, encoding.subnet_ids(space, known.genotypes), rng)

    def _draw(
        self, space: SearchSpace, goals: Goals, count: int, known: list[str], rng: np.random.Generator
    ) -> Proposal:
        drawn = sampling.unseen(space, count, known, rng, goals)
        return Proposal(drawn, ["random"] * len(drawn))
