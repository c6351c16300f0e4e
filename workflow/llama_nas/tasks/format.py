"""The compiled-task format: a benchmark's requests as token tries, and what turns log-likelihoods into its metrics.

A *request* asks for the log-likelihood of a continuation: one choice of a question, or one text. Its tokens lie in
a trie, with those of all other requests (`trie.py`). Knows nothing of lm-eval, which made it.

Written as `task.json` (what the task is), `requests.safetensors` (integers only) and `items.csv` (`core/items.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from llama_nas.core.artifacts import atomic_folder, read_json, write_json
from llama_nas.core.errors import UserError
from llama_nas.core.items import Items
from llama_nas.tasks.trie import TokenTrie, offsets

TASK_FILE = "task.json"
REQUESTS_FILE = "requests.safetensors"

CHOICE_METRICS = ("acc", "acc_norm", "acc_bytes")  # share of items whose best choice is a right one
TEXT_METRICS = ("bits_per_byte", "byte_perplexity", "word_perplexity")  # of whole texts, by rolling windows


@dataclass(frozen=True)
class CompiledTask:
    """R requests, I items, M metrics.

    Items are in lm-eval's order, subtask after subtask; the requests of an item are adjacent, in the order of its
    choices. `characters`, `utf8_bytes` and `correct` are meant for multiple choice, `weights` for texts; the fields of
    the other kind are zero.
    """

    info: dict[str, Any]  # task.json
    trie: TokenTrie
    items: Items  # items.csv; its subtasks are indices into info["tasks"]
    item_starts: np.ndarray  # [I + 1] first request of each item
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
        """The task with the items of a search on `count` of them (`Items.split`)."""
        return self.of_items(self.items.split(count, self.name)[0])

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
            items=self.items.of(chosen),
            item_starts=offsets(lengths[chosen]),
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
            self.items.write(temporary)
            write_json(temporary / TASK_FILE, self.info)

    def _arrays(self) -> dict[str, np.ndarray]:
        apart = ("info", "trie", "items")
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in apart}
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
            return cls(info=info, trie=trie, items=Items.read(folder), **arrays)
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a compiled task ({error}); delete the folder to compile it again") from None
