"""The rule: its interval against other authorities and in simulation, the sequence, the choice."""

import math

import numpy as np
import pytest
from scipy.stats import bootstrap, norm

from llama_nas.core.items import Items, draw_groups
from llama_nas.core.judgement import (
    NOT_REFUTED,
    SHOWN,
    WORSE,
    Metric,
    compare,
    format_answers,
    in_sequence,
    parse_answers,
    ratio_interval,
    recommended,
    verdict,
)

ACCURACY, BITS, PERPLEXITY = Metric("acc", True), Metric("bits_per_byte", False), Metric("word_perplexity", False)
SIMULATIONS = 1000
ERRORS = 3  # of a simulated share, in its standard errors: one of the shares below in 700 lies further off by chance


def items_of(groups, weights=None) -> Items:
    groups = np.array(groups)
    subtasks = np.zeros(len(groups), dtype=int)
    weights = np.ones(len(groups)) if weights is None else np.array(weights, dtype=float)
    return Items(subtasks, groups, weights, draw_groups(subtasks, groups))


def beyond(share: float, simulations: int = SIMULATIONS) -> float:
    """What a simulated share may lie above or below the true one."""
    return ERRORS * math.sqrt(share * (1 - share) / simulations)


# ------------------------------------------------------------------ the interval, against other authorities


@pytest.mark.parametrize(
    ("items", "gained", "lost", "lower", "upper"),
    [(161, 6, 16, -0.1195, -0.0032), (21, 1, 7, -0.5085, -0.0133)],
    ids=["Cavo 2012", "Bentur 2009"],
)
def test_each_item_a_group_is_bonett_and_prices_interval(items, gained, lost, lower, upper):
    """The first as R's contingencytables prints it. Ours has Student's t, and n - 1 for n in the variance."""
    changes = np.repeat([1.0, -1.0, 0.0], [gained, lost, items - gained - lost])
    estimate, *ends = ratio_interval(changes, np.ones(items), adjusted=True)
    assert estimate == pytest.approx((gained - lost) / items)
    centre, half = (lower + upper) / 2, (upper - lower) / 2
    assert sum(ends) / 2 == pytest.approx(centre, abs=1e-4)
    wider = (ends[1] - ends[0]) / 2 / half
    assert 1 < wider < 1 + 3 / items
    no_change = ratio_interval(np.zeros(items), np.ones(items), adjusted=True)
    assert no_change[2] == -no_change[1] and no_change[2] > norm.ppf(0.975) * math.sqrt(2) / (items + 2)


def test_groups_are_what_the_bootstrap_draws():
    """Groups of one to six items that stand and fall together: scipy's bootstrap over groups finds the same ends."""
    rng = np.random.default_rng(3)
    sizes = rng.integers(1, 7, 300).astype(float)
    changes = sizes * rng.choice([-1, 0, 1], 300, p=[0.12, 0.8, 0.08])

    def ratio(changes, sizes, axis):
        return changes.sum(axis=axis) / sizes.sum(axis=axis)

    drawn = bootstrap((changes, sizes), ratio, paired=True, vectorized=True, n_resamples=4000, rng=rng)
    expected = drawn.confidence_interval
    _, lower, upper = ratio_interval(changes, sizes, adjusted=False)
    width = expected.high - expected.low
    assert lower == pytest.approx(expected.low, abs=0.06 * width)
    assert upper == pytest.approx(expected.high, abs=0.06 * width)
    apart = ratio_interval(np.repeat(changes / sizes, sizes.astype(int)), np.ones(int(sizes.sum())), adjusted=False)
    assert apart[2] - apart[1] < 0.65 * width  # had they been taken for as many draws as items


# ------------------------------------------------------------------ the interval, in simulation


def flips(items: int, group: int, together: float, lost: float, gained: float, seed: int = 0) -> np.ndarray:
    """Changes by group, [simulations, groups]; a share `together` of the groups flips as one, the others by item."""
    rng = np.random.default_rng(seed)
    shape = SIMULATIONS, items // group
    as_one = rng.random((*shape, 1)) < together
    drawn = np.where(as_one, rng.random((*shape, 1)), rng.random((*shape, group)))
    return ((drawn < gained).astype(float) - (drawn > 1 - lost)).sum(axis=-1)


def simulated(items: int, group: int, together: float, lost: float, gained: float):
    changes = flips(items, group, together, lost, gained)
    _, lower, upper = ratio_interval(changes, np.full_like(changes, group), adjusted=True)
    return lower, upper


