"""The search algorithms by their name in the config (`search.algorithm`)."""

from __future__ import annotations

from llama_nas.core.errors import UserError
from llama_nas.search.algorithms.additive import Additive
from llama_nas.search.algorithms.interface import Algorithm
from llama_nas.search.algorithms.linas import Linas
from llama_nas.search.algorithms.nsga2 import Nsga2
from llama_nas.search.algorithms.random_search import RandomSearch
from llama_nas.search.settings import AlgorithmSettings, Evolution

ALGORITHMS: dict[str, type[Algorithm]] = {
    "linas": Linas,
    "nsga2": Nsga2,
    "random": RandomSearch,
    "additive": Additive,
}


def make(settings: AlgorithmSettings, evolution: Evolution | None = None) -> Algorithm:
    """The algorithm of a name; raises UserError for an unknown one. evolution: None before a first round."""
    if settings.algorithm not in ALGORITHMS:
        known = ", ".join(ALGORITHMS)
        raise UserError(f"config.yaml: search.algorithm '{settings.algorithm}' is not known; known: {known}")
    return ALGORITHMS[settings.algorithm](settings, evolution)
