"""A small search: its spaces, a synthetic task of 500 items, and a run by the functions of the stages."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
from tests.support.judging import close_search, write_items

from llama_nas.core.artifacts import derived_seed, read_table
from llama_nas.core.shape import ModelShape
from llama_nas.core.space import SearchSpace, ungrouped
from llama_nas.search import encoding
from llama_nas.search.algorithms import make
from llama_nas.search.algorithms.interface import Algorithm
from llama_nas.search.gather import gather
from llama_nas.search.goals import Goals, resolve
from llama_nas.search.propose import propose, sample
from llama_nas.search.settings import AlgorithmSettings, Evolution, GoalSettings
from llama_nas.search.tables import Task

SHAPE = ModelShape(
    model_type="llama",
    hidden_size=64,
    intermediate_size=256,
    num_hidden_layers=12,
    num_attention_heads=4,
    num_key_value_heads=4,
    head_dim=16,
    vocab_size=512,
)
SPACE = SearchSpace.declare(SHAPE, [9, 10, 12], [256, 128])
THREE_WIDTHS = SearchSpace.declare(SHAPE, [6, 12], [256, 64, 128])
TASK = Task("toy", "acc", True)
FULL = "00000000-0000"  # the id of the full network of SPACE


def small_space(layers: int, depths: Sequence[int], widths: Sequence[int]) -> SearchSpace:
    """A space on a model like SHAPE with other layers."""
    shape = dataclasses.replace(SHAPE, num_hidden_layers=layers, intermediate_size=widths[0])
    return SearchSpace.declare(shape, depths, widths)


def evolution(generations: int = 10) -> Evolution:
    """NSGA-II with the paper's operators (section 3.1)."""
    return Evolution(
        generations, crossover_probability=0.9, crossover_eta=15.0, mutation_probability=0.02, mutation_eta=20.0
    )


def goals(space: SearchSpace = SPACE, **declared) -> Goals:
    """The goals that the config declares, on a space."""
    return resolve(GoalSettings(**declared), space, TASK)


def algorithm(name: str, population: int = 20, generations: int = 5, variant: str = "default") -> Algorithm:
    """A search algorithm by its name."""
    return make(AlgorithmSettings(name, variant, population), evolution(generations))


def kept_one_hot(space: SearchSpace, genotypes: np.ndarray) -> np.ndarray:
    """`encoding.one_hot` with the columns of layers that are not kept all 0: [n, sum(bounds)]."""
    kept = np.repeat(encoding.active_genes(space, genotypes), space.bounds, axis=1)
    return encoding.one_hot(space, genotypes) * kept


class Scored(Protocol):
    """A task that scores every network of a space without computing it."""

    space: SearchSpace
    higher_is_better: bool

    def accuracy(self, ids: list[str]) -> np.ndarray:
        """The score of each network, [n]."""
        ...


class SyntheticTask:
    """Accuracy (or loss) of every network of a space: layers of unequal worth, pairs that interact, and item noise.

    The noise belongs to the network, as that of a fixed set of items does: the same network always scores the same.
    """

    def __init__(self, space: SearchSpace = SPACE, seed: int = 0, noise: float = 0.01, higher_is_better: bool = True):
        rng = np.random.default_rng(seed)
        layers = space.num_layers
        width, depth = rng.exponential(size=layers), rng.exponential(size=layers)
        self.space, self.seed, self.noise, self.higher_is_better = space, seed, noise, higher_is_better
        self.width = 0.25 * width / width.sum()
        self.depth = 0.12 * depth / depth.sum()
        self.pairs = 0.002 * rng.normal(size=(layers, layers))

    def accuracy(self, ids: list[str]) -> np.ndarray:
        codes = [ungrouped(subnet_id) for subnet_id in ids]
        wide = np.array([[code == "0" for code in of_network] for of_network in codes], dtype=float)
        kept = np.array([[code != "x" for code in of_network] for of_network in codes], dtype=float)
        noise = [np.random.default_rng(derived_seed(self.seed, of_network)).normal() for of_network in codes]
        pairs = np.einsum("ni,ij,nj->n", wide, self.pairs, wide)
        accuracy = 0.35 + wide @ self.width + kept @ self.depth + pairs + self.noise * np.array(noise)
        return accuracy if self.higher_is_better else -accuracy


