"""Comparisons and rules -> verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from harness import stats, wording
from harness.comparing import (
    compare,
    corpus_comparison,
    incomplete,
    too_much_missing,
    value_span,
)
from harness.records import Comparison, Decision, Rule, Verdict
from harness.rules import Gate, is_statistical
from harness.rules import gated as gates_of
from harness.wording import what_it_sees

__all__ = [
    "GateSettings",
    "compare",
    "corpus_comparison",
    "decide",
    "what_it_sees",
]

_LOPSIDED = 0.01
_CASES_AT_LEAST = 20
_CLUSTERS_AT_LEAST = 10
_NOISE = 1e-9


@dataclass(frozen=True, slots=True)
class GateSettings:
    """How sure a verdict must be: `alpha` one-sided, `power` of what a suite is said to see.

    `mode` detect fails on what got worse; release passes only what is shown to be no worse.
    """

    alpha: float = 0.05
    power: float = 0.8
    mode: Literal["detect", "release"] = "detect"


_Gated = list[Gate]
_Answer = tuple[str, Decision, str]


def decide(
    comparisons: Sequence[Comparison], rules: Sequence[Rule], settings: GateSettings
) -> list[Verdict]:
    """Return a verdict for each gate that `harness.rules.gated` finds, in the same order.

    Holm's correction
    runs over all comparisons that statistics decide. Where a few pairs are incomplete the
    decision is taken three times, with them left out, as losses and as wins: a decision that
    hangs on them is undecidable, a verdict that does is inconclusive.
    """
    gated = _with_mde(gates_of(comparisons, rules), settings)
    seen = _verdicts(gated, settings)
    if not any(each.extremes for each, _ in gated):
        return seen
    lost, won = (_verdicts(_world(gated, index), settings) for index in (0, 1))
    return [_settled(*verdicts) for verdicts in zip(seen, lost, won, strict=True)]


def _world(gated: _Gated, index: int) -> _Gated:
    return [
        (each.extremes[index] if each.extremes and not _invalid(each) else each, rule)
        for each, rule in gated
    ]


def _settled(seen: Verdict, lost: Verdict, won: Verdict) -> Verdict:
    pairs = wording.count(incomplete(seen.comparison), "incomplete pair")
    if len({seen.decision, lost.decision, won.decision}) > 1:
        reason = (
            f"the answer hangs on {pairs} in this run: {lost.decision} if they are losses, "
            f"{won.decision} if they are wins; run again to complete them"
        )
        return replace(seen, verdict="undecidable", decision=Decision.UNDECIDABLE, reason=reason)
    if len({seen.verdict, lost.verdict, won.verdict}) > 1:
        reason = f"{seen.reason}; {pairs} could make it {lost.verdict} or {won.verdict}"
        return replace(seen, verdict="inconclusive", reason=reason)
    return seen


def _with_mde(gated: _Gated, settings: GateSettings) -> _Gated:
    alpha = settings.alpha / max(1, len(_family(gated, settings)))
    return [(replace(each, mde=_mde(each, alpha, settings.power)), rule) for each, rule in gated]


def _mde(comparison: Comparison, alpha: float, power: float) -> float | None:
    if comparison.se is None:
        return None
    if comparison.binary:
        discordance = (comparison.losses + comparison.wins) / comparison.n
        return stats.mde_binary(comparison.n, discordance, alpha, power)
    if comparison.se > 0:
        return stats.mde(comparison.se, alpha, power)
    span, share = value_span(comparison), stats.mde_binary(comparison.clusters, 0, alpha, power)
    return None if span is None or share is None else span * share


def _verdicts(gated: _Gated, settings: GateSettings) -> list[Verdict]:
    return [
        Verdict(comparison, rule, *_answer(comparison, rule, settings))
        for comparison, rule in _adjusted(gated, settings)
    ]


def _adjusted(gated: _Gated, settings: GateSettings) -> _Gated:
    """Set Holm's p values on the comparisons that are decided by statistics."""
    family = _family(gated, settings)
    worse = stats.holm([gated[index][0].p or 0.0 for index in family])
    better = stats.holm([gated[index][0].p_better or 0.0 for index in family])
    adjusted = list(gated)
    for index, p, p_better in zip(family, worse, better, strict=True):
        comparison, rule = gated[index]
        adjusted[index] = (replace(comparison, p_adjusted=p, p_better_adjusted=p_better), rule)
    return adjusted


