"""Predictors of a task's metric from one-hot networks: ridge, RBF-SVR, LightGBM, set for 50 to 250 rows.

`strict` is DyNAS-T's `dynamic_predictor.py`: the better of ridge and RBF-SVR by
5-fold mean absolute percentage error, folds unshuffled. `default` takes the best Kendall tau of shuffled folds,
because NSGA-II only ranks networks. The paper does not name its predictor; DyNAS-T has no LightGBM.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import kendalltau
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold
from sklearn.svm import SVR

FOLDS = 5
Hyperparameters = dict[str, Any]

# LightGBM's own defaults (20 rows per leaf, 31 leaves) barely split 50 rows; two leaves are an additive model.
LIGHTGBM_GRID: list[Hyperparameters] = [
    {"n_estimators": 200, "learning_rate": 0.1, "num_leaves": leaves, "min_child_samples": 3, "min_data_in_bin": 1}
    for leaves in (2, 4, 8)
]
GRIDS: dict[str, dict[str, list[Hyperparameters]]] = {
    "strict": {
        "ridge": [{"alpha": tenth / 10} for tenth in range(1, 101)],
        "svr": [{"C": float(cost), "gamma": "auto", "epsilon": 0.0, "max_iter": 1_000_000} for cost in range(1, 101)],
        "lightgbm": LIGHTGBM_GRID,
    },
    "default": {
        "ridge": [{"alpha": alpha} for alpha in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)],
        "svr": [{"C": cost, "gamma": "scale", "epsilon": 0.1} for cost in (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)],
        "lightgbm": LIGHTGBM_GRID,
    },
}
AUTO = {"strict": ("ridge", "svr"), "default": ("ridge", "svr", "lightgbm")}  # ties go to the first


@dataclass(frozen=True)
class Quality:
    """Out-of-sample quality; `kendall_tau` is None where no ranking exists (all targets or all predictions equal)."""

    kendall_tau: float | None
    mae: float


@dataclass(frozen=True)
class Choice:
    """A kind of predictor, its best hyper-parameters and their cross-validated quality."""

    kind: str
    hyperparameters: Hyperparameters
    quality: Quality
    score: float  # what the variant compares, higher is better


def _regressor(kind: str, hyperparameters: Hyperparameters, seed: int):
    if kind == "ridge":
        return Ridge(**hyperparameters)
    if kind == "svr":
        return SVR(kernel="rbf", **hyperparameters)
    from lightgbm import LGBMRegressor

    return LGBMRegressor(
        **hyperparameters, random_state=seed % 2**31, deterministic=True, force_row_wise=True, n_jobs=1, verbose=-1
    )


@dataclass
class Predictor:
    """A regressor with its scaling of the targets; `fit` once, then `predict`.

    strict divides the targets by a power of ten, so that the largest lies in 10..100 (DyNAS-T); default standardises
    them. Columns that are constant in the training rows are left out (they change the RBF kernel's `auto` width).
    """

    kind: str
    hyperparameters: Hyperparameters
    variant: str
    seed: int
    shift: float = field(init=False)
    scale: float = field(init=False)

    def fit(self, features: np.ndarray, targets: np.ndarray) -> Predictor:
        """features: [n, columns]; targets: [n]."""
        self._columns, scaled, self.shift, self.scale = _prepare(features, targets, self.variant)
        self._regressor = _regressor(self.kind, self.hyperparameters, self.seed)
        self._regressor.fit(features[:, self._columns], scaled)
        return self

    def predict(self, features: np.ndarray) -> np.ndarray:
        """The metric in its own unit, [n]."""
        with warnings.catch_warnings():  # LightGBM names its columns and then misses the names
            warnings.filterwarnings("ignore", message="X does not have valid feature names")
            return self._regressor.predict(features[:, self._columns]) * self.scale + self.shift


def _prepare(features: np.ndarray, targets: np.ndarray, variant: str) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Columns that vary, the scaled targets, their shift and scale."""
    columns = np.flatnonzero(features.var(axis=0) > 0)
    if not len(columns):
        columns = np.arange(features.shape[1])  # one network only: any column will do
    if variant == "strict":
        largest = np.abs(targets).max()
        shift, scale = 0.0, 10.0 ** (np.floor(np.log10(largest)) - 1) if largest > 0 else 1.0
    else:
        shift, scale = float(targets.mean()), float(targets.std()) or 1.0
    return columns, (targets - shift) / scale, shift, scale


def quality(targets: np.ndarray, predicted: np.ndarray) -> Quality:
    """Kendall's tau-b and mean absolute error of predictions, [n] each, n >= 1."""
    ranked = len(np.unique(targets)) > 1 and len(np.unique(predicted)) > 1
    tau = float(kendalltau(targets, predicted).statistic) if ranked else None
    return Quality(tau, float(np.abs(targets - predicted).mean()))


def choose(
    predictor: str, variant: str, features: np.ndarray, targets: np.ndarray, seed: int
) -> tuple[Choice, list[Choice]]:
    """Cross-validate the configured kind, or for `auto` all kinds of the variant; returns the best, and all of them.

    features: [n, columns]; targets: [n], n >= 3.
    """
    kinds = AUTO[variant] if predictor == "auto" else (predictor,)
    choices = [_tune(kind, variant, features, targets, seed) for kind in kinds]
    return max(choices, key=lambda choice: choice.score), choices


def _tune(kind: str, variant: str, features: np.ndarray, targets: np.ndarray, seed: int) -> Choice:
    """Best hyper-parameters of one kind by K-fold cross-validation (K = 5, or the number of rows if fewer)."""
    shuffled = {"shuffle": True, "random_state": seed % 2**32} if variant == "default" else {}
    folds = list(KFold(min(FOLDS, len(targets)), **shuffled).split(targets))
    columns, scaled, shift, scale = _prepare(features, targets, variant)
    features = features[:, columns]
    choices = []
    for hyperparameters in GRIDS[variant][kind]:
        predicted = np.empty_like(targets)
        for train, test in folds:
            regressor = _regressor(kind, hyperparameters, seed).fit(features[train], scaled[train])
            predicted[test] = regressor.predict(features[test]) * scale + shift
        result = quality(targets, predicted)
        if variant == "strict":
            score = -float(np.mean([_percentage_error(targets[test], predicted[test]) for _, test in folds]))
        else:
            score = -np.inf if result.kendall_tau is None else result.kendall_tau
        choices.append(Choice(kind, hyperparameters, result, score))
    return max(choices, key=lambda choice: choice.score)


def _percentage_error(targets: np.ndarray, predicted: np.ndarray) -> float:
    return float(np.mean(np.abs(targets - predicted) / np.maximum(np.abs(targets), np.finfo(float).eps)))
