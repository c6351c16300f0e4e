"""A task's items: what each is about, what it weighs in the task's metric, and which of them a search scores.

Items that are about the same thing (a fact, a passage) are a *group*: a network that knows it gets them all right. So
a group is never divided: a search takes whole groups, in an order that depends on the task alone, and the items held
out of it share no group with those it has seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llama_nas.core.artifacts import read_table, write_table
from llama_nas.core.errors import UserError

ITEMS_FILE = "items.csv"  # in a compiled task's folder
ITEMS_SEED = 1234
COLUMNS = ["item", "subtask", "group", "weight", "draw"]


@dataclass(frozen=True)
class Items:
    """I items in lm-eval's order. A group's number and draw are the same for all its items."""

    subtasks: np.ndarray  # [I] int, index of the item's (sub-)task
    groups: np.ndarray  # [I] int
    weights: np.ndarray  # [I] of a choice: its weight in the mean; of a text: its words or bytes
    draws: np.ndarray  # [I] int, the group's place in the order in which a search takes groups, from 0 on

    def __len__(self) -> int:
        return len(self.groups)

    @classmethod
    def read(cls, task: Path) -> Items:
        """Of a compiled task's folder; raises UserError if it has none."""
        table = read_table(task / ITEMS_FILE, COLUMNS)
        return cls(*(table[column].to_numpy() for column in ("subtask", "group", "weight", "draw")))

    def write(self, task: Path) -> None:
        import pandas as pd

        columns = [np.arange(len(self)), self.subtasks, self.groups, self.weights, self.draws]
        write_table(task / ITEMS_FILE, pd.DataFrame(dict(zip(COLUMNS, columns, strict=True))))

    def of(self, chosen: np.ndarray) -> Items:
        """Some of the items: their numbers, int, ascending."""
        return Items(self.subtasks[chosen], self.groups[chosen], self.weights[chosen], self.draws[chosen])

    def split(self, count: int, task: str) -> tuple[np.ndarray, np.ndarray]:
        """The items of a search, whole groups of at least `count` items, and those held out of it: int, ascending.

        Raises UserError, in the name of the config's `task`, if `count` is not in `search_items_range`.
        """
        check_search_items(task, count, search_items_range(self.subtasks, self.draws))
        ends = np.cumsum(np.bincount(self.draws))
        searched = self.draws <= np.searchsorted(ends, count)
        return np.flatnonzero(searched), np.flatnonzero(~searched)

    def judged(self, search_items: int | None, task: str) -> np.ndarray:
        """The items that networks are judged on: those held out of the search, or all if it scores them all."""
        return np.arange(len(self)) if search_items is None else self.split(search_items, task)[1]


def draw_groups(subtasks: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """`Items.draws`: groups in random order, those of each subtask evenly spread over it.

    A group with items of several subtasks counts as one of its first item's.
    """
    _, first, group_of = np.unique(groups, return_index=True, return_inverse=True)
    appearance = np.argsort(first)
    homes = subtasks[first[appearance]]  # of the groups in order of appearance, so ascending
    sizes = np.bincount(homes)
    rng = np.random.default_rng(ITEMS_SEED)
    ranks = np.concatenate([rng.permutation(size) for size in sizes])
    order = appearance[np.argsort((ranks + 0.5) / sizes[homes], kind="stable")]
    return np.argsort(order)[group_of]


def search_items_range(subtasks: np.ndarray, draws: np.ndarray) -> tuple[int, int]:
    """The fewest and the most items a search may ask for; the first is the larger where no division is possible.

    The search and the rest then have two groups at least, and items of every subtask. Arguments: as in `Items`.
    """
    ends = np.concatenate([[0], np.cumsum(np.bincount(draws))])  # items of the first 0, 1, ... groups
    places = [draws[subtasks == subtask] for subtask in np.unique(subtasks)]
    fewest = max(2, *(int(own.min()) + 1 for own in places))
    most = min(len(ends) - 3, *(int(own.max()) for own in places))
    return int(ends[min(fewest, len(ends)) - 1]) + 1, int(ends[max(most, 0)])


def check_search_items(task: str, count: int, allowed: tuple[int, int]) -> None:
    """Raise UserError if a search on `count` items of a task is not possible. allowed: of `search_items_range`."""
    fewest, most = allowed
    key = f"config.yaml: tasks.{task}.search_items {count}"
    if fewest > most:
        raise UserError(f"{key}: the task has too few groups of items to hold some out; leave the key out")
    if not fewest <= count <= most:
        raise UserError(
            f"{key} must lie in {fewest}..{most}: the search and the rest need two groups each, and every subtask"
        )
