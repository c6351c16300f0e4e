"""The budget box's numbers, against the rule of core/judgement.py for many drops and sizes."""

import math

import numpy as np
import pandas as pd
import pytest

from llama_nas.analysis.budget import choices
from llama_nas.analysis.sections import Printing
from llama_nas.core import judgement as judging
from llama_nas.core.judgement import Metric, in_sequence, recommended, verdict

METRIC = Metric("acc", True)


@pytest.fixture
def printing(make_run, tmp_path) -> Printing:
    return Printing.of(make_run(tmp_path).space, "GB", "make")


def judgement(printing: Printing, seed: int, full_on_front: bool) -> pd.DataFrame:
    """Networks of the toy's space with random differences, ascending in size; one fell off the front."""
    rng = np.random.default_rng(seed)
    space = printing.space
    ids = {space.id(space.subnet(space.random(rng))) for _ in range(30)} - {space.id(space.full)}
    ids = [*sorted(ids, key=lambda id: (printing.bytes(id, "fp16"), id)), space.id(space.full)]
    table = pd.DataFrame({"subnet_id": ids, "difference": np.sort(rng.normal(-0.04, 0.02, len(ids)))})
    table["lower"] = table["difference"] - rng.uniform(0.001, 0.02, len(ids))
    return table.assign(upper=0.1, on_front=[n != 3 for n in range(len(ids) - 1)] + [full_on_front])


def rule(table: pd.DataFrame, sizes: dict[str, int], size: float, drop: float) -> tuple[str, str]:
    """The network that the rule picks among those that fit, and its verdict; empty if there is none."""
    sequence = judging.tested(table)
    alone = [verdict(row.difference, row.lower, drop) for row in sequence.itertuples()]
    judged = dict(zip(sequence["subnet_id"], in_sequence(alone), strict=True))
    fits = [name for name in table["subnet_id"] if sizes[name] <= size]
    front = [name for name in table.loc[table["on_front"], "subnet_id"][::-1] if name in fits]
    place = recommended([judged[name] for name in front])
    if place is not None:
        return front[place], judged[front[place]]
    full = table["subnet_id"].iloc[-1]
    return (full, "none") if full in fits else ("", "")


@pytest.mark.parametrize("full_on_front", [True, False])
def test_comparing_with_the_numbers_is_the_rule(printing, full_on_front):
    answers = set()
    for seed, precision in ((0, "fp16"), (1, "int8"), (2, "nf4")):
        table = judgement(printing, seed, full_on_front)
        offered = choices(table, METRIC, printing)
        sizes = {name: printing.bytes(name, precision) for name in table["subnet_id"]}
        for drop in np.linspace(0.0005, 0.05, 12):
            for size in np.linspace(0.2, 1, 9) * max(sizes.values()):
                fitting = [choice for choice in offered if choice.bytes[precision] <= size]
                found = (
                    [(choice.name, "shown") for choice in fitting if drop > choice.shown_above]
                    + [(choice.name, "not refuted") for choice in fitting if drop > choice.not_refuted_above]
                    + [(choice.name, "none") for choice in fitting if choice.is_full]
                    + [("", "")]
                )[0]
                assert found == rule(table, sizes, size, drop)
                answers.add(found[1])
    assert answers == {"shown", "not refuted", "none", ""}


def test_the_full_network_off_the_front_passes_at_no_drop(printing):
    full = choices(judgement(printing, 0, full_on_front=False), METRIC, printing)[-1]
    assert full.is_full and full.shown_above == full.not_refuted_above == math.inf
