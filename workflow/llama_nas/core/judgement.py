"""Is a network worse than another? The one rule, for fronts, tables, cards, the page and `llama-nas pick`.

Two networks answer the same items, so what counts is the difference on each item. Items of a group (`core/items.py`)
stand or fall together, so groups are what was drawn, and the difference has a 95 % interval over groups: that of a
ratio of sums, with Student's t. To the groups two are added, of mean size, one all gained and one all lost: Bonett &
Price's adjusted Wald interval for paired shares (2012, doi:10.3102/1076998611411915), carried over to groups. Without
them no change on any item would give an interval of no width.

Networks of a front are tested from the largest to the smallest, each at its own 95 %, and none after the first that
fails: a fixed sequence, in which the chance that any network that loses too much is called `shown` is that of a single
test, nominally 2.5 %. What simulation says of it stands in docs/design/judgement.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llama_nas.core.artifacts import read_json
from llama_nas.core.errors import UserError
from llama_nas.core.items import Items

if TYPE_CHECKING:
    import pandas as pd

CONFIDENCE = 0.95  # two-sided
SHOWN, NOT_REFUTED, WORSE = VERDICTS = ("shown", "not refuted", "worse")
Verdict = Literal["shown", "not refuted", "worse"]
RULE = (
    "the smallest network of the front that is shown to lose no more than allowed against the pre-trained base; "
    "if none is, the smallest for which that is not refuted; else the full super-network"
)
SEQUENCE = (
    "networks are tested from the largest to the smallest, and none counts as shown after the first that is not: so "
    "the chance that any network that loses more is called shown is that of a single test, 2.5 %"
)
HELD_OUT, SEARCHED = "held out", "searched"  # values of the column judged_on
MOST_ITEMS = 10**7  # more than this no number is named for


@dataclass(frozen=True)
class Metric:
    """A benchmark's metric by lm-eval's name. Values are lm-eval's: accuracies are shares of 1.

    A difference that is judged is what is gained: positive is better, whatever the metric's direction. It is one of
    shares for accuracies (-0.01: a point lost), and relative for all other metrics (-0.01: 1 % worse).
    """

    name: str
    higher_is_better: bool

    @classmethod
    def of(cls, description: Mapping[str, Any]) -> Metric:
        """The metric that a task is searched by. description: the contents of task.json."""
        return cls(description["metric"], bool(description["higher_is_better"]))

    @property
    def is_share(self) -> bool:
        """Whether values are shares of the items, to be printed in percent."""
        return self.name.startswith("acc")

    @property
    def direction(self) -> str:
        return "higher is better" if self.higher_is_better else "lower is better"

    def improvement(self, value: float, reference: float) -> float:
        """How much better `value` is than `reference`: positive is better, whatever the metric's direction."""
        return value - reference if self.higher_is_better else reference - value

    def text(self, value: float, stderr: float = math.nan) -> str:
        """`81.2 ± 1.7 %` for accuracies, `2.345 ± 0.012` otherwise; no ± where the error is not known."""
        if math.isnan(value):
            return "–"
        scale, digits, unit = (100, 1, " %") if self.is_share else (1, 3, "")
        error = "" if math.isnan(stderr) else f" ± {scale * stderr:.{digits}f}"
        return f"{scale * value:.{digits}f}{error}{unit}"

    def difference_text(self, difference: float) -> str:
        """A plain difference of two values, signed, in percentage points for accuracies: `+1.2 points`, `−0.034`."""
        if math.isnan(difference):
            return "–"
        text = f"{100 * difference:+.1f} points" if self.is_share else f"{difference:+.3f}"
        return text.replace("-", "−")

    def judged_text(self, difference: float, lower: float, upper: float) -> str:
        """A judged difference with its interval: `−0.4 points (−1.1 to +0.3)`.

        Of a metric of which less is better it is what the value changes by: `+0.5 % (+0.2 to +0.8)` is worse.
        """
        if math.isnan(difference):
            return "–"
        ends = (difference, lower, upper) if self.higher_is_better else (-difference, -upper, -lower)
        change, low, high = (f"{100 * end:+.1f}".replace("-", "−") for end in ends)
        return f"{change} {'points' if self.is_share else '%'} ({low} to {high})"

    def drop_text(self, max_drop: float) -> str:
        """What may be given up: `1 point`, `0.5 points`, `1 %`."""
        unit = f"point{'' if max_drop == 0.01 else 's'}" if self.is_share else "%"
        return f"{100 * max_drop:.3g} {unit}"

    def verdict_text(self, verdict: Verdict, max_drop: float) -> str:
        """What a verdict says: `shown: it loses less than 1 point`."""
        drop = self.drop_text(max_drop)
        meant = {
            "shown": f"it loses less than {drop}",
            "not refuted": f"it may lose less than {drop}, and may lose more",
            "worse": f"it loses {drop} or more, as far as these items tell",
        }
        return f"{verdict}: {meant[verdict]}"

    def score(self, items: Items, values: np.ndarray) -> float:
        """The metric on some items. values: of each, 1 or 0 for a choice, the log-likelihood of a text; [items]."""
        if self.is_share:
            return float((items.weights * values).sum() / items.weights.sum())
        mean = values.sum() / items.weights.sum()
        return float(-mean / math.log(2)) if self.name == "bits_per_byte" else math.exp(-mean)


