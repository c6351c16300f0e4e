"""What a search minimises and what it may propose: objectives and constraints.

An objective is the task's metric, predicted before it is measured, or a cost that is a sum over layers and hence known
exactly of every network (`core/costs.py`): parameters, bytes of the weights in a precision, or what a table of layer
costs says that was measured on the target device.

Networks beyond a constraint compare by Deb's rules (NSGA-II, Deb et al. 2002, section VI): any network within the
constraints beats any beyond them; of two beyond them, the one with the smaller violation is better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llama_nas.core.costs import UNITS, LayerCosts
from llama_nas.core.errors import UserError
from llama_nas.core.pareto import non_dominated
from llama_nas.core.space import SearchSpace, check_max_size
from llama_nas.search import encoding
from llama_nas.search.settings import GoalSettings
from llama_nas.search.tables import Task


@dataclass(frozen=True)
class Goals:
    """The goals of one task's search. Objectives, [n, costs + 1], are minimised: the costs, and last the metric.

    size: what a first round is spread over, and what `max_size` limits. worst: the largest minimised metric allowed.
    """

    costs: tuple[LayerCosts, ...]
    size: LayerCosts
    max_size: float = math.inf
    worst: float = math.inf

    def objectives(self, space: SearchSpace, genotypes: np.ndarray, metric: np.ndarray) -> np.ndarray:
        """Of genotypes [n, g] and their minimised metric [n], predicted or measured."""
        return np.column_stack([*(encoding.cost_of(cost, space, genotypes) for cost in self.costs), metric])

    def fits(self, space: SearchSpace, genotypes: np.ndarray) -> np.ndarray:
        """Which networks are at most `max_size`, bool [n]; no other is ever proposed."""
        return encoding.cost_of(self.size, space, genotypes) <= self.max_size

    def violation(self, space: SearchSpace, genotypes: np.ndarray, metric: np.ndarray) -> np.ndarray:
        """How far each network is beyond the constraints, [n], 0 within: excess over max_size, as a share of it, plus
        what the metric lacks."""
        excess = np.maximum(encoding.cost_of(self.size, space, genotypes) / self.max_size - 1, 0)
        return excess + np.maximum(metric - self.worst, 0)

    def front(self, space: SearchSpace, genotypes: np.ndarray, metric: np.ndarray) -> np.ndarray:
        """Mask of the non-dominated networks within the constraints; if there are none, of those nearest to them."""
        violation = self.violation(space, genotypes, metric)
        nearest = np.flatnonzero(violation <= violation.min(initial=math.inf))
        mask = np.zeros(len(genotypes), dtype=bool)
        mask[nearest[non_dominated(self.objectives(space, genotypes[nearest], metric[nearest]))]] = True
        return mask


def resolve(settings: GoalSettings, space: SearchSpace, task: Task) -> Goals:
    """The goals of a task's search on a space.

    Raises UserError, naming the key, for a constraint that no network can meet or a table of another model.
    """
    costs = tuple(_cost(name, settings, space) for name in settings.objectives if name != "metric")
    worst = math.inf
    if settings.min_accuracy is not None:
        if not task.higher_is_better:
            raise UserError(
                f"config.yaml: tasks.{task.name}.min_accuracy: the task is judged by {task.metric}, of which less "
                "is better"
            )
        worst = -settings.min_accuracy
    if settings.max_size is None:
        return Goals(costs, encoding.parameter_costs(space), worst=worst)
    limit = check_max_size(settings.max_size, settings.precision, space)
    return Goals(costs, encoding.size_costs(space, settings.precision), limit, worst)


def _cost(name: str, settings: GoalSettings, space: SearchSpace) -> LayerCosts:
    if name == "parameters":
        return encoding.parameter_costs(space)
    if name == "size":
        return encoding.size_costs(space, settings.precision)
    if name not in UNITS:
        raise UserError(f"--objectives {name}: is not one of metric, {', '.join(UNITS)}")
    tables = _tables(settings.measured)
    if name not in tables:
        raise UserError(f"--measured: {name}=FILE is missing, the objective {name} needs a table of layer costs")
    return LayerCosts.read(name, tables[name], space)


def _tables(texts: Sequence[str]) -> dict[str, Path]:
    """The file of each measured objective, from `NAME=FILE` each."""
    tables = {}
    for text in texts:
        name, _, file = text.partition("=")
        if not name or not file:
            raise UserError(f"--measured '{text}': expected NAME=FILE")
        tables[name] = Path(file)
    return tables
