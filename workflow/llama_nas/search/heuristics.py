"""Heuristics read off a finished search (paper, section 4.5): candidates that show whether a pattern is real.

In each layer such a network has the block that most good networks have there. It is evaluated like any candidate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llama_nas.core.artifacts import write_table
from llama_nas.core.shape import Block, Subnet
from llama_nas.core.space import SearchSpace
from llama_nas.search import tables

GOOD = 75  # the percentile of a layer count's networks from which on they are good
FEWEST = 5  # good networks that a heuristic is read off


def find_heuristics(output: Path, *, space: Path, task: Path, evaluations: Path, named: Sequence[str] = ()) -> None:
    """Read networks off what a search's good ones have in common, to be evaluated as candidates (paper, 4.5).

    Lists the full network, the heuristic of each layer count with at least FEWEST good networks, and the named ids.
    Networks count once, however often a search has evaluated them. Raises UserError for an id that is none.

    Args:
        named: ids of more networks to evaluate with them
        output: candidates.csv
    """
    declared, described = SearchSpace.read(space), tables.read_task(task)
    table = tables.read_evaluations(evaluations, described.metric).drop_duplicates("subnet_id")
    goodness = -described.minimised(table[described.metric].to_numpy())
    candidates = {declared.id(declared.full): "full"}
    for _, own in table.assign(goodness=goodness).groupby("layers"):
        threshold = np.percentile(own["goodness"], GOOD, method="lower")
        good = [declared.parse(subnet_id) for subnet_id in own.loc[own["goodness"] >= threshold, "subnet_id"]]
        if len(good) >= FEWEST:
            candidates.setdefault(declared.id(likeliest_blocks(good, declared)), "heuristic")
    for subnet_id in named:
        declared.parse(subnet_id)
        candidates.setdefault(subnet_id, "named")
    write_table(output, tables.candidate_table(list(candidates), list(candidates.values()), None))


def likeliest_blocks(networks: Sequence[Subnet], space: SearchSpace) -> Subnet:
    """Per layer, the block (None: dropped) that most of the networks have there; of equally many the largest.

    With two widths: the narrow one where its probability is above 0.5, the paper's rule.
    """
    sizes: dict[Block | None, int] = {space.blocks[i]: rank for rank, i in enumerate(space.blocks_by_size)}
    counts = [Counter(of_layer) for of_layer in zip(*(network.blocks for network in networks), strict=True)]
    return Subnet(tuple(max(count, key=lambda block: (count[block], sizes.get(block, -1))) for count in counts))
