"""Non-domination and hypervolume. Both take minimised objectives; negate what is to be maximised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def non_dominated(objectives: np.ndarray) -> np.ndarray:
    """Mask of the rows no other row dominates.

    objectives: [points, objectives], minimised. Of identical rows only the first is kept, so a front has no repeats.
    """
    objectives = np.asarray(objectives, dtype=float)
    mask = np.zeros(len(objectives), dtype=bool)
    front = np.empty_like(objectives)  # its first rows are filled
    size = 0
    for i in np.lexsort(objectives.T[::-1]):  # no row dominates one before it, and equal rows stay in order
        if not np.all(front[:size] <= objectives[i], axis=1).any():
            mask[i], front[size] = True, objectives[i]
            size += 1
    return mask


def hypervolume(objectives: np.ndarray, reference: np.ndarray) -> float:
    """Area dominated by the points and bounded by the reference point; two minimised objectives.

    objectives: [points, 2]; reference: [2]. Points outside the reference box add nothing.
    """
    objectives = np.asarray(objectives, dtype=float).reshape(-1, 2)
    inside = objectives[np.all(objectives < reference, axis=1)]
    area, ceiling = 0.0, float(reference[1])
    for x, y in inside[np.lexsort((inside[:, 1], inside[:, 0]))]:
        if y < ceiling:
            area += (reference[0] - x) * (ceiling - y)
            ceiling = y
    return float(area)


def spread(sizes: Sequence[float], members: int | str) -> list[int]:
    """Indices of `members` points spread over the size axis, ends included, ascending in size; `all` for every point.

    For each of `members` evenly spaced sizes the nearest point not yet taken is chosen (the smaller of two equals).
    """
    order = sorted(range(len(sizes)), key=lambda i: sizes[i])
    if members == "all" or int(members) >= len(order):
        return order
    count, low, high = int(members), sizes[order[0]], sizes[order[-1]]
    targets = [high] if count == 1 else [low + (high - low) * k / (count - 1) for k in range(count)]
    chosen: set[int] = set()
    for target in targets:
        chosen.add(min((i for i in order if i not in chosen), key=lambda i: (abs(sizes[i] - target), sizes[i])))
    return [i for i in order if i in chosen]
