"""Networks drawn without a predictor: the first round, and what fills up a population."""

from __future__ import annotations

from collections.abc import Collection
from itertools import product

import numpy as np

from llama_nas.core.space import SearchSpace
from llama_nas.search.encoding import canonical, cost_of, greatest_cost, least_cost, subnet_ids
from llama_nas.search.goals import Goals

ENUMERABLE = 100_000  # a space up to this size is listed when chance alone would take long to find its last networks
ATTEMPTS = 20  # draws in one size stratum, or below a size limit, before it is given up as used up


def uniform(space: SearchSpace, count: int, rng: np.random.Generator) -> np.ndarray:
    """Genotypes uniform per gene, int [count, g]; networks may repeat (DyNAS-T `random_sample`)."""
    return rng.integers(0, space.bounds, size=(count, len(space.bounds)))


def stratified(
    space: SearchSpace, goals: Goals, count: int, known: Collection[str], rng: np.random.Generator
) -> np.ndarray:
    """One network for each of `count` equal strata of the size axis, none of them in `known`, int [<= count, g].

    The axis ends at the largest network, or at `goals.max_size`.

    Uniform genes would leave most of the axis empty: 99 % of them fall in the middle 60 % (paper's space). A stratum
    in which only known networks are found is left out.
    """
    low, high = least_cost(goals.size, space), min(greatest_cost(goals.size, space), goals.max_size)
    seen, drawn = set(known), []
    for stratum in range(count):
        for _ in range(ATTEMPTS):
            target = low + (high - low) * (stratum + rng.random()) / count
            genotype = _of_size(space, goals, target, rng)
            (subnet_id,) = subnet_ids(space, genotype[None])
            if subnet_id not in seen and goals.fits(space, genotype[None])[0]:
                seen.add(subnet_id)
                drawn.append(genotype)
                break
    return np.array(drawn, dtype=int).reshape(len(drawn), 1 + space.num_layers)


def _of_size(space: SearchSpace, goals: Goals, target: float, rng: np.random.Generator) -> np.ndarray:
    """A random genotype within one block step of the size `target`, int [g].

    From uniform blocks at a depth that can have this size, random layers get the next smaller or larger block until
    the target is crossed.
    """
    by_size = _blocks_by_size(goals)
    smallest, largest = np.zeros(1 + space.num_layers, int), np.zeros(1 + space.num_layers, int)
    smallest[1:], largest[1:] = by_size[0], by_size[-1]

    def size(genotype: np.ndarray) -> float:
        return cost_of(goals.size, space, genotype[None])[0]

    def at_depth(depth: int, genotype: np.ndarray) -> np.ndarray:
        return np.concatenate([[depth], genotype[1:]])

    depths = range(len(space.depths))
    able = [d for d in depths if size(at_depth(d, smallest)) <= target <= size(at_depth(d, largest))]
    if not able:  # between two depths of one-block spaces: the nearest depth
        able = [min(depths, key=lambda d: abs(size(at_depth(d, smallest)) - target))]
    genotype = at_depth(able[rng.integers(len(able))], uniform(space, 1, rng)[0])
    kept = np.array(space.kept[genotype[0]])
    rank = np.argsort(by_size)[genotype[1:]]  # position of each layer's block, small to large
    step = 1 if size(genotype) < target else -1
    while (size(genotype) - target) * step < 0:
        movable = kept[(rank[kept] + step >= 0) & (rank[kept] + step < len(by_size))]
        if not len(movable):
            break
        layer = movable[rng.integers(len(movable))]
        rank[layer] += step
        genotype[1 + layer] = by_size[rank[layer]]
    return canonical(space, genotype[None])[0]


def _blocks_by_size(goals: Goals) -> np.ndarray:
    """Indices of the blocks, smallest first, int [blocks]."""
    return np.argsort(goals.size.of_block, kind="stable")


def unseen(
    space: SearchSpace, count: int, known: Collection[str], rng: np.random.Generator, goals: Goals
) -> np.ndarray:
    """Distinct networks that are not in `known`, at most `goals.max_size` large, int [<= count, g].

    Fewer than `count` only if no more exist or, in a space too large to list, ATTEMPTS draws find no more of that size.
    """
    if not count:
        return np.empty((0, 1 + space.num_layers), dtype=int)
    seen = set(known)
    drawn: list[np.ndarray] = []
    if space.num_networks <= ENUMERABLE:
        networks = every_network(space)
        networks = networks[goals.fits(space, networks)]
        left = [i for i, subnet_id in enumerate(subnet_ids(space, networks)) if subnet_id not in seen]
        return networks[rng.permutation(left)[:count].astype(int)]
    idle = 0
    while len(drawn) < count and idle < ATTEMPTS:
        idle, before = idle + 1, len(drawn)
        genotypes = narrowed(space, goals, uniform(space, count, rng), rng)
        for genotype, subnet_id in zip(genotypes, subnet_ids(space, genotypes), strict=True):
            if subnet_id not in seen and len(drawn) < count:
                seen.add(subnet_id)
                drawn.append(genotype)
        idle = idle if len(drawn) == before else 0
    return np.array(drawn, dtype=int).reshape(len(drawn), 1 + space.num_layers)


def narrowed(space: SearchSpace, goals: Goals, genotypes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The genotypes, canonical, int [n, g]; those beyond `goals.max_size` made smaller at random until they fit.

    Uniform networks below a tight limit are too rare to wait for. One beyond it gets a depth that can fit, if its own
    cannot, and then random layers get the next smaller block.
    """
    by_size = _blocks_by_size(goals)
    smallest = np.full((len(space.depths), 1 + space.num_layers), by_size[0])
    smallest[:, 0] = np.arange(len(space.depths))
    able = np.flatnonzero(goals.fits(space, smallest))
    fitting = canonical(space, genotypes)
    for i in np.flatnonzero(~goals.fits(space, fitting)):
        genotype = genotypes[i].copy()
        if genotype[0] not in able:
            genotype[0] = able[rng.integers(len(able))]
        kept = 1 + np.array(space.kept[genotype[0]])
        while not goals.fits(space, genotype[None])[0]:
            larger = kept[genotype[kept] != by_size[0]]
            gene = larger[rng.integers(len(larger))]
            genotype[gene] = by_size[np.argsort(by_size)[genotype[gene]] - 1]
        fitting[i] = canonical(space, genotype[None])[0]
    return fitting


def every_network(space: SearchSpace) -> np.ndarray:
    """All canonical genotypes of a small space, int [num_networks, g]."""
    listed = []
    for depth, layers in enumerate(space.kept):
        genotypes = np.zeros((len(space.blocks) ** len(layers), 1 + space.num_layers), dtype=int)
        genotypes[:, 0] = depth
        genotypes[:, 1 + np.array(layers)] = list(product(range(len(space.blocks)), repeat=len(layers)))
        listed.append(genotypes)
    return np.concatenate(listed)


def spread(space: SearchSpace, goals: Goals, count: int, rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    """One network per size stratum, no repeats: int [n, g] and the origin of each.

    Random ones replace those that a stratum lacks. Fewer than `count` only if the space has fewer networks (`unseen`).
    """
    strata = stratified(space, goals, count, [], rng)
    rest = unseen(space, count - len(strata), subnet_ids(space, strata), rng, goals)
    return np.concatenate([strata, rest]), ["stratified"] * len(strata) + ["random"] * len(rest)
