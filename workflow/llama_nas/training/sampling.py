"""Which network each optimizer step trains.

Even steps train the full network, odd steps one random sub-network (paper, section 2.1: iterations alternate).
The draw depends on (run seed, step) alone: every rank draws the same network without communication, a resumed run
draws what the uninterrupted one would have drawn, and no global random state is touched.
"""

from __future__ import annotations

import numpy as np

from llama_nas.artifacts import derived_seed
from llama_nas.space import SearchSpace, Subnet


def subnet_at(step: int, space: SearchSpace, seed: int, subnet_steps: str = "alternate") -> Subnet | None:
    """The sub-network of an optimizer step, uniform per gene, or None where the full network is trained.

    subnet_steps: `alternate`, or `never` for plain fine-tuning of the full network.
    """
    if subnet_steps == "never" or step % 2 == 0:
        return None
    rng = np.random.default_rng(derived_seed(seed, "finetune", "subnet", step))
    return space.subnet(space.random(rng))
