from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from unittest import mock

import numpy as np
import pandas
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
import sklearn.metrics
import statsmodels.api
import statsmodels.formula.api
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from harness import stats

counts = st.integers(0, 40)
values = st.lists(st.sampled_from([-1.0, -0.6, -0.25, 0.0, 0.1, 0.5, 0.6, 1.0]), max_size=30)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 19, 50, 99, 199, 200, 201, 499, 9_999])
def test_student_quantiles_agree_with_scipy(freedom: int) -> None:
    for probability in (0.0001, 0.025, 0.3, 0.5, 0.6, 0.9, 0.95, 0.975, 0.995, 0.9995):
        expected = scipy.stats.t.ppf(probability, freedom)
        found = stats.t_quantile(probability, freedom)
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(counts, counts)
def test_exact_mcnemar_agrees_with_scipy_and_statsmodels(losses: int, wins: int) -> None:
    one_sided = stats.mcnemar_exact(losses, wins)
    if losses + wins:
        expected = scipy.stats.binomtest(losses, losses + wins, 0.5, "greater").pvalue
        assert one_sided == pytest.approx(expected, abs=1e-9)
    smaller = min(one_sided, stats.mcnemar_exact(wins, losses))
    two_sided = mcnemar([[0, losses], [wins, 0]], exact=True).pvalue
    if losses + wins:
        assert min(1.0, 2 * smaller) == pytest.approx(two_sided, abs=1e-9)


@given(counts, counts)
def test_mid_p_halves_the_outcome_seen(losses: int, wins: int) -> None:
    coin = scipy.stats.binom(losses + wins, 0.5)
    expected = coin.sf(losses) + coin.pmf(losses) / 2
    assert stats.mcnemar_midp(losses, wins) == pytest.approx(expected, abs=1e-9)
    both = stats.mcnemar_midp(losses, wins) + stats.mcnemar_midp(wins, losses)
    assert both == pytest.approx(1.0, abs=1e-12)


def test_mid_p_of_a_published_table() -> None:
    # Cavo et al. (2012) in Fagerland, Lydersen & Laake (2017), chapter 8: two-sided.
    assert 2 * stats.mcnemar_midp(16, 6) == pytest.approx(0.034690, abs=5e-7)


def test_thousands_of_discordant_pairs_do_not_overflow() -> None:
    expected = scipy.stats.binomtest(5_100, 10_000, 0.5, "greater").pvalue
    assert stats.mcnemar_exact(5_100, 4_900) == pytest.approx(expected, rel=1e-9)


def test_no_difference_at_all_gives_one_half() -> None:
    assert stats.sign_flip([]) == (0.5, 0.5)
    assert stats.sign_flip([0.0] * 30) == (0.5, 0.5)


def _brute_force_flip(sums: Sequence[float]) -> float:
    observed = sum(sums)
    flipped = [
        sum(sign * value for sign, value in zip(signs, sums, strict=True))
        for signs in itertools.product((-1, 1), repeat=len(sums))
    ]
    below = sum(total < observed - 1e-9 for total in flipped)
    at = sum(abs(total - observed) <= 1e-9 for total in flipped)
    return (below + at / 2) / len(flipped)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([-1.0, -0.6, -0.25, 0.0, 0.1, 0.5, 1.0]), max_size=9))
def test_few_clusters_are_enumerated_with_mid_p(sums: list[float]) -> None:
    worse, better = stats.sign_flip(sums)
    assert worse == pytest.approx(_brute_force_flip(sums), abs=1e-9)
    assert better == pytest.approx(1 - worse, abs=1e-9)


def _scipy_flip(sums: Sequence[float], resamples: float) -> float:
    result = scipy.stats.permutation_test(
        (np.array(sums),),
        lambda sample, axis: sample.sum(axis=axis),
        permutation_type="samples",
        n_resamples=resamples,
        alternative="less",
        vectorized=True,
        rng=np.random.default_rng(7),
    )
    return float(result.pvalue)