DRAWS = [(1, 0.0), (4, 0.0), (4, 0.5), (4, 1.0)]
# Shares lost and gained: none and nearly none, a few, many; as much of each, and more lost.
FLIPS = [(0.0, 0.0), (0.001, 0.001), (0.01, 0.01), (0.05, 0.05), (0.03, 0.01), (0.06, 0.04), (0.12, 0.1)]


@pytest.mark.parametrize("items", [100, 300, 1000])
@pytest.mark.parametrize(("group", "together"), DRAWS)
def test_the_interval_covers_the_true_difference(items, group, together):
    """In 95 % of all samples or more; where groups change often enough for a normal share, in no more than 98 %."""
    for lost, gained in FLIPS:
        lower, upper = simulated(items, group, together, lost, gained)
        covered = ((lower <= gained - lost) & (gained - lost <= upper)).mean()
        assert covered >= 0.95 - beyond(0.95), (lost, gained)
        as_one = together == 1 or group == 1
        if as_one and items // group * (lost + gained) >= 50:
            assert covered <= 0.98, (lost, gained)


@pytest.mark.parametrize("items", [100, 300, 1000])
@pytest.mark.parametrize(("group", "together"), DRAWS)
def test_a_network_that_loses_twice_the_margin_is_hardly_ever_shown(items, group, together):
    for lost, gained in [(0.002, 0.0), (0.01, 0.0), (0.02, 0.0), (0.03, 0.01), (0.06, 0.04), (0.12, 0.1), (0.2, 0.1)]:
        lower, _ = simulated(items, group, together, lost, gained)
        margin = (lost - gained) / 2
        assert (lower > -margin).mean() <= 0.025 + beyond(0.025), (lost, gained)


@pytest.mark.parametrize(("group", "together"), DRAWS)
def test_a_network_that_loses_just_the_margin_is_shown_in_few_samples(group, together):
    """In 2.5 % where networks also gain items; where all change is loss, the distribution is skewed."""
    for lost, gained, most in [(0.02, 0.01, 0.025), (0.06, 0.05, 0.025), (0.01, 0.0, 0.06), (0.02, 0.0, 0.06)]:
        lower, _ = simulated(1000, group, together, lost, gained)
        assert (lower > gained - lost + 1e-9).mean() <= most + beyond(most), (lost, gained)


def test_enough_items_show_a_network_that_loses_nothing():
    """What the caution costs: one flip in a hundred items, as often gained as lost, and a margin of one point."""
    shown = {items: (simulated(items, 1, 0, 0.005, 0.005)[0] > -0.01).mean() for items in (300, 1000, 3000)}
    assert shown[300] < 0.4 < 0.7 < shown[1000] < 0.99 < shown[3000]


def test_the_sequence_keeps_the_error_of_the_family():
    """Eight networks that all lose just what may be lost: that any is shown is as rare as that one given is."""
    members, margin = 8, 0.05
    lower = np.stack(
        [
            ratio_interval(changes := flips(400, 1, 0, 0.15, 0.10, seed), np.ones_like(changes), adjusted=True)[1]
            for seed in range(members)
        ]
    )
    alone = np.where(lower > -margin, SHOWN, WORSE)
    shown = [SHOWN in in_sequence(list(verdicts)) for verdicts in alone.T]
    assert np.mean(shown) <= 0.025 + beyond(0.025)
    assert (alone == SHOWN).any(axis=0).mean() > 0.1  # without the sequence


# ------------------------------------------------------------------ verdicts and choice


def test_a_verdict_needs_the_interval_and_not_the_estimate_alone():
    assert verdict(-0.005, -0.009, 0.01) == SHOWN
    assert verdict(-0.005, -0.02, 0.01) == NOT_REFUTED
    assert verdict(-0.015, -0.02, 0.01) == WORSE
    assert verdict(-0.015, -0.02, 0.03) == SHOWN


def test_nothing_is_shown_after_the_first_that_is_not():
    assert in_sequence([SHOWN, SHOWN, NOT_REFUTED, SHOWN, WORSE]) == [SHOWN, SHOWN, NOT_REFUTED, NOT_REFUTED, WORSE]
    assert in_sequence([WORSE, SHOWN, SHOWN]) == [WORSE, NOT_REFUTED, NOT_REFUTED]
    assert in_sequence([SHOWN] * 3) == [SHOWN] * 3 and in_sequence([]) == []


def test_the_smallest_shown_else_the_smallest_not_refuted_else_the_full_network():
    assert recommended([SHOWN, SHOWN, NOT_REFUTED, WORSE]) == 1
    assert recommended([WORSE, NOT_REFUTED, NOT_REFUTED, WORSE]) == 2
    assert recommended([WORSE, WORSE]) is None and recommended([]) is None


# ------------------------------------------------------------------ from answers to a comparison


