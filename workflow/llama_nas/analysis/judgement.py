"""When two scores differ, how a score is printed, and which network to take: each rule in one place.

A difference counts only beyond two combined standard errors. The networks answer the same items, so their errors are
positively correlated and the combined error overstates the noise: the rule claims too little rather than too much.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import pandas as pd

Verdict = Literal["better", "worse", "within noise", "not judged"]

NOISE = 2.0  # combined standard errors
RULE = (
    "the smallest exported network whose FP16 score is not significantly worse than the pre-trained base's; "
    "if there is none, the one with the best score"
)


@dataclass(frozen=True)
class Metric:
    """A benchmark's metric by lm-eval's name. Values are lm-eval's: accuracies are shares of 1."""

    name: str
    higher_is_better: bool

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

    def verdict(self, value: float, stderr: float, reference: float, reference_stderr: float) -> Verdict:
        """`value` against `reference`; `not judged` where a standard error (or a value) is not known (NaN)."""
        threshold = NOISE * math.hypot(stderr, reference_stderr)
        improvement = self.improvement(value, reference)
        if math.isnan(threshold) or math.isnan(improvement):
            return "not judged"
        if abs(improvement) <= threshold:
            return "within noise"
        return "better" if improvement > 0 else "worse"

    def text(self, value: float, stderr: float = math.nan) -> str:
        """`81.2 ± 1.7 %` for accuracies, `2.345 ± 0.012` otherwise; no ± where the error is not known."""
        if math.isnan(value):
            return "–"
        scale, digits, unit = (100, 1, " %") if self.is_share else (1, 3, "")
        error = "" if math.isnan(stderr) else f" ± {scale * stderr:.{digits}f}"
        return f"{scale * value:.{digits}f}{error}{unit}"

    def difference_text(self, difference: float) -> str:
        """Signed, in percentage points for accuracies: `+1.2 points`, `−0.034`."""
        if math.isnan(difference):
            return "–"
        text = f"{100 * difference:+.1f} points" if self.is_share else f"{difference:+.3f}"
        return text.replace("-", "−")


def recommended(rows: pd.DataFrame, metric: Metric) -> str:
    """The model that RULE picks.

    rows: one per exported network (not the base), FP16, with columns model, size_bytes, value, value_difference and
    verdict (each against the base). A network that cannot be judged passes only if its score is no worse at all.
    """
    ordered = rows.assign(improvement=[metric.improvement(d, 0.0) for d in rows["value_difference"]])
    ordered = ordered.sort_values(["size_bytes", "improvement", "model"], ascending=[True, False, True])
    judged = ordered["verdict"].isin(["better", "within noise"])
    good = ordered[judged | ((ordered["verdict"] == "not judged") & (ordered["improvement"] >= 0))]
    if not good.empty:
        return str(good["model"].iloc[0])
    return str(ordered["model"].iloc[int(ordered["improvement"].to_numpy().argmax())])