def test_enumerated_flips_agree_with_scipy() -> None:
    source = random.Random(2)
    for size in (2, 7, 12):
        sums = [source.gauss(-0.2, 1) for _ in range(size)]
        # No two sign patterns of random numbers tie, so mid-p takes half of one outcome off.
        expected = _scipy_flip(sums, math.inf) - 0.5 / 2**size
        assert stats.sign_flip(sums)[0] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("size", [17, 40, 203])
def test_sampled_flips_agree_with_scipy_within_their_error(size: int) -> None:
    source = random.Random(size)
    sums = [source.gauss(-0.15, 1) for _ in range(size)]
    expected = _scipy_flip(sums, 9_999)
    error = math.sqrt(expected * (1 - expected) * 2 / 9_999)
    worse, better = stats.sign_flip(sums)
    assert abs(worse - expected) < 4.5 * error
    assert abs(better - (1 - expected)) < 4.5 * error


def test_sampled_flips_are_never_surer_than_their_number_allows() -> None:
    sums = [-1.0 - step / 100 for step in range(60)]
    assert stats.sign_flip(sums) == (1 / 10_000, 1.0)


def test_sums_of_one_size_have_the_closed_form_at_any_number() -> None:
    sums = [-0.3] * 30 + [0.3] * 18 + [0.0] * 5
    assert stats.sign_flip(sums) == (stats.mcnemar_midp(30, 18), stats.mcnemar_midp(18, 30))


@settings(max_examples=40, deadline=None)
@given(values, st.randoms(use_true_random=False), st.sampled_from([0.001, 3.0, 1e6]))
def test_flips_know_neither_order_nor_scale(
    sums: list[float], source: random.Random, scale: float
) -> None:
    expected = stats.sign_flip(sums)
    shuffled = [scale * value for value in sums]
    source.shuffle(shuffled)
    assert stats.sign_flip(shuffled) == expected


@settings(max_examples=40, deadline=None)
@given(values)
def test_turned_signs_swap_the_two_p_values(sums: list[float]) -> None:
    worse, better = stats.sign_flip(sums)
    assert stats.sign_flip([-value for value in sums]) == (better, worse)


def test_rounding_noise_is_no_difference() -> None:
    assert stats.sign_flip([0.1 + 0.2 - 0.3, 1.0]) == stats.sign_flip([1.0])


def test_standard_error_agrees_with_statsmodels_cluster_robust() -> None:
    source = random.Random(5)
    groups = [source.randrange(12) for _ in range(80)]
    differences = [source.gauss(0.1 * (group % 3), 1) for group in groups]
    model = statsmodels.api.OLS(differences, np.ones(80))
    expected = model.fit(cov_type="cluster", cov_kwds={"groups": np.array(groups)}).bse[0]
    assert stats.cluster_se(differences, groups) == pytest.approx(expected, rel=1e-9)


def test_one_cluster_has_no_standard_error() -> None:
    assert stats.cluster_se([0.1, 0.4, -0.2], ["a", "a", "a"]) is None


def test_cluster_sums_add_up_each_cluster() -> None:
    assert stats.cluster_sums([1.0, 2.0, -4.0], ["b", "a", "b"]) == [-3.0, 2.0]


def test_t_interval_agrees_with_scipy() -> None:
    expected = scipy.stats.t.interval(0.9, 14, loc=0.2, scale=0.05)
    assert stats.t_interval(0.2, 0.05, 15, 0.9) == pytest.approx(expected, abs=1e-9)


def test_tango_interval_of_a_published_table() -> None:
    # Cavo et al. (2012) in Fagerland, Lydersen & Laake (2017), chapter 8.
    low, high = stats.tango_interval(161, 16, 6, 0.95)
    assert (round(low, 4), round(high, 4)) == (-0.1240, -0.0054)


