"""What several tests of the search compare with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_nas.core.costs import LayerCosts
from llama_nas.core.space import SearchSpace
from llama_nas.search.settings import Evolution

# Seconds by MLP width, all sums of powers of two. Narrow layers are no faster in a prefill.
WITHOUT = {"prefill": 0.5, "decode": 0.25}
SECONDS = {
    "prefill": {256: 0.125, 128: 0.125, 64: 0.25},
    "decode": {256: 0.03125, 128: 0.015625, 64: 0.0078125},
}


@pytest.fixture
def latency_table(tmp_path) -> Callable[..., Path]:
    """Writes a table of latencies of a space's blocks, as `llama-nas measure-costs` does."""

    def write(space: SearchSpace, phase: str = "prefill") -> Path:
        path = tmp_path / f"latency-{phase}.json"
        of_block = tuple(SECONDS[phase][block.mlp_width] for block in space.blocks)
        LayerCosts("latency", WITHOUT[phase], of_block).write(path, space, {"phase": phase})
        return path

    return write


@pytest.fixture
def stock_nsga2() -> Callable[..., Any]:
    """Makes pymoo's NSGA-II with seed 7, set up to go generation by generation."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair

    def make(space: SearchSpace, objectives, start: np.ndarray, evolution: Evolution, excess=None):
        """excess: the constraint, at most 0 within it, [n]."""

        class Stock(Problem):
            def __init__(self):
                shape = {
                    "n_var": len(space.bounds),
                    "n_obj": objectives(start).shape[1],
                    "n_ieq_constr": int(excess is not None),
                }
                super().__init__(**shape, xl=0, xu=space.bounds - 1, vtype=int)

            def _evaluate(self, X, out, *args, **kwargs):
                out["F"] = objectives(X)
                if excess is not None:
                    out["G"] = excess(X)

        rounded = {"vtype": float, "repair": RoundingRepair()}
        stock = NSGA2(
            pop_size=len(start),
            sampling=start,
            crossover=SBX(prob=evolution.crossover_probability, eta=evolution.crossover_eta, **rounded),
            mutation=PM(prob=evolution.mutation_probability, eta=evolution.mutation_eta, **rounded),
        )
        stock.setup(Stock(), termination=("n_gen", evolution.generations), seed=7)
        return stock

    return make
