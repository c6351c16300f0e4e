"""Arrays of genotypes: canonical form, ids, exact sizes and the one-hot encoding the predictors read.

Shapes: n genotypes of g = 1 + num_layers genes, depth gene first (see `SearchSpace`).
A gene of a layer that the network does not keep is *inactive*: it changes neither the network nor its size.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np

from llama_nas.space import DROPPED, WIDTH_CODES, ModelShape, SearchSpace, Subnet


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
    codes = np.array(list(WIDTH_CODES))[genotypes[:, 1:]]
    codes[~active_genes(space, genotypes)[:, 1:]] = DROPPED
    return codes.view(f"U{space.num_layers}")[:, 0].tolist()  # one string of num_layers characters per row


def genotypes_of(space: SearchSpace, ids: Iterable[str]) -> np.ndarray:
    """Canonical genotypes of subnet ids, int [n, g]; raises UserError for an id that is not in the space."""
    genotypes = [space.genotype(space.parse(subnet_id)) for subnet_id in ids]
    return np.array(genotypes, dtype=int).reshape(len(genotypes), 1 + space.num_layers)


def parameters(space: SearchSpace, shape: ModelShape, genotypes: np.ndarray) -> np.ndarray:
    """Exact parameter counts, int [n]: the size is a sum over layers, so one lookup per gene."""
    return parameter_costs(space, shape).of(space, genotypes)


@dataclass(frozen=True)
class LayerCosts:
    """A cost that is a sum over layers: of the model without layers, and of one layer at each of `space.widths`."""

    name: str
    without: float
    of_width: tuple[float, ...]

    def of(self, space: SearchSpace, genotypes: np.ndarray) -> np.ndarray:
        """The cost of each network, [n]; exact where the layers' costs are integers."""
        widths = np.array(self.of_width)[genotypes[:, 1:]]
        return self.without + np.where(active_genes(space, genotypes)[:, 1:], widths, 0).sum(axis=1)

    def smallest(self, space: SearchSpace) -> float:
        """The least cost that a network of the space has."""
        return self.without + min(map(len, space.kept)) * min(self.of_width)

    def largest(self, space: SearchSpace) -> float:
        """The greatest cost that a network of the space has."""
        return self.without + max(map(len, space.kept)) * max(self.of_width)


@cache
def parameter_costs(space: SearchSpace, shape: ModelShape) -> LayerCosts:
    without = shape.parameters(Subnet(()))
    of_width = tuple(shape.parameters(Subnet((width,))) - without for width in space.widths)
    return LayerCosts("parameters", without, of_width)


@cache
def size_costs(space: SearchSpace, shape: ModelShape, precision: str) -> LayerCosts:
    """Bytes of the weights in a precision."""
    without = shape.size_bytes(Subnet(()), precision)
    of_width = tuple(shape.size_bytes(Subnet((width,)), precision) - without for width in space.widths)
    return LayerCosts("size", without, of_width)


def one_hot(space: SearchSpace, genotypes: np.ndarray) -> np.ndarray:
    """One column per value of each gene of the declared space, float [n, sum(bounds)].

    An inactive gene reads as 0, its canonical value.
    """
    genotypes = canonical(space, genotypes)
    first_column = np.concatenate([[0], np.cumsum(space.bounds)[:-1]])
    encoded = np.zeros((len(genotypes), space.bounds.sum()))
    np.put_along_axis(encoded, first_column + genotypes, 1.0, axis=1)
    return encoded
