"""Which items a search takes: whole groups, subtasks evenly, the same for everyone."""

import numpy as np
import pytest

from llama_nas.core.errors import UserError
from llama_nas.core.items import Items, draw_groups, search_items_range


def made(subtasks, groups) -> Items:
    subtasks, groups = np.array(subtasks), np.array(groups)
    return Items(subtasks, groups, np.ones(len(groups)), draw_groups(subtasks, groups))


def in_fours(facts: int) -> Items:
    """Every fact in four phrasings, in mixed order."""
    return made([0] * 4 * facts, np.random.default_rng(0).permutation(4 * facts) % facts)


def test_a_group_is_never_divided_and_a_search_has_at_least_the_items_it_asks_for():
    items = in_fours(30)
    for count, groups in ((40, 10), (41, 11), (43, 11), (44, 11)):
        searched, held_out = items.split(count, "t")
        assert len(searched) == 4 * groups and len(held_out) == 120 - 4 * groups
        assert not set(items.groups[searched]) & set(items.groups[held_out])
        assert sorted([*searched, *held_out]) == list(range(120))
        assert (items.judged(count, "t") == held_out).all()
    assert set(items.split(20, "t")[0]) < set(items.split(60, "t")[0])  # a larger search has the smaller one's items
    assert len(items.judged(None, "t")) == 120


def test_both_sides_have_two_groups_and_every_subtask():
    """Of the three subtasks one has two groups: one on each side."""
    items = made([0] * 40 + [1] * 8 + [2] * 40, [*range(40), *[40] * 4, *[41] * 4, *range(42, 82)])
    fewest, most = search_items_range(items.subtasks, items.draws)
    for count in (fewest, most):
        for side in items.split(count, "t"):
            assert set(items.subtasks[side]) == {0, 1, 2} and len(set(items.groups[side])) >= 2
    for count in (fewest - 1, most + 1):
        with pytest.raises(UserError, match=rf"tasks\.t\.search_items {count} must lie in {fewest}\.\.{most}: "):
            items.split(count, "t")
    assert search_items_range(np.zeros(80, dtype=int), in_fours(20).draws) == (5, 72)


@pytest.mark.parametrize(
    ("subtasks", "groups"),
    [([0] * 9, [0, 0, 0, 1, 1, 1, 2, 2, 2]), ([0, 0, 0, 0, 1], [0, 1, 2, 3, 4]), ([0], [0])],
    ids=["three groups", "a subtask of one group", "one item"],
)
def test_too_few_groups_to_hold_some_out(subtasks, groups):
    with pytest.raises(UserError, match="search_items 3: the task has too few groups of items to hold some out"):
        made(subtasks, groups).split(3, "t")


def test_groups_are_drawn_at_random_and_subtasks_in_proportion():
    subtasks = np.repeat([0, 1], [300, 100])
    items = made(subtasks, np.arange(400))
    for count in (40, 200, 360):
        taken = items.subtasks[items.split(count, "t")[0]]
        assert abs((taken == 0).sum() - 0.75 * count) <= 1
    order = np.argsort(items.draws)
    assert abs(np.corrcoef(order[subtasks[order] == 0], np.arange(300))[0, 1]) < 0.2
    assert (made(subtasks, np.arange(400) + 7).draws == items.draws).all()  # names of groups do not matter


def test_a_group_of_several_subtasks_is_one_group():
    items = made([0, 0, 0, 0, 0, 1, 1, 1, 1, 1], [0, 1, 2, 3, 4, 0, 1, 2, 3, 4])
    assert (items.draws[:5] == items.draws[5:]).all() and set(items.draws) == set(range(5))
    searched, held_out = items.split(5, "t")
    assert len(searched) == 6 and not set(items.groups[searched]) & set(items.groups[held_out])


def test_a_table_of_items_is_read_as_it_was_written(tmp_path):
    items = in_fours(3)
    items.write(tmp_path)
    read = Items.read(tmp_path)
    for name in ("subtasks", "groups", "weights", "draws"):
        assert (getattr(read, name) == getattr(items, name)).all()
    with pytest.raises(UserError, match=r"items\.csv: not found"):
        Items.read(tmp_path / "other")
