"""Networks drawn without a predictor: the first round, and what fills up a population."""

from __future__ import annotations

from collections.abc import Collection
from itertools import product

import numpy as np

from llama_nas.search.encoding import canonical, parameters, subnet_ids
from llama_nas.space import ModelShape, SearchSpace

ENUMERABLE = 100_000  # a space up to this size is listed when chance alone would take long to find its last networks
ATTEMPTS = 20  # draws in one size stratum before it is given up as used up


def uniform(space: SearchSpace, count: int, rng: np.random.Generator) -> np.ndarray:
    """Genotypes uniform per gene, int [count, g]; networks may repeat (DyNAS-T `random_sample`)."""
    return rng.integers(0, space.bounds, size=(count, len(space.bounds)))


def anchors(space: SearchSpace) -> np.ndarray:
    """The corners of the space, {depth} x {all wide, all narrow}, int [corners, g]; largest and smallest come first."""
    wide, narrow = int(np.argmax(space.widths)), int(np.argmin(space.widths))
    deepest, shallowest = len(space.depths) - 1, 0
    corners = [(deepest, wide), (shallowest, narrow)]
    corners += [(depth, width) for depth in range(len(space.depths)) for width in (wide, narrow)]
    distinct = list(dict.fromkeys(corners))
    return canonical(space, np.array([[depth] + [width] * space.num_layers for depth, width in distinct]))


def stratified(
    space: SearchSpace, shape: ModelShape, count: int, known: Collection[str], rng: np.random.Generator
) -> np.ndarray:
    """One network for each of `count` equal strata of the size axis, none of them in `known`, int [<= count, g].

    Uniform genes would leave most of the axis empty: 99 % of them fall in the middle 60 % (paper's space). A stratum
    in which only known networks are found is left out.
    """
    corner_sizes = parameters(space, shape, anchors(space))
    low, high = int(corner_sizes.min()), int(corner_sizes.max())
    seen, drawn = set(known), []
    for stratum in range(count):
        for _ in range(ATTEMPTS):
            target = low + (high - low) * (stratum + rng.random()) / count
            genotype = _of_size(space, shape, target, rng)
            (subnet_id,) = subnet_ids(space, genotype[None])
            if subnet_id not in seen:
                seen.add(subnet_id)
                drawn.append(genotype)
                break
    return np.array(drawn, dtype=int).reshape(len(drawn), 1 + space.num_layers)


def _of_size(space: SearchSpace, shape: ModelShape, target: float, rng: np.random.Generator) -> np.ndarray:
    """A random genotype within one width step of `target` parameters, int [g].

    From uniform widths at a depth that can have this size, random layers go one width narrower or wider until the
    target is crossed.
    """
    by_width = np.argsort(space.widths)
    smallest, largest = np.zeros(1 + space.num_layers, int), np.zeros(1 + space.num_layers, int)
    smallest[1:], largest[1:] = by_width[0], by_width[-1]

    def size(genotype: np.ndarray) -> int:
        return int(parameters(space, shape, genotype[None])[0])

    def at_depth(depth: int, genotype: np.ndarray) -> np.ndarray:
        return np.concatenate([[depth], genotype[1:]])

    depths = range(len(space.depths))
    able = [d for d in depths if size(at_depth(d, smallest)) <= target <= size(at_depth(d, largest))]
    if not able:  # between two depths of one-width spaces: the nearest depth
        able = [min(depths, key=lambda d: abs(size(at_depth(d, smallest)) - target))]
    genotype = at_depth(able[rng.integers(len(able))], uniform(space, 1, rng)[0])
    kept = np.array(space.kept[genotype[0]])
    rank = np.argsort(by_width)[genotype[1:]]  # position of each layer's width, narrow to wide
    step = 1 if size(genotype) < target else -1
    while (size(genotype) - target) * step < 0:
        movable = kept[(rank[kept] + step >= 0) & (rank[kept] + step < len(by_width))]
        if not len(movable):
            break
        layer = movable[rng.integers(len(movable))]
        rank[layer] += step
        genotype[1 + layer] = by_width[rank[layer]]
    return canonical(space, genotype[None])[0]


def unseen(space: SearchSpace, count: int, known: Collection[str], rng: np.random.Generator) -> np.ndarray:
    """Distinct networks that are not in `known`, int [<= count, g]: fewer than `count` only if no more exist."""
    if not count:
        return np.empty((0, 1 + space.num_layers), dtype=int)
    seen = set(known)
    drawn: list[np.ndarray] = []
    if space.num_networks <= ENUMERABLE:
        networks = every_network(space)
        left = [i for i, subnet_id in enumerate(subnet_ids(space, networks)) if subnet_id not in seen]
        return networks[rng.permutation(left)[:count].astype(int)]
    while len(drawn) < count:
        genotypes = canonical(space, uniform(space, count, rng))
        for genotype, subnet_id in zip(genotypes, subnet_ids(space, genotypes), strict=True):
            if subnet_id not in seen and len(drawn) < count:
                seen.add(subnet_id)
                drawn.append(genotype)
    return np.array(drawn, dtype=int).reshape(len(drawn), 1 + space.num_layers)


def every_network(space: SearchSpace) -> np.ndarray:
    """All canonical genotypes of a small space, int [num_networks, g]."""
    listed = []
    for depth, layers in enumerate(space.kept):
        genotypes = np.zeros((len(space.widths) ** len(layers), 1 + space.num_layers), dtype=int)
        genotypes[:, 0] = depth
        genotypes[:, 1 + np.array(layers)] = list(product(range(len(space.widths)), repeat=len(layers)))
        listed.append(genotypes)
    return np.concatenate(listed)


def spread(space: SearchSpace, shape: ModelShape, count: int, rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    """The space's corners, then one network per size stratum, no repeats: int [n, g] and the origin of each.

    Fewer than `count` only if the space has fewer networks.
    """
    corners = anchors(space)[:count]
    known = subnet_ids(space, corners)
    strata = stratified(space, shape, count - len(corners), known, rng)
    known += subnet_ids(space, strata)
    rest = unseen(space, count - len(known), known, rng)
    origins = ["anchor"] * len(corners) + ["stratified"] * len(strata) + ["random"] * len(rest)
    return np.concatenate([corners, strata, rest]), origins
