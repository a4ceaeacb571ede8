"""Agreement of raters: the figures are those of independent implementations."""

from __future__ import annotations

from typing import Any

import krippendorff
import numpy as np
import pytest
from scipy.stats import t, ttest_1samp
from sklearn.metrics import cohen_kappa_score, confusion_matrix
from statsmodels.stats.inter_rater import cohens_kappa

from harness import agreement

SCALES: list[agreement.Scale] = ["nominal", "ordinal", "interval"]
SEEDS = range(12)


def two_raters(seed: int) -> tuple[list[int], list[int]]:
    random = np.random.default_rng(seed)
    first = random.integers(1, 6, 20 + 15 * seed)
    second = np.clip(first + random.integers(-2, 3, len(first)), 1, 5)
    return first.tolist(), second.tolist()


def many_raters(seed: int) -> Any:
    """Ratings of shape (units, raters), nan where one is missing."""
    random = np.random.default_rng(seed)
    units, raters = 8 + 5 * seed, 2 + seed % 4
    truth = random.integers(1, 6, (units, 1))
    ratings = np.clip(truth + random.integers(-1, 2, (units, raters)), 1, 5).astype(float)
    ratings[random.random(ratings.shape) < 0.2] = np.nan
    return ratings


def ours(ratings: Any) -> list[list[float | None]]:
    return [[None if np.isnan(x) else float(x) for x in unit] for unit in ratings]


@pytest.mark.parametrize("seed", SEEDS)
def test_kappa_and_its_interval_are_those_of_scikit_learn_and_statsmodels(seed: int) -> None:
    first, second = two_raters(seed)
    made = agreement.quadratic_kappa(first, second)
    labels = list(range(1, 6))
    expected = cohen_kappa_score(first, second, labels=labels, weights="quadratic")
    table = confusion_matrix(first, second, labels=labels)
    interval = cohens_kappa(table, wt="quadratic")
    assert made.n == len(first)
    assert made.value == pytest.approx(expected, abs=1e-9)
    assert made.interval == pytest.approx((interval.kappa_low, interval.kappa_upp), abs=1e-9)


def test_kappa_weighs_by_the_distance_of_the_ratings_and_not_by_their_rank() -> None:
    first, second = [1, 1, 5, 5, 1], [1, 5, 5, 4, 1]
    expected = cohen_kappa_score(first, second, labels=[1, 2, 3, 4, 5], weights="quadratic")
    assert agreement.quadratic_kappa(first, second).value == pytest.approx(expected, abs=1e-9)


def test_the_level_of_an_interval_is_kept() -> None:
    first, second = two_raters(3)
    table = confusion_matrix(first, second, labels=list(range(1, 6)))
    other = cohens_kappa(table, wt="quadratic")
    made = agreement.quadratic_kappa(first, second, level=0.8)
    reach = 1.2815515655446004 * other.std_kappa
    assert made.interval == pytest.approx((other.kappa - reach, other.kappa + reach), abs=1e-9)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("seed", SEEDS)
def test_alpha_and_its_interval_are_those_of_krippendorff(seed: int, scale: Any) -> None:
    ratings = many_raters(seed)
    made = agreement.alpha(ours(ratings), scale)

    def other(units: Any) -> float:
        return float(krippendorff.alpha(units.T, level_of_measurement=scale))

    pairable = ratings[(~np.isnan(ratings)).sum(axis=1) > 1]
    n = len(pairable)
    left_out = np.array([other(np.delete(pairable, place, axis=0)) for place in range(n)])
    reach = t.ppf(0.975, n - 1) * np.sqrt((n - 1) * left_out.var())
    value = other(ratings)
    assert made.n == n
    assert made.value == pytest.approx(value, abs=1e-9)
    assert made.interval == pytest.approx((value - reach, value + reach), abs=1e-9)


def test_alpha_of_preferences_is_that_of_krippendorff() -> None:
    units = [[-1.0, -1.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [-1.0, 1.0]]
    for scale in SCALES:
        expected = krippendorff.alpha(np.array(units).T, level_of_measurement=scale)
        assert agreement.alpha(units, scale).value == pytest.approx(expected, abs=1e-9)


def test_bias_is_the_mean_difference_with_students_interval() -> None:
    first, second = two_raters(4)
    made = agreement.bias(first, second)
    expected = ttest_1samp(np.subtract(second, first), 0).confidence_interval(0.95)
    assert made.value == pytest.approx(np.mean(second) - np.mean(first), abs=1e-12)
    assert made.interval == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_confusion_counts_pairs_of_ratings() -> None:
    assert agreement.confusion([1, 2, 1, 5], [1, 3, 1, 5]) == {(1, 1): 2, (2, 3): 1, (5, 5): 1}


def test_one_value_says_nothing_about_agreement() -> None:
    assert agreement.quadratic_kappa([5, 5, 5], [5, 5, 5]).value is None
    assert agreement.alpha([[5, 5], [5, 5]]).value is None


@pytest.mark.parametrize("units", [[], [[]], [[None, 3]], [[3], [4]]])
def test_ratings_without_a_pair_say_nothing(units: list[list[float | None]]) -> None:
    assert agreement.alpha(units) == agreement.Estimate(None, None, 0)
    assert agreement.quadratic_kappa([], []).value is None
    assert agreement.bias([], []).value is None


def test_an_alpha_that_hangs_on_one_unit_has_no_interval() -> None:
    made = agreement.alpha([[5, 5], [5, 5], [1, 1]])
    assert made.value == pytest.approx(1)
    assert made.interval is None