@dataclass(frozen=True)
class Comparison:
    """Two networks on the same items: the difference, the ends of its interval, and the verdict."""

    metric: Metric
    changes: np.ndarray  # [groups] what is gained or lost in each
    sizes: np.ndarray  # [groups] what that is a share of
    items: int

    @cached_property
    def interval(self) -> tuple[float, float, float]:
        """What the network gains on the other one (see `Metric`; negative: it loses), and the interval's ends."""
        return self._interval(1.0)

    def _interval(self, times: float) -> tuple[float, float, float]:
        """The interval if there were `times` as many groups like these."""
        ends = ratio_interval(self.changes, self.sizes, adjusted=self.metric.is_share, times=times)
        is_power = not self.metric.is_share and self.metric.name != "bits_per_byte"  # a perplexity, of the mean
        difference, lower, upper = (float(np.expm1(end) if is_power else end) for end in ends)
        return (difference, lower, upper) if self.metric.higher_is_better else (-difference, -upper, -lower)

    def verdict(self, max_drop: float) -> Verdict:
        difference, lower, _ = self.interval
        return verdict(difference, lower, max_drop)

    def items_needed(self, max_drop: float) -> int | None:
        """So many items like these, these at least, would show a difference as it was seen; None: not MOST_ITEMS."""

        def enough(count: float) -> bool:
            return self._interval(count / self.items)[1] > -max_drop

        if enough(self.items):
            return self.items
        if not enough(MOST_ITEMS):
            return None
        low, high = self.items, MOST_ITEMS
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if enough(middle) else (middle, high)
        return high


def compare(metric: Metric, items: Items, own: np.ndarray, reference: np.ndarray) -> Comparison:
    """A network against another one on some items.

    own, reference: of each item, 1 or 0 for a choice, the log-likelihood of a text; [items].
    """
    if metric.is_share:
        changes, sizes = items.weights * (own - reference), items.weights
    elif metric.name == "bits_per_byte":  # proportional to the sum of log-likelihoods
        changes, sizes = own - reference, reference
    else:
        changes, sizes = reference - own, items.weights
    _, groups = np.unique(items.groups, return_inverse=True)
    return Comparison(metric, np.bincount(groups, changes), np.bincount(groups, sizes), len(items))


def ratio_interval(
    changes: np.ndarray, sizes: np.ndarray, *, adjusted: bool, times: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sum of changes over sum of sizes, with the ends of its interval; over groups, the last axis.

    adjusted: for shares, with the two groups of the module's docstring; the ends then lie within -1 and 1. times: as if
    there were so many times these groups. One group alone says nothing without them: its interval is endless.
    """
    from scipy.special import stdtrit

    def total(values: np.ndarray) -> np.ndarray:
        return times * values.sum(axis=-1)

    groups, change, size = times * changes.shape[-1], total(changes), total(sizes)
    estimate = change / size
    change_squares, products, size_squares = total(changes**2), total(changes * sizes), total(sizes**2)
    if adjusted:
        mean = size / groups
        groups, size = groups + 2, size + 2 * mean
        change_squares, size_squares = change_squares + 2 * mean**2, size_squares + 2 * mean**2
    elif groups < 2:
        return estimate, np.full_like(estimate, -np.inf), np.full_like(estimate, np.inf)
    centre = change / size
    squares = change_squares - 2 * centre * products + centre**2 * size_squares
    error = np.sqrt(np.maximum(squares, 0) * groups / (groups - 1)) / np.abs(size)
    half = stdtrit(groups - 1, (1 + CONFIDENCE) / 2) * error
    if adjusted:
        return estimate, np.maximum(centre - half, -1), np.minimum(centre + half, 1)
    return estimate, centre - half, centre + half


def verdict(difference: float, lower: float, max_drop: float) -> Verdict:
    """Of a network alone, from what it gains and the interval's lower end: whether it loses more than it may."""
    if lower > -max_drop:
        return "shown"
    return "not refuted" if difference > -max_drop else "worse"


def in_sequence(alone: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts on networks from the largest to the smallest, from those on each alone: see the module's docstring.

    What would be `shown` after the first that is not is `not refuted`.
    """
    passed, verdicts = True, list[Verdict]()
    for verdict in alone:
        passed = passed and verdict == SHOWN
        verdicts.append("not refuted" if verdict == SHOWN and not passed else verdict)
    return verdicts


def tested(judgement: pd.DataFrame) -> pd.DataFrame:
    """The rows of judgement.csv that are tested, in the order of the sequence: the finalists of the search.

    The full network is one of them where it is on the front; else nobody chose it, and it is judged alone.
    """
    ordered = judgement.iloc[::-1]
    return ordered if ordered["on_front"].iloc[0] else ordered.iloc[1:]


def recommended(verdicts: Sequence[Verdict]) -> int | None:
    """The place of the network that RULE picks among those from the largest to the smallest; None: the full one."""
    for wanted in (SHOWN, NOT_REFUTED):
        places = [place for place, verdict in enumerate(verdicts) if verdict == wanted]
        if places:
            return places[-1]
    return None


def read_item_values(benchmark: Path, task: str, metric: str, items: int) -> np.ndarray:
    """What a model answers to all of a task's items, by stock lm-eval: `item_values` of its JSON, [items].

    Raises UserError for a result of another task, metric or number of items.
    """
    result = read_json(benchmark)
    values = np.array(result.get("item_values", []), dtype=float)
    if (result.get("task"), result.get("metric"), len(values)) != (task, metric, items):
        raise UserError(f"{benchmark}: has no item_values of {metric} on the {items} items of task '{task}'")
    return values


def parse_answers(text: str, metric: Metric) -> np.ndarray:
    """A network's answers as tables hold them: `0110` for choices, log-likelihoods between blanks for texts."""
    return np.array(list(text) if metric.is_share else text.split(), dtype=float)


def format_answers(values: np.ndarray, metric: Metric) -> str:
    """What `parse_answers` reads."""
    return "".join(str(int(value)) for value in values) if metric.is_share else " ".join(map(repr, values.tolist()))