def _score(n: int, losses: int, wins: int, delta: float) -> float:
    """The score statistic with the rate of losses maximised numerically under `delta`."""

    def minus_log_likelihood(loss_rate: float) -> float:
        rates = (loss_rate, loss_rate + delta, 1 - 2 * loss_rate - delta)
        observed = (losses, wins, n - losses - wins)
        return -sum(k * math.log(max(r, 1e-300)) for k, r in zip(observed, rates, strict=True) if k)

    limits = (max(0.0, -delta), (1 - delta) / 2)
    best = scipy.optimize.minimize_scalar(
        minus_log_likelihood, bounds=limits, method="bounded", options={"xatol": 1e-12}
    ).x
    return (wins - losses - n * delta) / math.sqrt(n * (2 * best + delta - delta**2))


@pytest.mark.parametrize(
    ("n", "losses", "wins"), [(20, 3, 1), (20, 0, 4), (50, 9, 2), (50, 5, 5), (100, 1, 0)]
)
def test_tango_interval_ends_where_the_score_reaches_the_quantile(
    n: int, losses: int, wins: int
) -> None:
    low, high = stats.tango_interval(n, losses, wins, 0.9)
    assert _score(n, losses, wins, low) == pytest.approx(1.6448536, abs=1e-4)
    assert _score(n, losses, wins, high) == pytest.approx(-1.6448536, abs=1e-4)


def test_tango_interval_exists_for_every_table() -> None:
    for n in (1, 2, 5, 12):
        for losses, wins in itertools.product(range(n + 1), repeat=2):
            if losses + wins <= n:
                low, high = stats.tango_interval(n, losses, wins, 0.95)
                assert -1 <= low <= (wins - losses) / n <= high <= 1
                assert (-high, -low) == stats.tango_interval(n, wins, losses, 0.95)
                assert low < high


def test_tango_interval_without_any_change_is_not_empty() -> None:
    z_squared = scipy.stats.norm.ppf(0.95) ** 2
    reach = z_squared / (200 + z_squared)
    assert stats.tango_interval(200, 0, 0, 0.9) == pytest.approx((-reach, reach), abs=1e-12)


@pytest.mark.parametrize(
    "ps", [[0.04], [0.01, 0.04, 0.03, 0.005], [0.5, 0.2, 0.2, 0.9, 0.0], [0.02] * 7]
)
def test_holm_agrees_with_statsmodels(ps: list[float]) -> None:
    assert stats.holm(ps) == pytest.approx(list(multipletests(ps, method="holm")[1]), abs=1e-9)
    assert stats.holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=30))
def test_benjamini_hochberg_agrees_with_statsmodels(ps: list[float]) -> None:
    expected = list(multipletests(ps, method="fdr_bh")[1]) if ps else []
    assert stats.benjamini_hochberg(ps) == pytest.approx(expected, abs=1e-9)


# statsmodels collects garbage each time, which takes long where much is loaded.
@mock.patch("gc.collect", int)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_of_any_p_values_agrees_with_statsmodels(ps: list[float]) -> None:
    assert stats.holm(ps) == pytest.approx(list(multipletests(ps, method="holm")[1]), abs=1e-9)


@given(counts, counts)
def test_e_value_agrees_with_the_integral(losses: int, wins: int) -> None:
    n = losses + wins
    beta = scipy.special.betaln(losses + 1, wins + 1)
    tail = scipy.stats.beta.logsf(0.5, losses + 1, wins + 1)
    expected = math.exp((n + 1) * math.log(2) + beta + tail)
    assert stats.e_value(losses, wins) == pytest.approx(expected, rel=1e-9)


def test_e_value_of_nothing_is_no_evidence() -> None:
    assert stats.e_value(0, 0) == 1.0
    assert stats.e_value(1, 0) == pytest.approx(1.5)


def test_e_value_of_thousands_of_pairs_is_no_error() -> None:
    expected = math.exp(
        10_001 * math.log(2)
        + scipy.special.betaln(5_101, 4_901)
        + scipy.stats.beta.logsf(0.5, 5_101, 4_901)
    )
    assert stats.e_value(5_100, 4_900) == pytest.approx(expected, rel=1e-6)
    assert stats.e_value(5_000, 0) == math.inf
    assert 0 < stats.e_value(0, 5_000) < 1e-3


