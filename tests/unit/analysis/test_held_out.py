"""Scores on items that the search has not seen: from front.csv to the summary and the page."""

import re

import pandas as pd
import pytest

from llama_nas.core.columns import HELD_OUT
from llama_nas.core.errors import UserError


@pytest.fixture(autouse=True)
def searched(run):
    """A task whose search looked at all items."""
    run.add_task("arc_easy", run.scores(0.80, 0.82, 0.81, 0.60))


def hold_out(run) -> None:
    """As a search on 300 of 500 items writes it."""
    path = run.results / "search/arc_easy/front.csv"
    front = pd.read_csv(path).set_index("subnet_id")
    front[HELD_OUT] = front[HELD_OUT].astype(float)
    front.loc[run.full, HELD_OUT] = [0.83, 0.80, 0.03, 200, 0.0, 1.0]
    front.loc[run.medium, HELD_OUT] = [0.86, 0.735, 0.031, 200, -0.065, 0.0042]
    front.loc[run.small, HELD_OUT] = [0.61, 0.6, 0.035, 200, -0.2, 1.3e-5]
    front.to_csv(path)


def test_summary_has_what_the_front_says_in_every_precision(run):
    hold_out(run)
    table = run.summarize("arc_easy")
    medium = table[table["model"] == run.medium]
    assert set(medium["precision"]) == {"fp16", "int8"}
    assert (medium["searched"] == 0.86).all() and (medium["held_out"] == 0.735).all()
    assert (medium["difference_to_full"] == -0.065).all() and (medium["p_value"] == 0.0042).all()
    assert table.loc[table["model"] == "pretrained", HELD_OUT].isna().all(axis=None)


def test_page_shows_both_columns_and_the_paired_test(run):
    hold_out(run)
    page = run.report()
    (section,) = re.findall(r"On items that the search has not seen.*?</table>", page, re.S)
    rows = [re.sub(r"<[^>]+>", " ", row).split() for row in re.findall(r"<tr.*?</tr>", section, re.S)]
    (medium,) = (" ".join(row) for row in rows if run.medium in row)
    assert "86.0 % 73.5 ± 3.1 %" in medium and medium.endswith("0.0042")
    assert "200 held out" in section
    assert "What items" in page


def test_page_has_no_such_section_where_all_items_were_searched(run):
    page = run.report()
    assert "not seen" not in page


def test_front_without_the_columns_is_named(run):
    path = run.results / "search/arc_easy/front.csv"
    pd.read_csv(path).drop(columns=HELD_OUT).to_csv(path, index=False)
    with pytest.raises(UserError, match=r"front\.csv.*searched"):
        run.summarize("arc_easy")
