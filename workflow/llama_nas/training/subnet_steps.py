"""Which network each optimizer step trains.

Even steps train the full network, odd steps one sub-network (paper, section 2.1: iterations alternate). The draw
depends on (run seed, step) alone: every rank draws the same network without communication, a resumed run draws what
the uninterrupted one would have drawn, and no global random state is touched.
"""

from __future__ import annotations

import numpy as np

from llama_nas.core.artifacts import derived_seed
from llama_nas.core.shape import Subnet
from llama_nas.core.space import Genotype, SearchSpace


def subnet_at(
    step: int, space: SearchSpace, seed: int, subnet_steps: str = "alternate", sampling: str = "uniform"
) -> Subnet | None:
    """The sub-network of an optimizer step, or None where the full network is trained.

    subnet_steps: `alternate`, or `never` for plain fine-tuning of the full network.
    sampling: `uniform` per gene (the paper); `stratified`, every share of each block is as likely as any other;
    `sandwich`, every second sub-network step trains the smallest network, the others a uniform draw. The sandwich
    rule of slimmable networks (arXiv 1903.05134) adds up full, smallest and random networks in one step; here they
    take turns, at the paper's cost.
    """
    if subnet_steps == "never" or step % 2 == 0:
        return None
    rng = np.random.default_rng(derived_seed(seed, "finetune", "subnet", step))
    if sampling == "stratified":
        return space.subnet(_stratified(space, rng))
    if sampling == "sandwich" and step % 4 == 1:
        return space.smallest
    return space.subnet(space.random(rng))


def _stratified(space: SearchSpace, rng: np.random.Generator) -> Genotype:
    """A uniform depth; then probabilities of the blocks, uniform on their simplex; then each layer's block by them.

    With two blocks the number of layers with the second is then uniform in 0..depth: a beta-binomial with both
    parameters 1.
    """
    depth = int(rng.integers(len(space.depths)))
    probabilities = rng.dirichlet(np.ones(len(space.blocks)))
    return (depth, *(int(gene) for gene in rng.choice(len(space.blocks), size=space.num_layers, p=probabilities)))
