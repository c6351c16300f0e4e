"""Heuristics read off a finished search (paper, section 4.5): candidates that show whether a pattern is real.

In each layer such a network has the width most good networks have there. It is evaluated like any candidate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llama_nas.artifacts import write_table
from llama_nas.search import records
from llama_nas.space import DROPPED, WIDTH_CODES, ModelShape, Subnet, parse_id

GOOD = 75  # the percentile of a layer count's networks from which on they are good
FEWEST = 5  # good networks that a heuristic is read off


def write_heuristics(
    output: Path, *, model: Path, widths: Sequence[int], task: Path, evaluations: Path, named: Sequence[str]
) -> None:
    """Write candidates.csv: the full network, the heuristic of each layer count, and the `named` ids.

    Layer counts with fewer than FEWEST good networks have no heuristic. Networks count once, however often a search
    has evaluated them. Raises UserError for an id that is none.
    """
    described = records.read_task(task)
    num_layers = ModelShape.from_folder(model).num_hidden_layers
    table = records.read_evaluations(evaluations, described.metric).drop_duplicates("subnet_id")
    goodness = -described.minimised(table[described.metric].to_numpy())
    codes = {None: DROPPED} | dict(zip(widths, WIDTH_CODES, strict=False))
    candidates = {codes[widths[0]] * num_layers: "full"}
    for _, own in table.assign(goodness=goodness).groupby("layers"):
        threshold = np.percentile(own["goodness"], GOOD, method="lower")
        good = [
            parse_id(subnet_id, num_layers, widths) for subnet_id in own.loc[own["goodness"] >= threshold, "subnet_id"]
        ]
        if len(good) >= FEWEST:
            candidates.setdefault("".join(codes[width] for width in likeliest_widths(good)), "heuristic")
    for subnet_id in named:
        parse_id(subnet_id, num_layers, widths)
        candidates.setdefault(subnet_id, "named")
    write_table(output, records.candidate_table(list(candidates), list(candidates.values()), None))


def likeliest_widths(networks: Sequence[Subnet]) -> list[int | None]:
    """Per layer, the width (None: dropped) that most of the networks have there; of equally many the widest.

    With two widths: the narrow one where its probability is above 0.5, the paper's rule.
    """
    counts = [Counter(of_layer) for of_layer in zip(*(network.widths for network in networks), strict=True)]
    return [max(count, key=lambda width: (count[width], width or 0)) for count in counts]
