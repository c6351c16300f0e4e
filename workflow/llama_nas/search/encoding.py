"""Arrays of genotypes: canonical form, ids, exact sizes and the one-hot encoding the predictors read.

Shapes: n genotypes of g = 1 + num_layers genes, depth gene first (see `SearchSpace`).
A gene of a layer that the network does not keep is *inactive*: it changes neither the network nor its size.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import numpy as np

from llama_nas.core.costs import LayerCosts
from llama_nas.core.shape import Subnet
from llama_nas.core.space import BLOCK_CODES, DROPPED, ID_GROUP, SearchSpace


def active_genes(space: SearchSpace, genotypes: np.ndarray) -> np.ndarray:
    """Which genes exist in the network, bool [n, g]; the depth gene always does."""
    return _active_at(space)[genotypes[:, 0]]


@cache
def _active_at(space: SearchSpace) -> np.ndarray:
    """The same for each value of the depth gene, bool [depths, g]."""
    active = np.zeros((len(space.depths), 1 + space.num_layers), dtype=bool)
    active[:, 0] = True
    for depth, layers in enumerate(space.kept):
        active[depth, 1 + np.array(layers)] = True
    return active


def canonical(space: SearchSpace, genotypes: np.ndarray) -> np.ndarray:
    """Inactive genes reset to 0, int [n, g]: rows are equal exactly where the networks are."""
    return np.where(active_genes(space, genotypes), genotypes, 0)


def subnet_ids(space: SearchSpace, genotypes: np.ndarray) -> list[str]:
    """The id of each network, as `SearchSpace.id` writes it."""
    layers = np.arange(space.num_layers)
    columns = layers + layers // ID_GROUP  # a dash between two groups
    letters = np.full((len(genotypes), columns[-1] + 1), "-")
    blocks = np.array(list(BLOCK_CODES))[genotypes[:, 1:]]
    letters[:, columns] = np.where(active_genes(space, genotypes)[:, 1:], blocks, DROPPED)
    return letters.view(f"U{letters.shape[1]}")[:, 0].tolist()  # one string per row


def genotypes_of(space: SearchSpace, ids: Iterable[str]) -> np.ndarray:
    """Canonical genotypes of subnet ids, int [n, g]; raises UserError for an id that is not in the space."""
    genotypes = [space.genotype(space.parse(subnet_id)) for subnet_id in ids]
    return np.array(genotypes, dtype=int).reshape(len(genotypes), 1 + space.num_layers)


def parameters(space: SearchSpace, genotypes: np.ndarray) -> np.ndarray:
    """Exact parameter counts, int [n]."""
    return cost_of(parameter_costs(space), space, genotypes)


def cost_of(costs: LayerCosts, space: SearchSpace, genotypes: np.ndarray) -> np.ndarray:
    """The cost of each network, [n]; exact where the layers' costs are integers."""
    layers = np.array(costs.of_block)[genotypes[:, 1:]]
    return costs.without + np.where(active_genes(space, genotypes)[:, 1:], layers, 0).sum(axis=1)


def least_cost(costs: LayerCosts, space: SearchSpace) -> float:
    """The least cost that a network of the space has."""
    return costs.without + min(space.depths) * min(costs.of_block)


def greatest_cost(costs: LayerCosts, space: SearchSpace) -> float:
    """The greatest cost that a network of the space has."""
    return costs.without + max(space.depths) * max(costs.of_block)


@cache
def parameter_costs(space: SearchSpace) -> LayerCosts:
    """Parameters."""
    without = space.shape.parameters(Subnet(()))
    of_block = tuple(space.shape.parameters(Subnet((block,))) - without for block in space.blocks)
    return LayerCosts("parameters", without, of_block)


@cache
def size_costs(space: SearchSpace, precision: str) -> LayerCosts:
    """Bytes of the weights in a precision."""
    without = space.shape.size_bytes(Subnet(()), precision)
    of_block = tuple(space.shape.size_bytes(Subnet((block,)), precision) - without for block in space.blocks)
    return LayerCosts("size", without, of_block)


def one_hot(space: SearchSpace, genotypes: np.ndarray) -> np.ndarray:
    """One column per value of each gene of the declared space, float [n, sum(bounds)].

    An inactive gene reads as 0, its canonical value.
    """
    genotypes = canonical(space, genotypes)
    first_column = np.concatenate([[0], np.cumsum(space.bounds)[:-1]])
    encoded = np.zeros((len(genotypes), space.bounds.sum()))
    np.put_along_axis(encoded, first_column + genotypes, 1.0, axis=1)
    return encoded
