"""Non-domination and hypervolume, against brute force and against pymoo."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_nas.core.pareto import hypervolume, non_dominated, spread

# few distinct values, so that ties and repeats are common
points = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=25).map(
    lambda rows: np.array(rows, dtype=float).reshape(-1, 2)
)


def dominates(a, b) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


@given(points)
@settings(max_examples=300, deadline=None)
def test_non_dominated_is_brute_force_with_the_first_of_equal_rows(objectives):
    rows = [tuple(row) for row in objectives]
    expected = [not any(dominates(other, row) for other in rows) and row not in rows[:i] for i, row in enumerate(rows)]
    assert non_dominated(objectives).tolist() == expected


@given(points)
@settings(max_examples=100, deadline=None)
def test_non_dominated_agrees_with_pymoo(objectives):
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

    if not len(objectives):
        return
    first_front = NonDominatedSorting().do(objectives, only_non_dominated_front=True)
    ours = {tuple(row) for row in objectives[non_dominated(objectives)]}
    assert ours == {tuple(row) for row in objectives[first_front]}


def test_non_dominated_takes_three_objectives():
    objectives = np.array([[1, 1, 1], [1, 1, 0], [2, 0, 5], [2, 0, 5], [3, 3, 3]])
    assert non_dominated(objectives).tolist() == [False, True, True, False, False]


def test_near_ties_in_size_are_kept():
    sizes = [4_578_283_520, 4_576_219_136, 4_574_154_752]  # (24,8), (28,20), (32,32) of the paper's space
    objectives = np.column_stack([sizes, [-0.52, -0.51, -0.50]])
    assert non_dominated(objectives).all()


def test_no_points_have_no_front_and_no_volume():
    assert non_dominated(np.empty((0, 2))).tolist() == []
    assert hypervolume(np.empty((0, 2)), np.array([1, 1])) == 0


@given(points, st.tuples(st.integers(0, 7), st.integers(0, 7)))
@settings(max_examples=300, deadline=None)
def test_hypervolume_of_integer_points_counts_unit_squares(objectives, reference):
    covered = {
        (x, y)
        for x in range(reference[0])
        for y in range(reference[1])
        if any(px <= x and py <= y for px, py in objectives)
    }
    assert hypervolume(objectives, np.array(reference)) == len(covered)


@pytest.mark.parametrize("seed", range(5))
def test_hypervolume_is_pymoos(seed):
    from pymoo.indicators.hv import HV

    rng = np.random.default_rng(seed)
    objectives = rng.normal(size=(80, 2))
    reference = np.array([0.8, 0.9])
    inside = objectives[np.all(objectives < reference, axis=1)]
    assert hypervolume(objectives, reference) == pytest.approx(HV(ref_point=reference)(inside), rel=1e-12)


def test_points_on_or_outside_the_reference_add_nothing():
    reference = np.array([1.0, 1.0])
    assert hypervolume(np.array([[1.0, 0.0], [0.0, 1.0], [2.0, -5.0]]), reference) == 0
    assert hypervolume(np.array([[0.5, 0.5], [2.0, -5.0]]), reference) == 0.25


def test_members_are_spread_over_the_sizes_ends_included():
    sizes = [10.0, 50.0, 11.0, 30.0, 12.0, 49.0]
    assert spread(sizes, 3) == [0, 3, 1]
    assert spread(sizes, 1) == [1]
    assert spread(sizes, "all") == spread(sizes, 9) == [0, 2, 4, 3, 5, 1]


def test_of_two_equally_near_sizes_the_smaller_is_a_member():
    assert spread([0.0, 4.0, 6.0, 10.0], 3) == [0, 1, 3]
