"""Predictors of a task's metric from one-hot networks: ridge, RBF-SVR, LightGBM, set for 50 to 250 rows.

`strict` is DyNAS-T's `dynamic_predictor.py`: the better of ridge and RBF-SVR by
5-fold mean absolute percentage error, folds unshuffled. `default` takes the best Kendall tau of shuffled folds,
because NSGA-II only ranks networks. The paper does not name its predictor; DyNAS-T has no LightGBM.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn import config_context
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold
from sklearn.svm import SVR

from llama_nas.search.quality import Quality, kendall_tau, quality

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
        if not len(features):
            return np.empty(0)
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
    grid = GRIDS[variant][kind]
    predicted = np.empty((len(grid), len(targets)))
    for train, test in folds:
        values = OVER_GRID[kind](grid, features[train], scaled[train], features[test], seed)
        predicted[:, test] = values * scale + shift
    if variant == "strict":
        errors = np.abs(targets - predicted) / np.maximum(np.abs(targets), np.finfo(float).eps)
        scores = [-float(np.mean([row[test].mean() for _, test in folds])) for row in errors]
    else:
        taus = [kendall_tau(targets, row) for row in predicted]
        scores = [-np.inf if tau is None else tau for tau in taus]
    best = int(np.argmax(scores))
    return Choice(kind, grid[best], quality(targets, predicted[best]), scores[best])


# A kind's predictions for each entry of its grid, [grid, test rows]: the same as one regressor after the other.
Over = Callable[[list[Hyperparameters], np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]


def _ridge_over_grid(
    grid: list[Hyperparameters], train: np.ndarray, targets: np.ndarray, test: np.ndarray, seed: int
) -> np.ndarray:
    """All penalties from one singular value decomposition of the centred rows."""
    mean, level = train.mean(axis=0), targets.mean()
    left, singular, right = np.linalg.svd(train - mean, full_matrices=False)
    alphas = np.array([hyperparameters["alpha"] for hyperparameters in grid])
    shrunk = singular / (singular**2 + alphas[:, None])  # [grid, rank]
    return level + shrunk * (left.T @ (targets - level)) @ (right @ (test - mean).T)


def _svr_over_grid(
    grid: list[Hyperparameters], train: np.ndarray, targets: np.ndarray, test: np.ndarray, seed: int
) -> np.ndarray:
    """The kernel is computed once: a grid varies the cost alone."""
    (gamma,) = {hyperparameters["gamma"] for hyperparameters in grid}
    width = 1 / train.shape[1] if gamma == "auto" else 1 / (train.shape[1] * train.var() or 1.0)
    kernel, across = _rbf(train, train, width), _rbf(test, train, width)
    others = [{key: value for key, value in h.items() if key != "gamma"} for h in grid]
    with config_context(assume_finite=True, skip_parameter_validation=True):
        return np.array([SVR(kernel="precomputed", **h).fit(kernel, targets).predict(across) for h in others])


def _rbf(rows: np.ndarray, others: np.ndarray, gamma: float) -> np.ndarray:
    """exp(-gamma |x - y|^2), [rows, others]: with libsvm's own exponential, or its solver would take other steps."""
    squared = (rows**2).sum(axis=1)[:, None] + (others**2).sum(axis=1) - 2 * rows @ others.T
    distinct, which = np.unique(squared, return_inverse=True)  # few, as features are 0 or 1
    return np.array([math.exp(-gamma * value) for value in distinct])[which].reshape(squared.shape)


def _lightgbm_over_grid(
    grid: list[Hyperparameters], train: np.ndarray, targets: np.ndarray, test: np.ndarray, seed: int
) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="X does not have valid feature names")
        return np.array([_regressor("lightgbm", h, seed).fit(train, targets).predict(test) for h in grid])


OVER_GRID: dict[str, Over] = {"ridge": _ridge_over_grid, "svr": _svr_over_grid, "lightgbm": _lightgbm_over_grid}
