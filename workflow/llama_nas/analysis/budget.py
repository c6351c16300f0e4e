"""The page's budget box: which network fits a size and loses no more than is allowed.

The rule is that of `core/judgement.py`, among the networks that fit, for whatever drop is asked. The browser only
compares: what it compares with, the drop from which on a network is shown or not refuted, is worked out here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from llama_nas.analysis.sections import Printing
from llama_nas.core.judgement import Metric, tested

PRECISIONS = ("fp16", "int8", "nf4")


@dataclass(frozen=True)
class Choice:
    """A member of a front, or the full super-network. A drop is a share of accuracy, else of the base's score."""

    name: str
    is_full: bool  # it is taken where no other network passes
    bytes: dict[str, int]  # by precision, by arithmetic
    sizes: dict[str, str]  # the same, as printed
    shown_above: float  # it is shown for every larger drop
    not_refuted_above: float
    difference: str  # to the base, as printed


def choices(judgement: pd.DataFrame, metric: Metric, printing: Printing) -> list[Choice]:
    """What the box chooses from, ascending in size. judgement: of judgement.csv."""
    sequence = tested(judgement)
    shown_above = (-sequence["lower"]).cummax()
    found = []
    for place, row in judgement.iterrows():
        name = row["subnet_id"]
        is_full = name == printing.space.id(printing.space.full)
        if row["on_front"] or is_full:
            sizes = {precision: printing.bytes(name, precision) for precision in PRECISIONS}
            found.append(
                Choice(
                    name=name,
                    is_full=is_full,
                    bytes=sizes,
                    sizes={precision: printing.unit.text(size) for precision, size in sizes.items()},
                    shown_above=float(shown_above.get(place, math.inf)),
                    not_refuted_above=-row["difference"] if row["on_front"] else math.inf,
                    difference=metric.judged_text(row["difference"], row["lower"], row["upper"]),
                )
            )
    return found