class Run:
    """A search in a folder, by the functions of the stages, called as the workflow calls them."""

    def __init__(
        self,
        folder: Path,
        task: Scored | None = None,
        *,
        algorithm: str = "linas",
        variant: str = "default",
        population: int = 12,
        generations: int = 10,
        predictor: str = "ridge",
        goals: GoalSettings | None = None,
        search_items: int | None = None,
        seed: int = 1,
    ):
        self.folder, self.task = folder, task or SyntheticTask()
        self.algorithm = AlgorithmSettings(algorithm, variant, population)
        self.evolution, self.predictor = evolution(generations), predictor
        self.search_items, self.seed = search_items, seed
        (folder / "task").mkdir(parents=True)
        description = {
            "task": "toy",
            "metric": "acc",
            "higher_is_better": self.task.higher_is_better,
            "metrics": ["acc", "acc_norm"],
            "items": 500,
            "search_items_range": [2, 498],
        }
        (folder / "task" / "task.json").write_text(json.dumps(description))
        write_items(folder / "task", 500)
        self.task.space.write(folder / "space.json")
        self.inputs = {"space": folder / "space.json", "task": folder / "task"}
        self.goals = goals or GoalSettings()

    def path(self, round_number: int, name: str) -> Path:
        """A file of a round."""
        return self.folder / f"round_{round_number}" / name

    def sample(self) -> None:
        """Choose the candidates of round 1."""
        sample(
            self.path(1, "candidates.csv"),
            **self.inputs,
            algorithm=self.algorithm,
            goals=self.goals,
            seed=self.seed,
            search_items=self.search_items,
        )

    def propose(self, round_number: int) -> None:
        """Choose the candidates of a later round, from the evaluations of the round before."""
        propose(
            self.path(round_number, "candidates.csv"),
            **self.inputs,
            round=round_number,
            evaluations=self.path(round_number - 1, "evaluations.csv"),
            algorithm=self.algorithm,
            evolution=self.evolution,
            goals=self.goals,
            predictor=self.predictor,
            seed=self.seed,
            fitted=self.path(round_number, "predictor.json"),
            generations_table=self.path(round_number, "generations.csv"),
        )

    def evaluate(self, round_number: int, shards: int = 3) -> list[Path]:
        """Write the shards that `llama-nas evaluate` writes of a round's candidates."""
        candidates = read_table(self.path(round_number, "candidates.csv"))
        ids = candidates["subnet_id"].tolist()
        accuracy = self.task.accuracy(ids) if ids else np.empty(0)
        table = pd.DataFrame({"candidate": candidates["candidate"], "subnet_id": ids})
        table["acc"], table["acc_stderr"] = accuracy, 0.02
        table["acc_norm"], table["acc_norm_stderr"] = np.ones(len(ids), dtype=int), np.nan
        table["items"] = 500
        paths = [self.path(round_number, f"shard_{s}-of-{shards}.csv") for s in range(1, shards + 1)]
        for s, path in enumerate(paths):
            table.iloc[s * len(ids) // shards : (s + 1) * len(ids) // shards].to_csv(path, index=False)
        return paths

    def gather(self, round_number: int, shards: Sequence[Path]) -> None:
        """Put a round's shards behind all earlier evaluations."""
        gather(
            self.path(round_number, "evaluations.csv"),
            **self.inputs,
            round=round_number,
            candidates=self.path(round_number, "candidates.csv"),
            shards=shards,
            predictions=self.path(round_number, "predictions.json"),
            earlier=self.path(round_number - 1, "evaluations.csv") if round_number > 1 else None,
        )

    def front(self, round_number: int) -> pd.DataFrame:
        """The front of all evaluations up to a round."""
        inputs = {**self.inputs, "goals": self.goals, "evaluations": self.path(round_number, "evaluations.csv")}
        return close_search(self.folder, inputs, self.task.accuracy, base=0.7)[0]

    def all(self, rounds: int) -> pd.DataFrame:
        """The whole run; all its evaluations."""
        for round_number in range(1, rounds + 1):
            if round_number == 1:
                self.sample()
            else:
                self.propose(round_number)
            self.gather(round_number, self.evaluate(round_number))
        self.front(rounds)
        return read_table(self.path(rounds, "evaluations.csv"))

    def bytes(self) -> dict[str, bytes]:
        """Every file of the run."""
        return {str(p.relative_to(self.folder)): p.read_bytes() for p in self.folder.rglob("*") if p.is_file()}
