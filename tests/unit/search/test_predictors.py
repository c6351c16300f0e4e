"""Predictors against scikit-learn."""

import numpy as np
import pytest
from scipy.stats import kendalltau
from tests.support.search import SPACE, kept_one_hot

from llama_nas.search import encoding
from llama_nas.search.algorithms import predictors, sampling
from llama_nas.search.quality import Quality, quality


def additive_data(n: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Genotypes, features of the kept layers and accuracies that are a sum over layers plus noise."""
    rng = np.random.default_rng(seed)
    genotypes = sampling.uniform(SPACE, n, rng)
    features = kept_one_hot(SPACE, genotypes)
    weights = np.random.default_rng(99).exponential(size=features.shape[1])
    return genotypes, features, 0.3 + 0.02 * features @ weights + noise * rng.normal(size=n)


@pytest.mark.parametrize("kind", ["ridge", "svr", "lightgbm"])
def test_every_kind_ranks_networks_it_has_not_seen(kind):
    _, features, accuracy = additive_data(250, 0.003)
    train, test = slice(0, 150), slice(150, 250)
    (best, (choice,)) = predictors.choose(kind, "default", features[train], accuracy[train], seed=1)
    assert best is choice and best.kind == kind
    predicted = (
        predictors.Predictor(kind, best.hyperparameters, "default", 1)
        .fit(features[train], accuracy[train])
        .predict(features[test])
    )
    assert kendalltau(predicted, accuracy[test]).statistic > 0.75
    assert np.abs(predicted - accuracy[test]).mean() < 0.5 * accuracy[test].std()
    assert best.quality.kendall_tau == pytest.approx(kendalltau(predicted, accuracy[test]).statistic, abs=0.15)


def test_strict_choice_is_that_of_scikit_learns_grid_search():
    """DyNAS-T runs GridSearchCV on labels divided by a power of ten and on the columns that vary."""
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVR

    genotypes, _, accuracy = additive_data(40, 0.02)
    features = encoding.one_hot(SPACE, genotypes)
    best, (ridge, svr) = predictors.choose("auto", "strict", features, accuracy, seed=0)

    columns = np.flatnonzero(features.var(axis=0))
    scale = 10.0 ** (np.floor(np.log10(accuracy.max())) - 1)
    assert 10 <= accuracy.max() / scale < 100
    scoring = "neg_mean_absolute_percentage_error"
    ridge_search = GridSearchCV(Ridge(), {"alpha": np.arange(0.1, 10.1, 0.1)}, scoring=scoring, cv=5)
    svr_search = GridSearchCV(
        SVR(gamma="auto", epsilon=0.0, max_iter=1_000_000), {"C": np.arange(1.0, 101.0)}, scoring=scoring, cv=5
    )
    for search, choice, name in [(ridge_search, ridge, "alpha"), (svr_search, svr, "C")]:
        search.fit(features[:, columns], accuracy / scale)
        assert choice.hyperparameters[name] == pytest.approx(search.best_params_[name])
        assert choice.score == pytest.approx(search.best_score_, rel=1e-9)
        fitted = predictors.Predictor(choice.kind, choice.hyperparameters, "strict", 0).fit(features, accuracy)
        assert np.allclose(fitted.predict(features), search.predict(features[:, columns]) * scale, rtol=1e-9)
    assert best is max([ridge, svr], key=lambda choice: choice.score)


def test_default_choice_is_the_best_cross_validated_kendall_tau():
    _, features, accuracy = additive_data(60, 0.01)
    best, choices = predictors.choose("auto", "default", features, accuracy, seed=5)
    assert [choice.kind for choice in choices] == ["ridge", "svr", "lightgbm"]
    assert best.quality.kendall_tau == max(choice.quality.kendall_tau for choice in choices)
    assert predictors.choose("auto", "default", features, accuracy, seed=5) == (best, choices)


@pytest.mark.parametrize("variant", ["strict", "default"])
def test_a_metric_without_any_ranking_still_has_a_predictor(variant):
    """A tiny model on few items answers alike whatever its size."""
    _, features, _ = additive_data(6, 0)
    for value in (0.25, 0.0):
        best, _ = predictors.choose("auto", variant, features, np.full(6, value), seed=0)
        assert best.kind == "ridge" and (best.quality.kendall_tau, best.quality.mae) == (None, pytest.approx(0.0))
        fitted = predictors.Predictor("ridge", best.hyperparameters, variant, 0).fit(features, np.full(6, value))
        assert fitted.predict(features) == pytest.approx(np.full(6, value))


@pytest.mark.parametrize("kind", ["ridge", "svr", "lightgbm"])
@pytest.mark.parametrize("variant", ["strict", "default"])
def test_three_rows_are_enough(kind, variant):
    _, features, accuracy = additive_data(3, 0.01)
    best, _ = predictors.choose(kind, variant, features, accuracy, seed=0)
    fitted = predictors.Predictor(kind, best.hyperparameters, variant, 0).fit(features, accuracy)
    assert np.isfinite(fitted.predict(features)).all()


def test_quality_is_tau_error_and_calibration():
    targets, predicted = np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])
    slope, _ = np.polyfit(predicted, targets, 1)
    expected = Quality(*map(pytest.approx, (1 / 3, 2 / 3, 0.0, slope)))
    assert quality(targets, predicted) == expected
    too_far = quality(targets, 10 * targets + 5)
    assert (too_far.kendall_tau, too_far.bias, too_far.slope) == (1.0, pytest.approx(23.0), pytest.approx(0.1))
    assert quality(targets, np.full(3, 2.0)).slope is None


@pytest.mark.parametrize("variant", ["strict", "default"])
def test_a_whole_grid_at_once_predicts_as_one_regressor_after_the_other(variant):
    """Ridge to rounding error; SVR to the last bit, or libsvm's steps could end elsewhere."""
    genotypes, _, accuracy = additive_data(60, 0.02)
    features = encoding.one_hot(SPACE, genotypes)
    columns, targets, _, _ = predictors._prepare(features, accuracy, variant)
    train, test = features[:48, columns], features[48:, columns]
    for kind, agree in [("ridge", np.allclose), ("svr", np.array_equal)]:
        grid = predictors.GRIDS[variant][kind]
        one_by_one = [predictors._regressor(kind, h, 0).fit(train, targets[:48]).predict(test) for h in grid]
        assert agree(predictors.OVER_GRID[kind](grid, train, targets[:48], test, 0), one_by_one)
