"""How good predictions of a metric were."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import kendalltau


@dataclass(frozen=True)
class Quality:
    """Out-of-sample quality, in the metric's own unit.

    `kendall_tau` is None where no ranking exists (all targets or all predictions equal). Calibration: `bias` is the
    mean of prediction minus measurement, `slope` that of the line through measurements against predictions: 1 where a
    difference of predictions is a difference of measurements, below 1 where predictions spread too far; None where all
    predictions are equal.
    """

    kendall_tau: float | None
    mae: float
    bias: float
    slope: float | None


def quality(targets: np.ndarray, predicted: np.ndarray) -> Quality:
    """Kendall's tau-b, mean absolute error and calibration of predictions, [n] each, n >= 1."""
    spread = predicted - predicted.mean()
    differ = len(np.unique(predicted)) > 1
    slope = float(spread @ targets / (spread @ spread)) if differ else None
    errors = predicted - targets
    return Quality(kendall_tau(targets, predicted), float(np.abs(errors).mean()), float(errors.mean()), slope)


def kendall_tau(targets: np.ndarray, predicted: np.ndarray) -> float | None:
    """Kendall's tau-b; None where all targets or all predictions are equal."""
    if len(np.unique(targets)) < 2 or len(np.unique(predicted)) < 2:
        return None
    return float(kendalltau(targets, predicted).statistic)