def _family(gated: _Gated, settings: GateSettings) -> list[int]:
    """Which comparisons are decided by statistics, and so share one error rate."""
    return [
        index
        for index, (comparison, rule) in enumerate(gated)
        if comparison.p is not None
        and is_statistical(rule)
        and not _is_smoke(comparison, settings)
        and not _invalid(comparison)
    ]


def _is_smoke(comparison: Comparison, settings: GateSettings) -> bool:
    """Too small to fail by statistics; a release asks for proof all the same."""
    small = comparison.n < _CASES_AT_LEAST or comparison.clusters < _CLUSTERS_AT_LEAST
    return small and settings.mode == "detect"


def _answer(comparison: Comparison, rule: Rule, settings: GateSettings) -> _Answer:
    if rule.max_would_not_ship is not None:
        return _would_not_ship(comparison, rule.max_would_not_ship)
    if problem := _invalid(comparison):
        return "undecidable", Decision.UNDECIDABLE, problem
    if rule.at_least is not None:
        return _absolute(comparison, rule.at_least, at_least=True)
    if rule.at_most is not None:
        return _absolute(comparison, rule.at_most, at_least=False)
    if comparison.baseline is None:
        reason = f"`{rule}` compares with a baseline, and this run has none; configure a candidate"
        return "undecidable", Decision.UNDECIDABLE, reason
    if rule.max_regressions is not None:
        return _contract(comparison, rule.max_regressions)
    if _is_smoke(comparison, settings):
        return "smoke", Decision.PASS, _smoke_reason(comparison, settings.alpha)
    return _with_doubts(comparison, _by_statistics(comparison, rule, settings))


def _by_statistics(comparison: Comparison, rule: Rule, settings: GateSettings) -> _Answer:
    if rule.margin is not None:
        return _within_margin(comparison, rule.margin, settings)
    if rule.better_by is not None:
        return _better(comparison, rule.better_by, settings)
    return _guard(comparison, settings)


def _with_doubts(comparison: Comparison, answer: _Answer) -> _Answer:
    verdict, decision, reason = answer
    noise = wording.sampling_noise(comparison) if verdict == "inconclusive" else ""
    return verdict, decision, reason + noise + wording.skewed(comparison)


def _invalid(comparison: Comparison) -> str:
    """Why this evidence allows no verdict; empty where it does."""
    lacking = incomplete(comparison)
    pairs = comparison.n + lacking
    what = "scores" if comparison.baseline is None else "pairs"
    if not comparison.n:
        return f"none of {pairs:,} {what} is complete; see the run's errors, then run again"
    if too_much_missing(comparison):
        return (
            f"{lacking:,} of {pairs:,} {what} are incomplete, more than 2 %; "
            "see the run's errors, then run again"
        )
    if comparison.baseline and stats.fisher(*comparison.absent, pairs) < _LOPSIDED:
        before, after = comparison.absent
        return (
            f"{before} scores are missing for {comparison.baseline} and {after} for "
            f"{comparison.candidate}, too uneven for chance; see the run's errors, then run again"
        )
    return ""


def _absolute(comparison: Comparison, limit: float, *, at_least: bool) -> _Answer:
    mean = comparison.candidate_mean or 0.0
    met = mean >= limit - _NOISE if at_least else mean <= limit + _NOISE
    unit = f" {comparison.unit}" if comparison.unit else ""
    words = "at least" if at_least else "at most"
    reason = f"{wording.name(comparison)} is {mean:.4g}{unit}; {words} {limit:g}{unit} is asked for"
    return _passed(met, reason)


def _contract(comparison: Comparison, limit: int) -> _Answer:
    lost = wording.count(comparison.contract_losses, "case")
    trials = f" by the majority of {comparison.trials} trials" if comparison.trials > 1 else ""
    reason = f"{lost} got worse{trials}; at most {limit:,} may"
    return _passed(comparison.contract_losses <= limit, reason)


