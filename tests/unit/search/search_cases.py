"""What the tests of the search share: spaces, a synthetic task, and a run by the stage functions."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from hypothesis import strategies as st
from llama_nas.search.sample import sample_candidates

from llama_nas.core.artifacts import derived_seed, read_table
from llama_nas.core.space import ModelShape, SearchSpace
from llama_nas.search import encoding, nsga
from llama_nas.search.front import write_front
from llama_nas.search.gather import fit_predictor
from llama_nas.search.goals import Declared, Goals
from llama_nas.search.propose import propose_candidates
from llama_nas.search.tables import Task

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 12,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 512,
}
SHAPE = ModelShape.from_config(CONFIG)
SPACE = SearchSpace.for_model(SHAPE, [9, 10, 12], [256, 128])
THREE_WIDTHS = SearchSpace.for_model(SHAPE, [6, 12], [256, 64, 128])
OPERATORS = nsga.PAPER
TASK = Task("toy", "acc", True)


def goals(space: SearchSpace = SPACE, **declared) -> Goals:
    return Declared(**declared).on(space, SHAPE, TASK)


def genotypes_in(space: SearchSpace):
    rows = st.tuples(*[st.integers(0, int(bound) - 1) for bound in space.bounds])
    return st.lists(rows, min_size=1, max_size=8).map(np.array)


def kept_one_hot(space: SearchSpace, genotypes: np.ndarray) -> np.ndarray:
    """`encoding.one_hot` with the columns of layers that are not kept all 0: [n, sum(bounds)]."""
    kept = np.repeat(encoding.active_genes(space, genotypes), space.bounds, axis=1)
    return encoding.one_hot(space, genotypes) * kept


def stock_nsga2(space: SearchSpace, objectives, start, generations: int, operators, excess=None):
    """pymoo's NSGA-II with seed 7, set up to go generation by generation. excess: its constraint, at most 0, [n]."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair

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
        crossover=SBX(prob=operators.crossover_probability, eta=operators.crossover_eta, **rounded),
        mutation=PM(prob=operators.mutation_probability, eta=operators.mutation_eta, **rounded),
    )
    stock.setup(Stock(), termination=("n_gen", generations), seed=7)
    return stock


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
        wide = np.array([[code == "0" for code in subnet_id] for subnet_id in ids], dtype=float)
        kept = np.array([[code != "x" for code in subnet_id] for subnet_id in ids], dtype=float)
        noise = [np.random.default_rng(derived_seed(self.seed, i)).normal() for i in ids]
        pairs = np.einsum("ni,ij,nj->n", wide, self.pairs, wide)
        accuracy = 0.35 + wide @ self.width + kept @ self.depth + pairs + self.noise * np.array(noise)
        return accuracy if self.higher_is_better else -accuracy


class Run:
    """A search in a folder, by the stage functions, as the workflow calls them."""

    def __init__(self, folder: Path, task: SyntheticTask | None = None, **changes):
        self.folder, self.task = folder, task or SyntheticTask()
        space = self.task.space
        self.algorithm, self.variant = changes.get("algorithm", "linas"), changes.get("variant", "default")
        self.predictor = changes.get("predictor", "ridge")
        self.population, self.generations = changes.get("population", 12), changes.get("generations", 10)
        self.seed, self.search_items = changes.get("seed", 1), changes.get("search_items")
        self.goals = changes.get("goals", Declared())
        (folder / "model").mkdir(parents=True)
        config = {**CONFIG, "num_hidden_layers": space.num_layers}
        (folder / "model" / "config.json").write_text(json.dumps(config))
        (folder / "task").mkdir()
        description = {
            "task": "toy",
            "metric": "acc",
            "higher_is_better": self.task.higher_is_better,
            "metrics": ["acc", "acc_norm"],
            "items": 500,
            "search_items_range": [2, 498],
        }
        (folder / "task" / "task.json").write_text(json.dumps(description))
        self.space = {
            "model": folder / "model",
            "depths": space.depths,
            "widths": space.widths,
            "depth_selection": "first",
        }
        self.for_front = {**self.space, "task": folder / "task", "goals": self.goals}

    def path(self, round_number: int, name: str) -> Path:
        return self.folder / f"round_{round_number}" / name

    def sample(self) -> None:
        sample_candidates(
            self.path(1, "candidates.csv"),
            **self.space,
            task=self.folder / "task",
            search_items=self.search_items,
            goals=self.goals,
            name=self.algorithm,
            variant=self.variant,
            population=self.population,
            seed=self.seed,
        )

    def evaluate(self, round_number: int, shards: int = 3) -> list[Path]:
        """What `llama-nas evaluate` writes."""
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

    def fit(self, round_number: int, shards: list[Path]) -> None:
        fit_predictor(
            self.path(round_number, "predictor.json"),
            evaluations=self.path(round_number, "evaluations.csv"),
            **self.space,
            task=self.folder / "task",
            round_number=round_number,
            candidates=self.path(round_number, "candidates.csv"),
            shards=shards,
            previous=self.path(round_number - 1, "evaluations.csv") if round_number > 1 else None,
            variant=self.variant,
            predictor=self.predictor,
            seed=self.seed,
        )

    def propose(self, round_number: int) -> None:
        """From the predictor of this round to the candidates of the next one."""
        propose_candidates(
            self.path(round_number + 1, "candidates.csv"),
            history=self.path(round_number + 1, "generations.csv"),
            **self.space,
            task=self.folder / "task",
            round_number=round_number,
            evaluations=self.path(round_number, "evaluations.csv"),
            predictor=self.path(round_number, "predictor.json"),
            goals=self.goals,
            name=self.algorithm,
            variant=self.variant,
            population=self.population,
            generations=self.generations,
            crossover_probability=0.9,
            crossover_eta=15.0,
            mutation_probability=0.02,
            mutation_eta=20.0,
            seed=self.seed,
        )

    def front(self, round_number: int) -> pd.DataFrame:
        output = self.folder / "front.csv"
        evaluations = self.path(round_number, "evaluations.csv")
        write_front(output, **self.for_front, evaluations=evaluations, candidates=None, shards=None)
        return read_table(output)

    def all(self, rounds: int) -> pd.DataFrame:
        """The whole run; all its evaluations."""
        self.sample()
        for round_number in range(1, rounds + 1):
            self.fit(round_number, self.evaluate(round_number))
            if round_number < rounds:
                self.propose(round_number)
        self.front(rounds)
        return read_table(self.path(rounds, "evaluations.csv"))

    def bytes(self) -> dict[str, bytes]:
        return {str(p.relative_to(self.folder)): p.read_bytes() for p in self.folder.rglob("*") if p.is_file()}
