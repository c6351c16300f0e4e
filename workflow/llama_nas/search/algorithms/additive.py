"""An additive baseline: score one-gene changes of the full network, then solve exactly for the best sums.

So do Puzzle-type methods (arXiv 2411.19146: replace one block at a time, then a mixed-integer programme). Here the sums
of all networks are solved at once by dynamic programming over the layers, which needs no solver: layer by layer, it
keeps the partial networks that fewer than `keep` others of the same depth beat in both size and cost. Nothing that a
final answer needs is lost, because what follows adds the same to all of them.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass

import numpy as np

from llama_nas.core.costs import LayerCosts
from llama_nas.core.space import SearchSpace
from llama_nas.search import encoding
from llama_nas.search.algorithms import nsga2
from llama_nas.search.algorithms.interface import Proposal, State
from llama_nas.search.settings import AlgorithmSettings, Evolution


@dataclass(frozen=True)
class Additive:
    """Nothing in it is random. Round 1 may be smaller than a population: the next one is larger by as much.

    It takes one cost beside the metric, and no constraints: the config check refuses others.
    """

    settings: AlgorithmSettings
    evolution: Evolution | None = None
    uses_predictor = False

    def first(self, state: State) -> Proposal:
        changes = one_gene_changes(state.space)[: state.count]
        return Proposal(changes, ["change"] * len(changes))

    def next(self, state: State) -> Proposal:
        space, goals, known, count = state.space, state.goals, state.known, state.count
        evaluated = encoding.subnet_ids(space, known.genotypes)
        changes = one_gene_changes(space)
        if len(evaluated) < len(changes):
            left = changes[len(evaluated) :][:count]
            return Proposal(left, ["change"] * len(left))
        costs = gene_costs(space, known.objectives[: len(changes), -1])
        keep = 1
        while True:
            genotypes = best_sums(space, goals.costs[0], costs, keep)
            new = ~np.isin(encoding.subnet_ids(space, genotypes), evaluated)
            if new.sum() >= count or len(genotypes) == space.num_networks:
                break
            keep *= 2
        genotypes = genotypes[new]
        sums = known.objectives[0, -1] + sum_of_costs(space, costs, genotypes)
        objectives = goals.objectives(space, genotypes, sums)
        order = nsga2.by_rank_and_crowding(objectives, np.zeros(len(sums)))[:count]
        return Proposal(genotypes[order], ["sum"] * len(order), sums[order])


def one_gene_changes(space: SearchSpace) -> np.ndarray:
    """The largest network of the space, then each network that differs from it in one gene, int [changes, g]."""
    full = np.zeros(1 + space.num_layers, dtype=int)
    full[0] = len(space.depths) - 1
    rows = [full]
    for gene in np.flatnonzero(encoding.active_genes(space, full[None])[0]):
        for value in range(space.bounds[gene]):
            if value != full[gene]:
                rows.append(np.where(np.arange(len(full)) == gene, value, full))
    return encoding.canonical(space, np.array(rows))


def gene_costs(space: SearchSpace, metric: np.ndarray) -> np.ndarray:
    """What each value of each gene adds to the full network's metric, [g, largest bound].

    metric: of `one_gene_changes`, minimised, in their order.
    """
    changes = one_gene_changes(space)
    costs = np.zeros((changes.shape[1], space.bounds.max()))
    depth = changes[:, 0] != changes[0, 0]
    costs[0, changes[depth, 0]] = metric[depth] - metric[0]
    for row, value in zip(changes[~depth], metric[~depth], strict=True):
        for gene in np.flatnonzero(row != changes[0]):
            costs[gene, row[gene]] = value - metric[0]
    return costs


def sum_of_costs(space: SearchSpace, costs: np.ndarray, genotypes: np.ndarray) -> np.ndarray:
    """Summed costs of the genes that exist in each network, [n]."""
    exists = encoding.active_genes(space, genotypes)
    return np.where(exists, costs[np.arange(genotypes.shape[1]), genotypes], 0).sum(axis=1)


def best_sums(space: SearchSpace, size: LayerCosts, costs: np.ndarray, keep: int) -> np.ndarray:
    """All networks that fewer than `keep` others of the same depth beat in size and summed cost, int [n, g].

    keep 1: among them is every network on the front of the sums. Of equal pairs the one found first counts as better.
    """
    found = []
    for depth, layers in enumerate(space.kept):
        partial = np.zeros((1, 1 + space.num_layers), dtype=int)
        partial[:, 0] = depth
        totals = np.zeros((1, 2))  # size, cost
        for layer in layers:
            blocks = np.arange(len(space.blocks))
            partial = np.repeat(partial, len(blocks), axis=0)
            partial[:, 1 + layer] = np.tile(blocks, len(totals))
            added = np.column_stack([size.of_block, costs[1 + layer, : len(blocks)]])
            totals = (totals[:, None] + added).reshape(-1, 2)
            kept = _beaten_by_few(totals, keep)
            partial, totals = partial[kept], totals[kept]
        found.append(partial)
    return np.concatenate(found)


def _beaten_by_few(totals: np.ndarray, keep: int) -> np.ndarray:
    """Indices of the rows that fewer than `keep` others are no worse than in both columns, int [<= n]."""
    lowest: list[float] = []  # costs of the smaller rows, the `keep` lowest, ascending
    kept = []
    for i in np.lexsort((totals[:, 1], totals[:, 0])):
        cost = totals[i, 1]
        if bisect.bisect_right(lowest, cost) < keep:
            kept.append(i)
            bisect.insort(lowest, cost)
            del lowest[keep:]
    return np.sort(np.array(kept, dtype=int))