def _would_not_ship(comparison: Comparison, limit: int) -> _Answer:
    """Too many are too many however few were read; few enough count when enough were read."""
    read = wording.count(comparison.n, "reply", "replies")
    reason = f"people would not ship {comparison.losses:,} of {read}; at most {limit:,} may be so"
    if comparison.missing and comparison.losses <= limit:
        suite = comparison.metric.partition(".")[0]
        reason = (
            f"people have read {comparison.n:,} of {comparison.n + comparison.missing:,} replies; "
            f"read them with `harness review --suite {suite} --candidate {comparison.candidate}`, "
            "then run again"
        )
        return "undecidable", Decision.UNDECIDABLE, reason
    return _passed(comparison.losses <= limit, reason)


def _passed(met: bool, reason: str) -> _Answer:
    return ("passed", Decision.PASS, reason) if met else ("failed", Decision.FAIL, reason)


def _smoke_reason(comparison: Comparison, alpha: float) -> str:
    size = wording.count(comparison.n, "case")
    if comparison.clusters < comparison.n:
        size += f" in {wording.count(comparison.clusters, 'cluster')}"
    return (
        f"only {size}, and under {_CASES_AT_LEAST} cases or {_CLUSTERS_AT_LEAST} clusters "
        f"statistics fail nothing: {wording.change(comparison, alpha)}"
    )


def _regressed(comparison: Comparison, settings: GateSettings) -> bool:
    return comparison.p_adjusted is not None and comparison.p_adjusted <= settings.alpha


def _improved(comparison: Comparison, settings: GateSettings) -> bool:
    p = comparison.p_better_adjusted
    return p is not None and p <= settings.alpha


def _above(comparison: Comparison, margin: float) -> bool:
    return comparison.lower is not None and comparison.lower > -margin


def _guard(comparison: Comparison, settings: GateSettings) -> _Answer:
    change, drop = wording.change(comparison, settings.alpha), wording.drop(comparison)
    if _regressed(comparison, settings):
        return "regressed", Decision.FAIL, change
    if _improved(comparison, settings):
        return "improved", Decision.PASS, change
    if _above(comparison, 0.0):
        return "non_inferior", Decision.PASS, f"no {drop} ({wording.bound(comparison)}): {change}"
    if settings.mode == "release":
        reason = (
            f"not shown to be no worse ({wording.bound(comparison)}): {change}; "
            "a release asks for that: give this metric a `margin`, or more cases"
        )
        return "inconclusive", Decision.FAIL, reason
    reason = f"no {drop} is proved: {change}{wording.unseen(comparison)}"
    return "inconclusive", Decision.PASS, reason


def _within_margin(comparison: Comparison, margin: float, settings: GateSettings) -> _Answer:
    drop = f"{wording.drop(comparison)} of {wording.asked(comparison, margin)}"
    bound = wording.bound(comparison)
    if _above(comparison, margin):
        return "non_inferior", Decision.PASS, f"no {drop} or more ({bound})"
    change = wording.change(comparison, settings.alpha)
    if _regressed(comparison, settings):
        return "regressed", Decision.FAIL, change
    more = wording.cases_wanted(comparison, margin, settings.alpha, settings.power)
    return "inconclusive", Decision.FAIL, f"a {drop} is not ruled out ({bound}): {change}{more}"


def _better(comparison: Comparison, amount: float, settings: GateSettings) -> _Answer:
    change = wording.change(comparison, settings.alpha)
    if _regressed(comparison, settings):
        return "regressed", Decision.FAIL, change
    wanted = f"a {wording.rise(comparison)} of {wording.asked(comparison, amount)} is asked for"
    if not _improved(comparison, settings):
        return "inconclusive", Decision.FAIL, f"{wanted}, and none is proved: {change}"
    if (comparison.difference or 0.0) < amount - _NOISE:
        return "improved", Decision.FAIL, f"{wanted}: {change}"
    return "improved", Decision.PASS, change
