from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import pytest
import scipy.stats
from gate_simulation import (
    Gate,
    five_points_lower,
    lower_mean,
    our_gate,
    percentile_bootstrap,
    probability,
    unpaired_z,
    wald_within_five_points,
    within_five_points,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.gate import (
    GateSettings,
    compare,
    corpus_comparison,
    decide,
    what_it_sees,
)
from harness.records import (
    INVALID_LABEL,
    Comparison,
    Decision,
    EvidenceError,
    HarnessError,
    Rule,
    Score,
    Series,
    Verdict,
)

DETECT = GateSettings()
RELEASE = GateSettings(mode="release")
METRIC = "tickets.schema_match"
PASS, FAIL, UNDECIDABLE = Decision.PASS, Decision.FAIL, Decision.UNDECIDABLE


def series(
    model: str, values: Sequence[float | None], metric: str = METRIC, **meaning: object
) -> Series:
    scores = {
        f"case-{number:04}": (score(value, metric, **meaning),)
        for number, value in enumerate(values)
    }
    return Series(metric, model, scores)


@cache
def score(value: float | None, metric: str = METRIC, **meaning: object) -> Score:
    unscored = "no reply" if value is None else None
    return Score(metric=metric, value=value, unscored=unscored, **meaning)  # type: ignore[arg-type]


def compared(
    before: Sequence[float | None],
    after: Sequence[float | None],
    clusters: Mapping[str, str] | None = None,
    metric: str = METRIC,
    **meaning: object,
) -> Comparison:
    old, new = series("base", before, metric, **meaning), series("new", after, metric, **meaning)
    return compare(old, new, clusters or {}, 0.05)


def binary(n: int, losses: int, wins: int, metric: str = METRIC) -> Comparison:
    same = [float(number % 2) for number in range(n - losses - wins)]
    before = [1.0] * losses + [0.0] * wins + same
    return compared(before, [0.0] * losses + [1.0] * wins + same, metric=metric)


def verdict_of(
    comparison: Comparison, rule: Rule | None = None, settings: GateSettings = DETECT
) -> Verdict:
    rules = [] if rule is None else [replace(rule, key=comparison.metric)]
    (verdict,) = decide([comparison], rules, settings)
    return verdict


def answer(
    comparison: Comparison, rule: Rule | None = None, settings: GateSettings = DETECT
) -> tuple[str, Decision]:
    verdict = verdict_of(comparison, rule, settings)
    return verdict.verdict, verdict.decision


# Comparing


def test_a_comparison_pairs_by_case_and_not_by_order() -> None:
    old, new = series("base", [1, 0, 1, 0]), series("new", [0, 0, 1, 1])
    backwards = Series(METRIC, "new", dict(reversed(new.scores.items())))
    found = compare(old, backwards, {}, 0.05)
    assert found == compare(old, new, {}, 0.05)
    assert (found.n, found.losses, found.wins, found.ties) == (4, 1, 1, 2)
    assert (found.baseline_mean, found.candidate_mean, found.difference) == (0.5, 0.5, 0.0)
    assert (found.baseline, found.candidate, found.clusters) == ("base", "new", 4)


def test_where_less_is_better_the_sign_is_turned() -> None:
    found = compared([1.0] * 30, [1.5] * 29 + [0.5], high=None, unit="s", higher_is_better=False)
    assert found.difference == pytest.approx(-14 / 30)
    assert (found.losses, found.wins) == (29, 1)
    assert found.baseline_mean == 1.0
    assert found.candidate_mean == pytest.approx(44 / 30)
    verdict = verdict_of(found)
    assert (verdict.verdict, verdict.decision) == ("regressed", FAIL)
    assert verdict.reason.startswith("schema match rose by 0.467 s (95 % interval 0.398 to 0.535")


def test_binary_scores_have_mcnemars_p_and_tangos_interval() -> None:
    found = binary(161, 16, 6)
    assert found.binary
    assert found.p == pytest.approx(0.034690 / 2, abs=5e-7)
    assert found.p_exact == pytest.approx(scipy.stats.binomtest(16, 22, 0.5, "greater").pvalue)
    assert found.interval == pytest.approx((-0.1240, -0.0054), abs=5e-5)
    assert found.lower is not None
    assert found.interval is not None
    assert found.interval[0] < found.lower < found.difference


def test_other_scores_have_the_t_interval_over_clusters() -> None:
    source = random.Random(1)
    before = [source.random() for _ in range(40)]
    after = [source.random() for _ in range(40)]
    found = compared(before, after)
    differences = [new - old for old, new in zip(before, after, strict=True)]
    mean, se = sum(differences) / 40, scipy.stats.sem(differences)
    assert not found.binary
    assert found.p_exact is None
    assert found.interval == pytest.approx(scipy.stats.t.interval(0.95, 39, mean, se))
    assert found.lower == pytest.approx(scipy.stats.t.interval(0.90, 39, mean, se)[0])


def test_cases_of_one_cluster_count_once_as_evidence() -> None:
    before, after = [1.0] * 40, [0.0] * 8 + [1.0] * 32
    in_fours = {f"case-{number:04}": f"origin {number // 4}" for number in range(40)}
    alone, clustered = compared(before, after), compared(before, after, in_fours)
    assert (clustered.clusters, clustered.binary) == (10, False)
    assert alone.p == 0.5**9
    assert clustered.p == 0.5**3


def test_a_cluster_named_like_a_case_is_not_that_case() -> None:
    found = compared([1.0] * 3, [1.0] * 3, {"case-0001": "case-0000", "case-0002": "case-0000"})
    assert found.clusters == 2


def test_copies_inside_a_cluster_change_nothing() -> None:
    source = random.Random(2)
    before = [source.randrange(6) / 5 for _ in range(30)]
    after = [source.randrange(6) / 5 for _ in range(30)]
    clusters = {f"case-{number:04}": str(number % 30 // 2) for number in range(90)}
    once = compared(before, after, clusters)
    thrice = compared(before * 3, after * 3, clusters)
    assert thrice.p == once.p
    assert thrice.difference == pytest.approx(once.difference)
    assert thrice.interval == pytest.approx(once.interval)
    assert thrice.se == pytest.approx(once.se)


def test_nothing_changed_is_no_proof_that_nothing_can_change() -> None:
    found = compared([0.4, 0.8] * 20, [0.4, 0.8] * 20)
    assert (found.p, found.difference) == (0.5, 0.0)
    assert found.lower == pytest.approx(-(1.6448536**2) / (40 + 1.6448536**2))


def test_missing_and_unscored_pairs_are_counted() -> None:
    old, new = series("base", [1, 1, None, 1]), series("new", [1, None, None, 1, 1])
    found = compare(old, new, {}, 0.05)
    assert (found.n, found.missing, found.unscored, found.absent) == (2, 1, 2, (2, 2))


def test_scores_of_different_checks_are_not_compared() -> None:
    with pytest.raises(EvidenceError, match=r"schema_match: case 'case-0000' .* run both arms"):
        compare(series("base", [1], check="old"), series("new", [1], check="new"), {}, 0.05)


def test_one_metric_has_one_meaning() -> None:
    with pytest.raises(HarnessError, match="schema_match is recorded with differing"):
        compare(series("base", [1], unit="s"), series("new", [1]), {}, 0.05)


# Repeated trials

ALL, MOST, FEW, NONE = (1.0, 1.0, 1.0), (1.0, 0.0, 1.0), (0.0, 0.0, 1.0), (0.0, 0.0, 0.0)


def tried(
    model: str, cases: Sequence[Sequence[float | None]], metric: str = METRIC, **meaning: object
) -> Series:
    scores = {
        f"case-{number:04}": tuple(score(value, metric, **meaning) for value in trials)
        for number, trials in enumerate(cases)
    }
    return Series(metric, model, scores)


def compared_trials(
    before: Sequence[Sequence[float | None]],
    after: Sequence[Sequence[float | None]],
    clusters: Mapping[str, str] | None = None,
    **meaning: object,
) -> Comparison:
    old, new = tried("base", before, **meaning), tried("new", after, **meaning)
    return compare(old, new, clusters or {}, 0.05)


def test_trials_of_a_case_are_averaged_and_are_no_more_cases() -> None:
    source = random.Random(4)
    rows = [[[source.random() for _ in range(3)] for _ in range(30)] for _ in range(2)]
    found = compared_trials(*rows)
    means = compared(*([sum(trials) / 3 for trials in arm] for arm in rows))
    assert (found.n, found.trials, found.clusters) == (30, 3, 30)
    assert (found.p, found.losses, found.wins) == (means.p, means.losses, means.wins)
    assert found.difference == pytest.approx(means.difference)
    assert found.interval == pytest.approx(means.interval)
    assert found.candidate_mean == pytest.approx(means.candidate_mean)


def test_the_same_trial_repeated_is_no_new_evidence() -> None:
    source = random.Random(5)
    before, after = ([source.randrange(6) / 5 for _ in range(40)] for _ in range(2))
    once = compared(before, after)
    thrice = compared_trials([[x] * 3 for x in before], [[x] * 3 for x in after])
    assert (thrice.p, thrice.losses, thrice.wins) == (once.p, once.losses, once.wins)
    assert thrice.interval == pytest.approx(once.interval)
    assert thrice.noise_share == pytest.approx(0.0, abs=1e-9)


def test_mcnemar_is_for_one_trial_only() -> None:
    found = compared_trials([ALL] * 30, [NONE] * 4 + [ALL] * 26)
    assert not found.binary
    assert (found.p_exact, found.e_value) == (None, None)
    one = binary(30, 4, 0)
    assert one.binary
    assert one.e_value == pytest.approx((2**5 - 1) / 5)


def test_a_case_that_lacks_one_trial_is_incomplete() -> None:
    before: list[Sequence[float | None]] = [ALL] * 100
    after: list[Sequence[float | None]] = [*[ALL] * 98, (1.0, None, 1.0), (1.0, 1.0)]
    found = compared_trials(before, after)
    assert (found.n, found.missing, found.unscored, found.absent) == (98, 0, 2, (0, 2))
    worst, best = found.extremes
    assert (worst.n, worst.losses, worst.difference) == (100, 2, -0.02)
    assert (best.losses, best.wins, best.difference) == (0, 0, 0.0)


def test_an_arm_with_fewer_trials_than_the_other_is_incomplete() -> None:
    found = compare(series("base", [1.0] * 30), tried("new", [ALL] * 30), {}, 0.05)
    assert (found.trials, found.n, found.unscored) == (3, 0, 30)
    assert answer(found) == ("undecidable", UNDECIDABLE)


def test_a_contract_goes_by_the_majority_of_trials() -> None:
    same = [ALL] * 20
    found = compared_trials([ALL, ALL, MOST, FEW, *same], [MOST, FEW, NONE, NONE, *same])
    assert (found.losses, found.contract_losses) == (4, 2)
    assert answer(found, Rule(max_regressions=2)) == ("passed", PASS)
    verdict = verdict_of(found, Rule(max_regressions=1))
    assert (verdict.verdict, verdict.decision) == ("failed", FAIL)
    assert verdict.reason == "2 cases got worse by the majority of 3 trials; at most 1 may"


def test_one_of_two_trials_is_no_majority() -> None:
    half, both = (1.0, 0.0), (1.0, 1.0)
    assert compared_trials([both], [half]).contract_losses == 1
    assert compared_trials([half], [(0.0, 0.0)]).contract_losses == 0


def test_a_contract_on_shares_goes_by_the_mean() -> None:
    found = compared_trials([(0.6, 0.6)] * 3, [(0.6, 0.4), (0.8, 0.4), (0.2, 0.2)])
    assert (found.losses, found.contract_losses) == (2, 2)


def test_a_contract_on_shares_counts_what_fell_though_it_passed() -> None:
    old = Series(METRIC, "base", {str(k): (Score(METRIC, 0.9, passed=True),) for k in range(3)})
    values = [(0.8, True), (0.3, False), (0.95, True)]
    new = {str(k): (Score(METRIC, v, passed=p),) for k, (v, p) in enumerate(values)}
    found = compare(old, Series(METRIC, "new", new), {}, 0.05)
    assert (found.losses, found.contract_losses) == (2, 2)


def test_a_contract_where_less_is_better_counts_those_that_rose() -> None:
    found = compared([0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 0.0, 0.0], higher_is_better=False)
    assert (found.losses, found.wins, found.contract_losses) == (2, 1, 2)


def noisy(cases: int, moved: float, noise: float, trials: int) -> Comparison:
    source = random.Random(7)
    rows: tuple[list[list[float]], list[list[float]]] = ([], [])
    for _ in range(cases):
        level = source.gauss(0, moved)
        for arm, mean in zip(rows, (0.0, level), strict=True):
            arm.append([mean + source.gauss(0, noise) for _ in range(trials)])
    return compared_trials(*rows, low=None, high=None)


def test_an_open_question_says_whether_trials_or_cases_would_answer_it() -> None:
    by_trials, by_cases = noisy(60, 0.1, 1.0, 3), noisy(60, 1.0, 0.1, 3)
    assert by_trials.noise_share is not None
    assert by_trials.noise_share > 0.9
    assert verdict_of(by_trials).reason.endswith(
        " of the uncertainty is the models' own sampling: more trials would sharpen it"
    )
    assert verdict_of(by_cases).reason.endswith(
        "; 1 % of the uncertainty is the models' own sampling: "
        "more cases, not trials, would sharpen it"
    )
    assert "sampling" not in verdict_of(binary(60, 3, 3)).reason


def test_all_trials_count_for_macro_f1_and_move_together() -> None:
    source = random.Random(6)
    pairs = [[(source.choice("ab"), source.choice("ab")) for _ in range(40)] for _ in range(2)]
    before, after = (
        labelled(model, arm) for model, arm in zip(("base", "new"), pairs, strict=True)
    )
    thrice = [
        Series(arm.metric, arm.model, {case: found * 3 for case, found in arm.scores.items()})
        for arm in (before, after)
    ]
    once = corpus_comparison(before, after, {}, 0.05)
    found = corpus_comparison(*thrice, {}, 0.05)
    assert (found.n, found.trials) == (40, 3)
    assert (found.p, found.p_better, found.losses) == (once.p, once.p_better, once.losses)
    assert found.difference == pytest.approx(once.difference)
    assert found.se == pytest.approx(once.se)


# Skewed differences and clusters


def test_skewed_differences_are_warned_about() -> None:
    source = random.Random(2)
    drawn = [source.expovariate(1) - 1.1 for _ in range(60)]
    open_ended: dict[str, object] = {"low": None, "high": None}
    found = compared([0.0] * 60, drawn, **open_ended)
    assert found.skew is not None
    assert found.skew > 1
    assert "; the differences are skewed (many small losses, few large wins; skewness " in (
        verdict_of(found).reason
    )
    mirrored = compared([0.0] * 60, [-value for value in drawn], **open_ended)
    assert mirrored.skew == pytest.approx(-found.skew)
    assert "skewed" not in verdict_of(mirrored).reason
    assert "skewed" not in verdict_of(found, Rule(at_least=-9.0)).reason


def test_a_plain_drop_on_a_few_cases_is_not_called_skewed() -> None:
    assert binary(100, 14, 3).skew is None
    steps = compared([1.0] * 100, [0.0] * 9 + [0.5] * 3 + [1.0] * 88)
    assert steps.skew is not None
    assert steps.skew < 0
    assert verdict_of(steps).verdict == "regressed"
    few = compared([0.5] * 100, [0.75] * 3 + [0.25] * 3 + [0.0] + [1.0] + [0.5] * 92)
    assert few.skew == pytest.approx(0.0, abs=1e-9)


def test_cases_wanted_count_what_clusters_cost() -> None:
    source = random.Random(8)
    before = [0.5] * 80
    level = [source.uniform(-0.3, 0.3) for _ in range(20)]
    after = [0.5 + level[number // 4] for number in range(80)]
    in_fours = {f"case-{number:04}": str(number // 4) for number in range(80)}
    alone, together = compared(before, after), compared(before, after, in_fours)
    assert alone.design_effect == 1.0
    assert together.design_effect == pytest.approx(4.0)
    assert alone.deviation == together.deviation
    close = replace(together, difference=0.0, lower=-1.0)
    costly = verdict_of(close, Rule(margin=0.05)).reason
    cheap = verdict_of(replace(close, design_effect=1.0), Rule(margin=0.05)).reason
    assert (cheap.split("; ")[1], costly.split("; ")[1]) == (
        "about 84 cases settle it",
        "about 340 cases settle it",
    )


def test_the_exact_p_is_printed_beside_the_mid_p() -> None:
    assert "p = 0.0038, exact 0.0064)" in verdict_of(binary(152, 14, 3)).reason
    assert "p = 0.0038, exact 0.0064)" in verdict_of(binary(152, 3, 14)).reason
    among = decide([binary(152, 14, 3), binary(152, 3, 3, "s.other")], {}, DETECT)[0].reason
    assert "p = 0.0075, exact and uncorrected 0.0064)" in among


# Macro-F1


def labelled(model: str, pairs: Sequence[tuple[str, str] | None]) -> Series:
    scores = {
        f"case-{number:04}": (
            score(None) if pair is None else score(float(pair[0] == pair[1]), labels=pair),
        )
        for number, pair in enumerate(pairs)
    }
    return Series("general.macro_f1", model, scores)


def test_macro_f1_is_compared_as_a_whole() -> None:
    expected = ["rare"] * 6 + ["common"] * 60
    before = [(label, label) for label in expected]
    after = [("rare", INVALID_LABEL)] * 6 + before[6:]
    found = corpus_comparison(labelled("base", before), labelled("new", after), {}, 0.05)
    assert (found.baseline_mean, found.candidate_mean, found.difference) == (1.0, 0.5, -0.5)
    assert (found.n, found.losses, found.wins) == (66, 6, 0)
    assert found.p is not None
    assert found.p < 0.03
    assert found.interval is not None
    assert found.interval[0] < -0.5 < found.interval[1]
    assert verdict_of(found).reason.startswith("macro f1 fell by 50.0 points")


def test_macro_f1_of_one_model_is_its_mean() -> None:
    found = corpus_comparison(None, labelled("base", [("a", "a"), ("b", "a")]), {}, 0.05)
    assert found.candidate_mean == pytest.approx(1 / 3)
    assert found.baseline is None


def test_macro_f1_without_labels_is_refused() -> None:
    with pytest.raises(HarnessError, match="macro-F1 needs scores with labels"):
        corpus_comparison(None, series("base", [1.0]), {}, 0.05)


def test_a_missing_label_is_tried_as_right_and_as_wrong() -> None:
    pairs = [("a", "a"), ("b", "b")] * 50
    found = corpus_comparison(
        labelled("base", [*pairs, None]), labelled("new", [*pairs, ("a", "a")]), {}, 0.05
    )
    worst, best = found.extremes
    assert (worst.candidate_mean, best.candidate_mean) == (1.0, 1.0)
    assert worst.baseline_mean == 1.0
    assert best.baseline_mean is not None
    assert best.baseline_mean < 1.0


def test_a_case_that_nobody_labelled_counts_where_it_weighs_most() -> None:
    pairs = [("common", "common")] * 98 + [("rare", "rare")] * 2
    found = corpus_comparison(
        labelled("base", [*pairs, None]), labelled("new", [*pairs, None]), {}, 0.05
    )
    worst, best = found.extremes
    assert worst.difference == pytest.approx((0.8 - 1.0) / 2)
    assert best.difference == pytest.approx((1.0 - 0.8) / 2)


# Rules and verdicts


def test_a_guard_fails_only_on_what_got_worse() -> None:
    assert answer(binary(100, 14, 3)) == ("regressed", FAIL)
    assert answer(binary(100, 3, 14)) == ("improved", PASS)
    assert answer(binary(100, 4, 3)) == ("inconclusive", PASS)
    assert answer(compared([0.5] * 20, [0.5] * 17 + [0.4, 0.6, 0.6])) == ("inconclusive", PASS)


def test_a_guard_that_is_only_surely_not_worse_is_non_inferior() -> None:
    many = [binary(100, 1, 7, f"s.m{number}") for number in range(8)]
    assert {verdict.verdict for verdict in decide(many, [], DETECT)} == {"non_inferior"}


def test_a_release_asks_for_proof() -> None:
    assert answer(binary(100, 4, 3), settings=RELEASE) == ("inconclusive", FAIL)
    assert answer(binary(100, 3, 14), settings=RELEASE) == ("improved", PASS)
    assert answer(binary(100, 14, 3), settings=RELEASE) == ("regressed", FAIL)
    assert answer(binary(15, 0, 0), settings=RELEASE) == ("inconclusive", FAIL)
    assert answer(binary(500, 25, 25), Rule(margin=0.05), RELEASE) == ("non_inferior", PASS)


@pytest.mark.parametrize(
    ("rule", "losses", "wins", "expected"),
    [
        (Rule(margin=0.1), 4, 3, ("non_inferior", PASS)),
        (Rule(margin=0.1), 10, 7, ("inconclusive", FAIL)),
        (Rule(margin=0.1), 14, 3, ("regressed", FAIL)),
        (Rule(margin=0.1), 5, 0, ("non_inferior", PASS)),
        (Rule(better_by=0.1), 2, 14, ("improved", PASS)),
        (Rule(better_by=0.1), 2, 11, ("improved", FAIL)),
        (Rule(better_by=0.1), 22, 33, ("inconclusive", FAIL)),
        (Rule(better_by=0.1), 14, 3, ("regressed", FAIL)),
        (Rule(max_regressions=2), 2, 0, ("passed", PASS)),
        (Rule(max_regressions=2), 3, 40, ("failed", FAIL)),
    ],
)
def test_rules_on_the_difference(
    rule: Rule, losses: int, wins: int, expected: tuple[str, Decision]
) -> None:
    assert answer(binary(100, losses, wins), rule) == expected


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Rule(at_least=0.98), ("passed", PASS)),
        (Rule(at_least=0.99), ("failed", FAIL)),
        (Rule(at_most=0.98), ("passed", PASS)),
        (Rule(at_most=0.97), ("failed", FAIL)),
    ],
)
def test_absolute_rules_look_at_the_candidates_mean_alone(
    rule: Rule, expected: tuple[str, Decision]
) -> None:
    after = [1.0] * 49 + [0.0]
    assert answer(compared([0.0] * 50, after), rule) == expected
    assert answer(compare(None, series("base", after), {}, 0.05), rule) == expected
    assert answer(compared([0.0] * 5, [0.98] * 5), rule) == expected


def test_without_baseline_only_absolute_rules_are_answered() -> None:
    alone = compare(None, series("base", [1.0] * 30), {}, 0.05)
    assert (alone.n, alone.candidate_mean, alone.p, alone.difference) == (30, 1.0, None, None)
    assert decide([alone], [], DETECT) == []
    for rule in (Rule(better_by=0.1), Rule(margin=0.1), Rule(max_regressions=0)):
        verdict = verdict_of(alone, rule)
        assert (verdict.verdict, verdict.decision) == ("undecidable", UNDECIDABLE)
        assert "this run has none" in verdict.reason


@pytest.mark.parametrize("rule", [None, Rule(margin=0.05), Rule(better_by=0.5)])
def test_under_twenty_cases_statistics_fail_nothing(rule: Rule | None) -> None:
    verdict = verdict_of(binary(19, 19, 0), rule)
    assert (verdict.verdict, verdict.decision) == ("smoke", PASS)
    assert verdict.reason.startswith("only 19 cases, and under 20 cases or 10 clusters")
    assert "19 cases worse" in verdict.reason
    assert answer(binary(20, 20, 0), rule)[1] is FAIL


def test_under_ten_clusters_statistics_fail_nothing() -> None:
    nine = {f"case-{number:04}": str(number % 9) for number in range(40)}
    ten = {f"case-{number:04}": str(number % 10) for number in range(40)}
    assert answer(compared([1.0] * 40, [0.0] * 40, nine)) == ("smoke", PASS)
    assert answer(compared([1.0] * 40, [0.0] * 40, ten)) == ("regressed", FAIL)


def test_small_suites_still_fail_contracts_and_absolute_rules() -> None:
    assert answer(binary(5, 1, 0), Rule(max_regressions=0)) == ("failed", FAIL)
    assert answer(binary(5, 5, 0), Rule(at_least=0.9)) == ("failed", FAIL)


def test_many_tests_share_one_error_rate() -> None:
    # One-sided mid-p .0207: sure enough alone, not among eight.
    assert answer(binary(100, 11, 3)) == ("regressed", FAIL)
    family = [binary(100, 11, 3, "s.m0")] + [binary(100, 4, 4, f"s.m{n}") for n in range(1, 8)]
    verdicts = decide(family, [], DETECT)
    assert {verdict.verdict for verdict in verdicts} == {"inconclusive"}
    first = verdicts[0].comparison
    assert first.p is not None
    assert first.p_adjusted == pytest.approx(8 * first.p)
    assert verdicts[1].comparison.p_adjusted == 1.0


def test_rules_without_statistics_and_smoke_do_not_widen_the_family() -> None:
    others = [binary(100, 4, 4, f"s.m{number}") for number in range(6)] + [binary(9, 1, 1, "t.m")]
    rules = [Rule(key="s", at_least=0.1)]
    verdicts = decide([binary(100, 11, 3), *others], rules, DETECT)
    assert verdicts[0].verdict == "regressed"
    assert verdicts[0].comparison.p_adjusted == verdicts[0].comparison.p
    assert verdicts[1].comparison.p_adjusted is None


# Validity


def test_more_than_two_percent_incomplete_pairs_allow_no_verdict() -> None:
    values: list[float | None] = [1.0] * 97
    found = compared([*values, 1.0, 1.0, 1.0], [*values, None, None, None])
    for rule in (None, Rule(at_least=0.5), Rule(margin=0.5), Rule(max_regressions=90)):
        verdict = verdict_of(found, rule)
        assert (verdict.verdict, verdict.decision) == ("undecidable", UNDECIDABLE)
    assert "3 of 100 pairs are incomplete, more than 2 %" in verdict_of(found).reason


def test_a_run_without_any_score_is_undecidable() -> None:
    nothing = compared([1.0] * 30, [None] * 30)
    assert answer(nothing) == ("undecidable", UNDECIDABLE)
    alone = compare(None, series("base", [None] * 3), {}, 0.05)
    assert answer(alone, Rule(at_least=0.0)) == ("undecidable", UNDECIDABLE)
    assert answer(compared([], []), Rule(margin=0.1)) == ("undecidable", UNDECIDABLE)


def test_missing_scores_of_one_arm_only_are_no_chance() -> None:
    before, after = [1.0, 0.0] * 500, [0.0, 1.0] * 100 + [1.0, 0.0] * 400
    lopsided = compared(before, [*after[:-12], *[None] * 12])
    even = compared([*before[:-6], *[None] * 6], [*[None] * 6, *after[6:]])
    assert "too uneven for chance" in verdict_of(lopsided).reason
    assert answer(lopsided) == ("undecidable", UNDECIDABLE)
    assert answer(even) == ("inconclusive", PASS)


def with_one_missing(losses: int, wins: int) -> Comparison:
    same = [1.0] * (99 - losses - wins)
    before = [1.0] * losses + [0.0] * wins + [*same, 1.0]
    return compared(before, [0.0] * losses + [1.0] * wins + [*same, None])


def test_a_decision_that_hangs_on_a_missing_pair_is_undecidable() -> None:
    verdict = verdict_of(with_one_missing(8, 3))
    assert (verdict.verdict, verdict.decision) == ("undecidable", UNDECIDABLE)
    assert "hangs on 1 incomplete pair in this run: fail if" in verdict.reason
    assert answer(with_one_missing(3, 0), Rule(max_regressions=3)) == ("undecidable", UNDECIDABLE)


def test_a_decision_that_does_not_hang_on_a_missing_pair_stands() -> None:
    assert answer(with_one_missing(14, 3)) == ("regressed", FAIL)
    assert answer(with_one_missing(2, 2)) == ("inconclusive", PASS)
    assert answer(with_one_missing(3, 0), Rule(max_regressions=4)) == ("passed", PASS)


def test_a_word_that_hangs_on_a_missing_pair_is_inconclusive() -> None:
    verdict = verdict_of(with_one_missing(3, 10))
    assert (verdict.verdict, verdict.decision) == ("inconclusive", PASS)
    assert "1 incomplete pair could make it" in verdict.reason


def test_missing_pairs_count_for_absolute_rules_too() -> None:
    alone = compare(None, series("base", [1.0] * 97 + [0.0] * 2 + [None]), {}, 0.05)
    assert answer(alone, Rule(at_least=0.975)) == ("undecidable", UNDECIDABLE)
    assert answer(alone, Rule(at_least=0.95)) == ("passed", PASS)


def test_missing_values_of_an_open_range_are_the_worst_and_best_seen() -> None:
    before: list[float | None] = [2.0] * 98 + [1.0, 5.0]
    after: list[float | None] = [2.0] * 98 + [None, 5.0]
    found = compared(before, after, high=None, unit="s", higher_is_better=False)
    worst, best = found.extremes
    assert worst.difference == pytest.approx(-0.04)
    assert best.difference == pytest.approx(0.01)
    assert (worst.missing, worst.unscored, worst.n) == (0, 0, 100)


# False alarms and power, by exact enumeration through the decision


GRID = [(n, share) for n in (20, 50, 100) for share in (0.05, 0.1, 0.2, 0.4)]
FALSE_ALARMS = 0.051


@pytest.mark.parametrize(("n", "discordance"), [*GRID, (200, 0.05), (200, 0.1)])
def test_false_alarms_stay_at_five_percent(n: int, discordance: float) -> None:
    assert probability(our_gate, n, discordance) <= FALSE_ALARMS


@pytest.mark.parametrize(("n", "drop"), [(20, 0.26), (50, 0.15), (100, 0.107), (200, 0.077)])
def test_drops_are_found_as_often_as_the_method_says(n: int, drop: float) -> None:
    assert probability(our_gate, n, 0.2, drop) == pytest.approx(0.8, abs=0.005)


@pytest.mark.parametrize(("n", "power"), [(50, 0.24), (200, 0.70)])
def test_an_unchanged_model_is_non_inferior_as_often_as_the_method_says(
    n: int, power: float
) -> None:
    assert probability(within_five_points, n, 0.1) == pytest.approx(power, abs=0.0075)
    assert probability(within_five_points, n, 0.1, 0.05) <= FALSE_ALARMS


@pytest.mark.parametrize(
    ("gate", "n", "discordance", "rate"),
    [
        (lower_mean, 100, 0.2, 0.45),
        (five_points_lower, 50, 0.2, 0.21),
        (five_points_lower, 100, 0.2, 0.11),
        (percentile_bootstrap, 12, 0.3, 0.053),
    ],
)
def test_known_bad_gates_are_shown_to_cry_wolf(
    gate: Gate, n: int, discordance: float, rate: float
) -> None:
    found = probability(gate, n, discordance)
    assert found > FALSE_ALARMS
    assert found == pytest.approx(rate, abs=0.006)
    assert probability(our_gate, n, discordance) <= FALSE_ALARMS


def test_an_unpaired_test_is_shown_to_miss_what_pairs_show() -> None:
    assert probability(unpaired_z, 100, 0.2, 0.107) < 0.45
    assert probability(unpaired_z, 200, 0.2, 0.107) < 0.8


def test_walds_interval_is_shown_to_pass_what_is_worse_by_the_margin() -> None:
    assert probability(wald_within_five_points, 50, 0.05, 0.05) > 0.07
    assert probability(within_five_points, 50, 0.05, 0.05) <= FALSE_ALARMS


# Invariants


steps = st.sampled_from([0, 0.2, 0.5, 1])
some_pairs = st.lists(st.tuples(steps, steps), min_size=20, max_size=60)
MIRROR = {"regressed": "improved", "improved": "regressed"}


@settings(max_examples=60, deadline=None)
@given(some_pairs)
def test_swapped_arms_mirror_the_verdict(pairs: list[tuple[float, float]]) -> None:
    before, after = zip(*pairs, strict=True)
    there, back = compared(before, after), compared(after, before)
    assert (there.p, there.p_better) == (back.p_better, back.p)
    assert (there.losses, there.wins) == (back.wins, back.losses)
    assert there.difference == -back.difference
    assert there.interval is not None
    assert back.interval == pytest.approx((-there.interval[1], -there.interval[0]))
    word, opposite = answer(there)[0], answer(back)[0]
    if word in MIRROR or opposite in MIRROR:
        assert MIRROR.get(word, word) in (opposite, "non_inferior", "inconclusive")


@settings(max_examples=40, deadline=None)
@given(some_pairs)
def test_less_is_better_is_the_mirror_of_more_is_better(pairs: list[tuple[float, float]]) -> None:
    before, after = zip(*pairs, strict=True)
    more, less = compared(before, after), compared(before, after, higher_is_better=False)
    assert (more.p, more.p_better) == (less.p_better, less.p)
    assert (more.losses, more.wins) == (less.wins, less.losses)
    assert more.difference == -(less.difference or 0.0)
    assert more.candidate_mean == less.candidate_mean
    assert more.interval is not None
    assert less.interval == pytest.approx((-more.interval[1], -more.interval[0]))
    back = compared(after, before)
    assert answer(less) == answer(back)


@settings(max_examples=40, deadline=None)
@given(some_pairs, st.integers(2, 3), st.integers(2, 4))
def test_copies_of_cases_inside_their_clusters_change_nothing(
    pairs: list[tuple[float, float]], copies: int, size: int
) -> None:
    before, after = zip(*pairs, strict=True)
    clusters = {
        f"case-{number:04}": str(number % len(pairs) // size)
        for number in range(copies * len(pairs))
    }
    once = compared(before, after, clusters)
    often = compared(before * copies, after * copies, clusters)
    assert (often.p, often.p_better) == (once.p, once.p_better)
    assert often.difference == pytest.approx(once.difference, abs=1e-12)
    assert often.skew == (once.skew if once.skew is None else pytest.approx(once.skew))
    assert often.clusters == once.clusters
    assert often.interval == pytest.approx(once.interval)
    assert answer(often) == answer(once)


@settings(max_examples=40, deadline=None)
@given(some_pairs, st.integers(1, 4), st.randoms(use_true_random=False))
def test_other_names_of_cases_and_clusters_change_nothing(
    pairs: list[tuple[float, float]], size: int, source: random.Random
) -> None:
    names = [f"renamed-{number}" for number in range(len(pairs))]
    source.shuffle(names)

    def named(ids: Sequence[str], origin: str) -> Comparison:
        arms = [
            Series(METRIC, model, {i: (score(value),) for i, value in zip(ids, arm, strict=True)})
            for model, arm in zip(("base", "new"), zip(*pairs, strict=True), strict=True)
        ]
        return compare(*arms, {i: f"{origin}{k // size}" for k, i in enumerate(ids)}, 0.05)

    first, second = named([f"case-{k:04}" for k in range(len(pairs))], "a"), named(names, "origin ")
    assert (first.p, first.p_better, first.losses) == (second.p, second.p_better, second.losses)
    assert first.interval == pytest.approx(second.interval)
    assert answer(first) == answer(second)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([0, 0.5, 1]), st.sampled_from([0, 0.5, 1])),
        min_size=20,
        max_size=50,
    ),
    st.randoms(use_true_random=False),
)
def test_names_and_order_of_cases_do_not_matter(
    pairs: list[tuple[float, float]], source: random.Random
) -> None:
    shuffled = list(pairs)
    source.shuffle(shuffled)
    first, second = (compared(*zip(*some, strict=True)) for some in (pairs, shuffled))
    assert first.p == second.p
    assert first.interval == pytest.approx(second.interval)
    assert answer(first) == answer(second)


def test_the_order_of_comparisons_does_not_matter() -> None:
    family = [binary(100, 4 + number, 4, f"s.m{number}") for number in range(12)]
    forwards = decide(family, [], DETECT)
    assert decide(family[::-1], [], DETECT)[::-1] == forwards


# Sentences


def test_reasons_are_plain_sentences() -> None:
    fallen = replace(binary(152, 14, 3), metric="tickets.field_accuracy")
    assert verdict_of(fallen).reason == (
        "field accuracy fell by 7.2 points "
        "(95 % interval -13.2 to -2.2, p = 0.0038, exact 0.0064): "
        "14 cases worse, 3 better"
    )
    assert verdict_of(binary(200, 4, 3), Rule(margin=0.1)).reason == (
        "no drop of 10 points or more (lower bound -3.1)"
    )
    assert verdict_of(binary(100, 0, 0)).reason == (
        "no drop is proved: schema match changed on none of 100 cases; "
        "a drop under 5.5 points can stay unseen"
    )
    assert verdict_of(binary(100, 1, 0), Rule(max_regressions=0)).reason == (
        "1 case got worse; at most 0 may"
    )
    assert verdict_of(binary(60, 3, 3), Rule(margin=0.05)).reason.endswith(
        "schema match is the same on average (95 % interval -9.6 to 9.6, p = 0.5, exact 0.66): "
        "3 cases worse, 3 better; about 260 cases settle it"
    )
    assert verdict_of(binary(100, 2, 11), Rule(better_by=0.1)).reason.startswith(
        "a rise of 10 points is asked for: schema match rose by 9.0 points"
    )


def test_the_suite_says_what_it_can_see() -> None:
    seen = verdict_of(binary(100, 10, 10)).comparison
    assert what_it_sees(seen) == (
        "This suite sees a drop of 11 points or more; seeing 5 points takes about 470 cases."
    )
    fine = verdict_of(binary(1_000, 100, 100)).comparison
    assert what_it_sees(fine) == "This suite sees a drop of 3.5 points or more."
    tiny = verdict_of(binary(3, 1, 1)).comparison
    assert what_it_sees(tiny) == "3 cases cannot tell what drop this suite would see."
    slow = compared([1.0] * 30, [0.9, 1.1] * 15, high=None, unit="s", higher_is_better=False)
    assert what_it_sees(verdict_of(slow).comparison).startswith("This suite sees a rise of 0.0")


def test_more_tests_at_once_see_less() -> None:
    one = verdict_of(binary(100, 10, 10)).comparison.mde
    family = [binary(100, 10, 10, f"s.m{number}") for number in range(8)]
    among_eight = decide(family, [], DETECT)[0].comparison.mde
    assert one is not None
    assert among_eight is not None
    assert among_eight > 1.2 * one