def test_items_of_a_group_count_as_one_draw():
    """40 items, of which the eight of two groups are lost; the group of an item is known by its name alone."""
    own, base = np.ones(40), np.ones(40)
    own[:8] = 0
    apart = compare(ACCURACY, items_of(range(40)), own, base)
    together = compare(ACCURACY, items_of(np.repeat(np.arange(10), 4)), own, base)
    assert apart.interval[0] == together.interval[0] == -0.2
    expected = ratio_interval(np.repeat([-4.0, 0.0], [2, 8]), np.full(10, 4.0), adjusted=True)
    assert together.interval == pytest.approx(expected)
    assert together.interval[1] < apart.interval[1]


def test_weights_make_the_difference_that_of_the_metric():
    """Two subtasks of 2 and 6 items, whose plain mean is the metric."""
    items = items_of(range(8), weights=np.repeat([2.0, 2 / 3], [2, 6]))
    own, base = np.array([1, 0, 1, 1, 1, 0, 0, 0]), np.array([1, 1, 1, 1, 1, 1, 0, 0])
    assert ACCURACY.score(items, own) == pytest.approx((1 / 2 + 3 / 6) / 2)
    assert compare(ACCURACY, items, own, base).interval[0] == pytest.approx((-1 / 2 - 1 / 6) / 2)


@pytest.mark.parametrize("metric", [BITS, PERPLEXITY])
def test_texts_are_compared_relatively_and_a_gain_is_positive(metric):
    rng = np.random.default_rng(0)
    words = rng.integers(50, 200, 60).astype(float)
    items, base = items_of(range(60), weights=words), -2 * words * rng.uniform(0.9, 1.1, 60)
    own = base * rng.normal(1.02, 0.01, 60)  # log-likelihoods 2 % lower
    worse, better = compare(metric, items, own, base), compare(metric, items, base, own)
    relative = metric.score(items, own) / metric.score(items, base) - 1
    difference, lower, upper = worse.interval
    assert difference == pytest.approx(-relative) and relative > 0.01 and lower < difference < upper < 0
    assert better.interval[0] > 0 and better.verdict(0.01) == SHOWN
    assert worse.verdict(0.01) == WORSE and worse.verdict(0.1) == SHOWN

    def change(own, base, words, axis):
        ratio = own.sum(axis=axis) / base.sum(axis=axis) - 1
        return -ratio if metric is BITS else 1 - np.exp((base - own).sum(axis=axis) / words.sum(axis=axis))

    drawn = bootstrap((own, base, words), change, paired=True, vectorized=True, n_resamples=4000, rng=rng)
    ends = drawn.confidence_interval
    assert [lower, upper] == pytest.approx([ends.low, ends.high], abs=0.1 * (ends.high - ends.low))


def test_items_needed_are_those_that_show_it():
    """300 items with two lost and two gained, seen as often as it takes."""
    base = np.zeros(300)
    base[:2], own = 1, np.zeros(300)
    own[2:4] = 1
    found = compare(ACCURACY, items_of(range(300)), own, base)
    assert found.verdict(0.01) == NOT_REFUTED
    needed = found.items_needed(0.01)

    def seen(times):
        return compare(ACCURACY, items_of(range(300 * times)), np.tile(own, times), np.tile(base, times)).verdict(0.01)

    times = needed / 300
    assert 1 < times < 4 and seen(math.ceil(times)) == SHOWN and seen(math.ceil(times) - 1) == NOT_REFUTED
    assert found.items_needed(0.1) == 300
    lost = compare(ACCURACY, items_of(range(300)), np.zeros(300), np.repeat([1.0, 0.0], [6, 294]))
    assert lost.items_needed(0.01) is None  # two points are lost, however often that is seen


def test_answers_are_read_as_they_were_written():
    values = np.array([0, 1, 1, 0])
    assert format_answers(values, ACCURACY) == "0110" and (parse_answers("0110", ACCURACY) == values).all()
    values = np.array([-12.345678901234567, -1e-3])
    assert (parse_answers(format_answers(values, BITS), BITS) == values).all()


def test_differences_are_printed_in_the_metrics_own_direction():
    assert ACCURACY.judged_text(-0.004, -0.011, 0.003) == "−0.4 points (−1.1 to +0.3)"
    assert BITS.judged_text(-0.005, -0.008, -0.002) == "+0.5 % (+0.2 to +0.8)"
    assert ACCURACY.judged_text(math.nan, math.nan, math.nan) == "–"
    assert [ACCURACY.drop_text(drop) for drop in (0.01, 0.005, 0.02)] == ["1 point", "0.5 points", "2 points"]
    assert BITS.drop_text(0.01) == "1 %"
