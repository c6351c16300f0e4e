"""Settings of a search: each field is a key of the config and an option of the command line."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llama_nas.core.precisions import Precision


@dataclass(frozen=True)
class AlgorithmSettings:
    """Which algorithm proposes, and how many networks a round.

    Args:
        algorithm: a name of `search/algorithms`
        variant: of linas: the authors' procedure (strict) or this project's (default)
        population: networks evaluated per round
    """

    algorithm: str
    variant: Literal["strict", "default"]
    population: int


@dataclass(frozen=True)
class Evolution:
    """NSGA-II's settings; eta is the distribution index of a simulated operator.

    Args:
        generations: NSGA-II generations on the predictor
        crossover_probability: of simulated binary crossover
        crossover_eta: distribution index of the crossover
        mutation_probability: of polynomial mutation, per individual
        mutation_eta: distribution index of the mutation
    """

    generations: int
    crossover_probability: float
    crossover_eta: float
    mutation_probability: float
    mutation_eta: float


@dataclass(frozen=True)
class GoalSettings:
    """What a search minimises and keeps to, as the config declares it.

    Args:
        objectives: the task's metric, and costs: parameters, size (bytes of the weights), or a measured one
        precision: of the objective size and of max_size
        max_size: largest weights of a candidate in that precision: 9GB, 8.5GiB, 900MB
        min_accuracy: least metric of a network of the front
        measured: NAME=FILE for each measured objective: its table of layer costs
    """

    objectives: Sequence[str] = ("metric", "parameters")
    precision: Precision = "fp16"
    max_size: str | None = None
    min_accuracy: float | None = None
    measured: Sequence[str] = ()
