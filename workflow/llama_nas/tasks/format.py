"""The compiled-task format: a benchmark's requests as token tries, and what turns log-likelihoods into its metrics.

A *request* asks for the log-likelihood of a continuation: one choice of a question, or one text. Its tokens lie in
a trie, with those of all other requests (`trie.py`). Knows nothing of lm-eval, which made it.

Written as `task.json` (what the task is) and `requests.safetensors` (integers only).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from llama_nas.core.artifacts import atomic_folder, read_json, write_json
from llama_nas.core.errors import UserError
from llama_nas.tasks.trie import TokenTrie, offsets

TASK_FILE = "task.json"
REQUESTS_FILE = "requests.safetensors"
ITEMS_SEED = 1234

CHOICE_METRICS = ("acc", "acc_norm", "acc_bytes")  # share of items whose best choice is a right one
TEXT_METRICS = ("bits_per_byte", "byte_perplexity", "word_perplexity")  # of whole texts, by rolling windows


def search_items_range(subtasks: np.ndarray) -> tuple[int, int]:
    """The fewest and the most items a search may use: one of every subtask is among them, and among the others.

    subtasks: of each item, int [items], as in `CompiledTask`.
    """
    in_order = subtasks[_draw_order(subtasks)]
    places = [np.flatnonzero(in_order == subtask) for subtask in range(in_order.max() + 1)]
    return int(max(own[0] for own in places)) + 1, int(min(own[-1] for own in places))


def _draw_order(subtasks: np.ndarray) -> np.ndarray:
    """Items in the order in which a search takes them: random within a subtask, subtasks evenly mixed; int [items]."""
    rng = np.random.default_rng(ITEMS_SEED)
    sizes = np.bincount(subtasks)
    ranks = np.concatenate([rng.permutation(size) for size in sizes])
    return np.argsort((ranks + 0.5) / sizes[subtasks], kind="stable")


@dataclass(frozen=True)
class CompiledTask:
    """All arrays are integers. R requests, I items, M metrics.

    Items are in lm-eval's order, subtask after subtask; the requests of an item are adjacent, in the order of its
    choices. `characters`, `utf8_bytes` and `correct` are meant for multiple choice, `weights` for texts; the fields of
    the other kind are zero.
    """

    info: dict[str, Any]  # task.json
    trie: TokenTrie
    item_starts: np.ndarray  # [I + 1] first request of each item
    subtasks: np.ndarray  # [I] index into info["tasks"]
    correct: np.ndarray  # [R] 1 where the choice is a right answer
    characters: np.ndarray  # [R] length of the choice
    utf8_bytes: np.ndarray  # [R] length of the choice
    weights: np.ndarray  # [I, M] what a text's log-likelihood is divided by: its words or bytes, per info["metrics"]

    @property
    def name(self) -> str:
        return self.info["task"]

    @property
    def metric(self) -> str:
        """The metric the search optimises."""
        return self.info["metric"]

    @property
    def metrics(self) -> list[str]:
        """All metrics that can be computed, in the order in which they are written."""
        return list(self.info["metrics"])

    @property
    def num_items(self) -> int:
        return len(self.item_starts) - 1

    @property
    def num_requests(self) -> int:
        return int(self.item_starts[-1])

    def random_items(self, count: int) -> CompiledTask:
        """The task with `count` of its items, those that `split` gives to the search."""
        return self.of_items(self.split(count)[0])

    def split(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The `count` items of a search, and the others, held out of it: int, each ascending.

        The same for everyone: the draw depends on the task alone. Subtasks keep their shares. Raises UserError if
        `count` is not in `search_items_range`.
        """
        fewest, most = search_items_range(self.subtasks)
        if not fewest <= count <= most:
            raise UserError(f"config.yaml: tasks.{self.name}.search_items {count} must lie in {fewest}..{most}")
        order = _draw_order(self.subtasks)
        return np.sort(order[:count]), np.sort(order[count:])

    def requests_of(self, items: np.ndarray) -> np.ndarray:
        """The requests of some items, int, ascending."""
        return np.flatnonzero(np.isin(np.repeat(np.arange(self.num_items), np.diff(self.item_starts)), items))

    def of_items(self, chosen: np.ndarray) -> CompiledTask:
        """The task with some of its items alone, int, ascending."""
        lengths = np.diff(self.item_starts)
        kept = self.requests_of(chosen)
        return replace(
            self,
            info=self.info | {"items": len(chosen)},
            trie=self.trie.of_requests(kept, self.info["chunk_tokens"]),
            item_starts=offsets(lengths[chosen]),
            subtasks=self.subtasks[chosen],
            correct=self.correct[kept],
            characters=self.characters[kept],
            utf8_bytes=self.utf8_bytes[kept],
            weights=self.weights[chosen],
        )

    def scored_tokens(self) -> np.ndarray:
        """How many tokens each request's log-likelihood sums over, shape [R]."""
        return np.bincount(self.trie.requests, minlength=self.num_requests)

    def save(self, folder: Path) -> None:
        from safetensors.numpy import save_file

        with atomic_folder(folder) as temporary:
            save_file(self._arrays(), temporary / REQUESTS_FILE)
            write_json(temporary / TASK_FILE, self.info)

    def _arrays(self) -> dict[str, np.ndarray]:
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in ("info", "trie")}
        return own | {field.name: getattr(self.trie, field.name) for field in fields(self.trie)}

    @classmethod
    def load(cls, folder: Path) -> CompiledTask:
        """Raises UserError if the folder is not a compiled task."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        info = read_json(folder / TASK_FILE)
        path = folder / REQUESTS_FILE
        try:
            arrays = load_file(path)
            trie = TokenTrie(**{field.name: arrays.pop(field.name) for field in fields(TokenTrie)})
            return cls(info=info, trie=trie, **arrays)
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a compiled task ({error}); delete the folder to compile it again") from None