def test_looking_after_every_case_seldom_reaches_the_e_value() -> None:
    source = random.Random(3)
    reached = 0
    for _ in range(400):
        losses = wins = 0
        for _ in range(150):
            lost = source.random() < 0.5
            losses, wins = losses + lost, wins + (not lost)
            if stats.e_value(losses, wins) >= 20:
                reached += 1
                break
    assert reached / 400 <= 0.05


some_numbers = st.lists(st.integers(-50, 50).map(float), min_size=2, max_size=40)


@given(some_numbers)
def test_skewness_agrees_with_scipy(numbers: list[float]) -> None:
    found = stats.skewness(numbers)
    if len(set(numbers)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(scipy.stats.skew(numbers), abs=1e-9)


def test_numbers_without_spread_have_no_skewness() -> None:
    assert stats.skewness([]) is None
    assert stats.skewness([0.1] * 10) is None


@given(some_numbers)
def test_variance_agrees_with_numpy(numbers: list[float]) -> None:
    assert stats.variance(numbers) == pytest.approx(np.var(numbers, ddof=1), abs=1e-9)


def test_design_effect_agrees_with_the_analysis_of_variance() -> None:
    source = random.Random(9)
    level = [source.gauss(0, 1) for _ in range(15)]
    groups = [group for group in range(15) for _ in range(1 + group % 5)]
    differences = [level[group] + source.gauss(0, 1) for group in groups]
    frame = pandas.DataFrame({"difference": differences, "group": groups})
    fitted = statsmodels.formula.api.ols("difference ~ C(group)", frame).fit()
    table = statsmodels.api.stats.anova_lm(fitted)
    between, within = table["mean_sq"].iloc[0], table["mean_sq"].iloc[1]
    sizes = np.bincount(groups)
    typical = (sizes.sum() - (sizes**2).sum() / sizes.sum()) / 14
    icc = (between - within) / (between + (typical - 1) * within)
    expected = 1 + (sizes.mean() - 1) * icc
    assert stats.design_effect(differences, groups) == pytest.approx(expected, abs=1e-9)


def test_design_effect_is_one_for_cases_that_stand_alone_and_the_size_for_copies() -> None:
    differences = [0.3, -0.1, 0.6, 0.2]
    assert stats.design_effect(differences, range(4)) == 1.0
    assert stats.design_effect(differences, [0] * 4) == 1.0
    assert stats.design_effect([0.0] * 4, [0, 0, 1, 1]) == 1.0
    assert stats.design_effect(differences * 3, [*range(4)] * 3) == pytest.approx(3.0)
    assert stats.design_effect([1.0, -1.0] * 10, [k // 2 for k in range(20)]) == 1.0


def test_noise_share_is_the_share_of_the_variance_that_trials_explain() -> None:
    source = np.random.default_rng(4)
    cases, trials = 4_000, 4
    moved = source.normal(0, 0.5, cases)
    before = source.normal(0, 1, (cases, trials))
    after = moved[:, None] + source.normal(0, 0.7, (cases, trials))
    noise = (1 + 0.49) / trials
    found = stats.noise_share(before.tolist(), after.tolist())
    assert found == pytest.approx(noise / (0.25 + noise), abs=0.03)


def test_noise_share_needs_trials_and_differences() -> None:
    assert stats.noise_share([[0.1], [0.2]], [[0.3], [0.1]]) is None
    assert stats.noise_share([[0.1, 0.4]], [[0.3, 0.1]]) is None
    assert stats.noise_share([[1, 0], [0, 1]], [[1, 0], [1, 0]]) is None
    assert stats.noise_share([[1, 1], [0, 0]], [[1, 1], [1, 1]]) == 0.0


@given(st.integers(1, 300), st.data())
def test_fisher_agrees_with_scipy(n: int, data: st.DataObject) -> None:
    first, second = data.draw(st.integers(0, min(n, 15))), data.draw(st.integers(0, min(n, 15)))
    expected = scipy.stats.fisher_exact([[first, n - first], [second, n - second]]).pvalue
    assert stats.fisher(first, second, n) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("n", "discordance", "drop"),
    [(20, 0.1, 0.26), (20, 0.2, 0.26), (50, 0.2, 0.15), (100, 0.2, 0.107), (500, 0.2, 0.05)],
)
def test_smallest_visible_drops_are_those_of_the_method(
    n: int, discordance: float, drop: float
) -> None:
    found = stats.mde_binary(n, discordance, 0.05, 0.8)
    assert found == pytest.approx(drop, abs=0.0015)


def _true_power(n: int, discordance: float, drop: float) -> float:
    discordance = max(discordance, drop)
    loss = (discordance + drop) / 2
    cells = scipy.stats.multinomial(n, [loss, discordance - loss, 1 - discordance])
    return sum(
        cells.pmf([losses, wins, n - losses - wins])
        for losses in range(n + 1)
        for wins in range(n + 1 - losses)
        if stats.mcnemar_midp(losses, wins) <= 0.05
    )


@pytest.mark.parametrize(("n", "discordance"), [(12, 0.3), (30, 0.1), (60, 0.0)])
def test_the_smallest_visible_drop_has_the_power_asked_for(n: int, discordance: float) -> None:
    drop = stats.mde_binary(n, discordance, 0.05, 0.8)
    assert drop is not None
    assert 0.8 <= _true_power(n, discordance, drop) < 0.802
    assert _true_power(n, discordance, drop - 0.001) < 0.8


def test_a_suite_that_could_not_even_see_a_total_loss_has_no_smallest_drop() -> None:
    assert stats.mde_binary(3, 0.2, 0.05, 0.8) is None
    assert stats.mde_binary(4, 0.2, 0.05, 0.8) is not None
    assert stats.mde_binary(4, 0.2, 0.05 / 6, 0.8) is None


def test_smallest_drop_and_cases_needed_are_one_formula() -> None:
    deviation = math.sqrt(0.2)
    assert stats.cases_needed(0.05, deviation, 0.05, 0.8) == 495
    assert stats.mde(deviation / math.sqrt(495), 0.05, 0.8) == pytest.approx(0.05, abs=1e-4)
    assert stats.cases_needed(0.05, deviation, 0.05, 0.8, design_effect=2.0) == 990


labels = st.sampled_from("abcd")


@given(st.lists(st.tuples(labels, labels), min_size=1, max_size=40))
def test_macro_f1_agrees_with_sklearn(pairs: list[stats.LabelPair]) -> None:
    expected, predicted = zip(*pairs, strict=True)
    value = sklearn.metrics.f1_score(expected, predicted, average="macro", zero_division=0)
    assert stats.macro_f1(pairs) == pytest.approx(value, abs=1e-12)


def test_an_invalid_prediction_is_wrong_and_no_label_of_its_own() -> None:
    assert stats.macro_f1([("a", "a"), ("a", None), ("b", "b")]) == pytest.approx((2 / 3 + 1) / 2)
    assert stats.macro_f1([]) == 0.0


def _drawn_labels(
    size: int, right_before: float, right_after: float, seed: int
) -> tuple[list[stats.LabelPair], list[stats.LabelPair]]:
    source = random.Random(seed)
    expected = [source.choice("abcd") for _ in range(size)]

    def predicted(rate: float) -> list[stats.LabelPair]:
        wrong = ["a", "b", "c", "d", None]
        return [(e, e if source.random() < rate else source.choice(wrong)) for e in expected]

    return predicted(right_before), predicted(right_after)


def test_swaps_agree_with_scipy_within_their_error() -> None:
    before, after = _drawn_labels(60, 0.75, 0.65, seed=4)

    letters = ["a", "b", "c", "d", None]

    def difference(*arms: np.ndarray) -> float:
        new, old = (
            [(pair[0], letters[code]) for pair, code in zip(before, codes, strict=True)]
            for codes in arms
        )
        return stats.macro_f1(new) - stats.macro_f1(old)

    result = scipy.stats.permutation_test(
        [np.array([letters.index(predicted) for _, predicted in arm]) for arm in (after, before)],
        difference,
        permutation_type="samples",
        n_resamples=2_000,
        alternative="less",
        vectorized=False,
        rng=np.random.default_rng(1),
    )
    paired = stats.paired_labels(before, after, range(60))
    assert paired.difference == pytest.approx(result.statistic, abs=1e-12)
    error = math.sqrt(result.pvalue * (1 - result.pvalue) * (1 / 9_999 + 1 / 2_000))
    assert abs(paired.swap_test()[0] - result.pvalue) < 4.5 * error


def test_swapped_models_swap_the_two_p_values_of_macro_f1() -> None:
    before, after = _drawn_labels(90, 0.8, 0.7, seed=8)
    groups = [number // 2 for number in range(90)]
    worse, better = stats.paired_labels(before, after, groups).swap_test()
    assert stats.paired_labels(after, before, groups).swap_test() == (better, worse)
    assert worse < better


def test_wrong_answers_that_became_other_wrong_answers_count() -> None:
    right: list[stats.LabelPair] = [("a", "a"), ("b", "b")] * 20
    paired = stats.paired_labels(right + [("a", None)] * 10, right + [("a", "b")] * 10, range(50))
    worse, better = paired.swap_test()
    assert paired.difference < 0
    assert worse < 0.01
    assert better == 1.0


def test_clusters_are_swapped_whole() -> None:
    before, after = _drawn_labels(40, 0.9, 0.5, seed=3)
    alone, _ = stats.paired_labels(before, after, range(40)).swap_test()
    paired, _ = stats.paired_labels(before * 2, after * 2, [*range(40), *range(40)]).swap_test()
    one_cluster, _ = stats.paired_labels(before, after, [0] * 40).swap_test()
    assert paired == alone < 0.01
    assert 0.45 < one_cluster < 0.55


def test_jackknife_leaves_out_one_cluster_at_a_time() -> None:
    before, after = _drawn_labels(30, 0.8, 0.6, seed=6)
    groups = [number % 10 for number in range(30)]

    def without(group: int) -> float:
        kept = [i for i in range(30) if groups[i] != group]
        new, old = [after[i] for i in kept], [before[i] for i in kept]
        return stats.macro_f1(new) - stats.macro_f1(old)

    left_out = np.array([without(group) for group in range(10)])
    expected = math.sqrt(9 / 10 * ((left_out - left_out.mean()) ** 2).sum())
    se = stats.paired_labels(before, after, groups).jackknife_se()
    assert se == pytest.approx(expected, rel=1e-12)
    assert stats.paired_labels(before, after, [0] * 30).jackknife_se() is None


def test_correlation_and_its_interval_agree_with_scipy() -> None:
    draw = random.Random(5)
    for n in (4, 9, 120):
        xs = [draw.gauss(0, 9) for _ in range(n)]
        ys = [0.3 * x + draw.gauss(2, 4) for x in xs]
        theirs = scipy.stats.pearsonr(xs, ys)
        r = stats.correlation(xs, ys)
        assert r == pytest.approx(theirs.statistic, abs=1e-9)
        low, high = theirs.confidence_interval(0.95)
        assert stats.correlation_interval(r, n, 0.95) == pytest.approx((low, high), abs=1e-9)
    assert stats.correlation([1, 1, 1], [1, 2, 3]) is None
    assert stats.correlation_interval(0.5, 3, 0.95) is None


def test_the_intercept_and_its_interval_agree_with_scipy() -> None:
    draw = random.Random(6)
    for n in (3, 10, 90):
        xs = [draw.gauss(40, 30) for _ in range(n)]
        ys = [0.01 * x + draw.gauss(0.2, 0.5) for x in xs]
        theirs = scipy.stats.linregress(xs, ys)
        reach = scipy.stats.t.ppf(0.975, n - 2) * theirs.intercept_stderr
        found = stats.intercept(xs, ys, 0.95)
        assert found is not None
        assert found[0] == pytest.approx(theirs.intercept, abs=1e-9)
        span = (theirs.intercept - reach, theirs.intercept + reach)
        assert found[1] == pytest.approx(span, abs=1e-9)
    assert stats.intercept([2, 2, 2], [1, 2, 3], 0.95) is None
