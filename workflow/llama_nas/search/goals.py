"""What a search minimises and what it may propose: objectives and constraints.

An objective is the task's metric, predicted before it is measured, or a cost that is a sum over layers and hence known
exactly of every network (`encoding.LayerCosts`): parameters, bytes of the weights in a precision, seconds by a table of
layer costs measured on the target device (`llama-nas measure-costs`).

Networks beyond a constraint compare by Deb's rules (NSGA-II, Deb et al. 2002, section VI): any network within the
constraints beats any beyond them; of two beyond them, the one with the smaller violation is better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llama_nas.artifacts import read_json
from llama_nas.errors import UserError
from llama_nas.pareto import non_dominated
from llama_nas.search import encoding
from llama_nas.search.encoding import LayerCosts
from llama_nas.search.records import Task
from llama_nas.space import ModelShape, SearchSpace, format_bytes
from llama_nas.units import parse_size


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
        return np.column_stack([*(cost.of(space, genotypes) for cost in self.costs), metric])

    def fits(self, space: SearchSpace, genotypes: np.ndarray) -> np.ndarray:
        """Which networks are at most `max_size`, bool [n]; no other is ever proposed."""
        return self.size.of(space, genotypes) <= self.max_size

    def violation(self, space: SearchSpace, genotypes: np.ndarray, metric: np.ndarray) -> np.ndarray:
        """How far each network is beyond the constraints, [n], 0 within: excess over max_size, as a share of it, plus
        what the metric lacks."""
        excess = np.maximum(self.size.of(space, genotypes) / self.max_size - 1, 0)
        return excess + np.maximum(metric - self.worst, 0)

    def front(self, space: SearchSpace, genotypes: np.ndarray, metric: np.ndarray) -> np.ndarray:
        """Mask of the non-dominated networks within the constraints; if there are none, of those nearest to them."""
        violation = self.violation(space, genotypes, metric)
        nearest = np.flatnonzero(violation <= violation.min(initial=math.inf))
        mask = np.zeros(len(genotypes), dtype=bool)
        mask[nearest[non_dominated(self.objectives(space, genotypes[nearest], metric[nearest]))]] = True
        return mask


@dataclass(frozen=True)
class Declared:
    """Goals as the config declares them (keys of `search`, and `min_accuracy` of a task).

    precision: of the objective `size` and of `max_size` (as `9GB`). phase, costs: of the objective `latency`, the
    phase and the table written by `llama-nas measure-costs`.
    """

    objectives: Sequence[str] = ("metric", "parameters")
    precision: str = "fp16"
    max_size: str | None = None
    min_accuracy: float | None = None
    phase: str = "decode"
    costs: Path | None = None

    def on(self, space: SearchSpace, shape: ModelShape, task: Task) -> Goals:
        """Raises UserError, naming the key, for a constraint that no network can meet or a table of another model."""
        costs = tuple(self._cost(name, space, shape) for name in self.objectives if name != "metric")
        worst = math.inf
        if self.min_accuracy is not None:
            if not task.higher_is_better:
                raise UserError(
                    f"config.yaml: tasks.{task.name}.min_accuracy: the task is judged by {task.metric}, of which less "
                    "is better"
                )
            worst = -self.min_accuracy
        if self.max_size is None:
            return Goals(costs, encoding.parameter_costs(space, shape), worst=worst)
        limit = parse_size(self.max_size, "config.yaml: search.max_size")
        size = encoding.size_costs(space, shape, self.precision)
        smallest = size.smallest(space)
        if limit < smallest:
            raise UserError(
                f"config.yaml: search.max_size {self.max_size}: the smallest network of the space has "
                f"{format_bytes(int(smallest))} in {self.precision}"
            )
        return Goals(costs, size, limit, worst)

    def _cost(self, name: str, space: SearchSpace, shape: ModelShape) -> LayerCosts:
        if name == "latency":
            return self._latency(space, shape)
        if name == "size":
            return encoding.size_costs(space, shape, self.precision)
        return encoding.parameter_costs(space, shape)

    def _latency(self, space: SearchSpace, shape: ModelShape) -> LayerCosts:
        if self.costs is None:
            raise UserError("--costs: is missing, the objective latency needs a table of layer costs")
        table = read_json(self.costs)
        try:
            phase = table["phases"][self.phase]
            layers = tuple(phase["layer_seconds"][str(width)] for width in space.widths)
            measured = ModelShape(**table["shape"])
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{self.costs}: no costs of {self.phase} for widths {list(space.widths)} ({error})"
            ) from None
        if measured != shape:
            raise UserError(
                f"{self.costs}: was measured on a model of another shape; run `llama-nas measure-costs` again"
            )
        if min(layers) <= 0:
            raise UserError(
                f"{self.costs}: a layer that takes {min(layers):.1e} s in {self.phase} is noise; delete the file and "
                "measure on an idle machine, or with more costs.repeats or a larger costs.batch_size"
            )
        return LayerCosts("latency", phase["overhead_seconds"], layers)
