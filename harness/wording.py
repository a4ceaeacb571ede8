"""Comparisons in plain words: what changed, how sure that is, what can stay unseen.

Numbers are shown in the metric's own direction and unit; metrics in [0, 1] in points (hundredths).
"""

from __future__ import annotations

import math

from harness import stats
from harness.records import Comparison


def what_it_sees(comparison: Comparison) -> str:
    """Return one sentence on the smallest drop that the suite finds, and what five points take.

    The comparison comes from a `Verdict`: only `decide` knows how many tests share the error rate.
    """
    if comparison.mde is None:
        return f"{count(comparison.n, 'case')} cannot tell what drop this suite would see."
    seen = f"This suite sees a {drop(comparison)} of {_about(comparison, comparison.mde)} or more"
    if not _in_points(comparison) or comparison.mde <= 0.05:
        return f"{seen}."
    cases = _rounded(comparison.n * (comparison.mde / 0.05) ** 2)
    return f"{seen}; seeing 5 points takes about {cases:,} cases."


def change(comparison: Comparison, alpha: float) -> str:
    """Return what became of the metric, with interval (at 1 - `alpha`), p and counts of cases."""
    moved = _direction(comparison) * (comparison.difference or 0.0)
    if not comparison.losses and not comparison.wins and not moved:
        return f"{name(comparison)} changed on none of {count(comparison.n, 'case')}"
    evidence = _evidence(comparison, alpha)
    counts = f"{count(comparison.losses, 'case')} worse, {comparison.wins} better"
    if abs(moved) < 1e-12:
        return f"{name(comparison)} is the same on average ({evidence}): {counts}"
    unit = "points" if _in_points(comparison) else comparison.unit
    amount = f"{_measured(comparison, abs(moved))} {unit}".strip()
    verb = "rose" if moved > 0 else "fell"
    return f"{name(comparison)} {verb} by {amount} ({evidence}): {counts}"


def _evidence(comparison: Comparison, alpha: float) -> str:
    worse = (comparison.difference or 0.0) < 0
    plain = comparison.p if worse else comparison.p_better
    adjusted = comparison.p_adjusted if worse else comparison.p_better_adjusted
    p = (plain if adjusted is None else adjusted) or 0.0
    p_words = f"p {_chance(p)}{_exact(comparison, p, worse=worse)}"
    if comparison.interval is None:
        return p_words
    low, high = sorted(_direction(comparison) * end for end in comparison.interval)
    span = f"{_measured(comparison, low)} to {_measured(comparison, high)}"
    return f"{100 * (1 - alpha):g} % interval {span}, {p_words}"


def _chance(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.2g}"


def _exact(comparison: Comparison, p: float, *, worse: bool) -> str:
    """McNemar's exact p beside the mid-p `p`, which may be corrected for the number of tests."""
    if not comparison.binary:
        return ""
    counts = (comparison.losses, comparison.wins)
    exact = stats.mcnemar_exact(*(counts if worse else counts[::-1]))
    if max(p, exact) < 0.001:
        return ""
    corrected = p > ((comparison.p if worse else comparison.p_better) or 0.0)
    return f", exact{' and uncorrected' if corrected else ''} {_chance(exact).removeprefix('= ')}"


def bound(comparison: Comparison) -> str:
    """Return the one-sided bound on the bad side: `lower bound -3.1`."""
    if comparison.lower is None:
        return "no bound from so few cases"
    side = "lower" if comparison.higher_is_better else "upper"
    return f"{side} bound {_measured(comparison, _direction(comparison) * comparison.lower)}"


def unseen(comparison: Comparison) -> str:
    """Return the end of a sentence that says what can stay unseen; empty where unknown."""
    if comparison.mde is None:
        return ""
    return f"; a {drop(comparison)} under {_about(comparison, comparison.mde)} can stay unseen"


def cases_wanted(comparison: Comparison, margin: float, alpha: float, power: float) -> str:
    """Return the end of a sentence: how many cases settle `margin`; empty where none would."""
    if not comparison.deviation or not margin or (comparison.difference or 0.0) <= -margin:
        return ""
    cases = stats.cases_needed(margin, comparison.deviation, alpha, power, comparison.design_effect)
    return f"; about {_rounded(cases):,} cases settle it" if cases > comparison.n else ""


def flips(comparison: Comparison) -> str:
    """Return what an A/A run says about a metric: how many cases differ between equal models."""
    changed = comparison.losses + comparison.wins
    share = f"{100 * changed / comparison.n:.1f} %"
    return (
        f"{comparison.title}: the same model differs from itself on {changed:,} of "
        f"{count(comparison.n, 'case')} ({share})"
    )


def skewed(comparison: Comparison) -> str:
    """Return the end of a sentence that warns of skewed differences; empty where they are not."""
    if comparison.skew is None or comparison.skew <= stats.SKEWED:
        return ""
    return (
        "; the differences are skewed (many small losses, few large wins; skewness "
        f"{comparison.skew:.1f}), and then a {drop(comparison)} seems surer than it is: "
        "treat p and the interval with care, or add cases"
    )


def sampling_noise(comparison: Comparison) -> str:
    """Return the end of a sentence on what would sharpen the answer; empty for one trial."""
    if comparison.noise_share is None:
        return ""
    share = f"{100 * comparison.noise_share:.0f} % of the uncertainty is the models' own sampling"
    advice = "more trials" if comparison.noise_share > 0.5 else "more cases, not trials,"
    return f"; {share}: {advice} would sharpen it"


def name(comparison: Comparison) -> str:
    """Return the metric without its suite, as words."""
    suite, _, metric = comparison.metric.partition(".")
    return (metric or suite).replace("_", " ")


def count(number: int, noun: str, nouns: str = "") -> str:
    """Return `1 case`, `2 cases`; `nouns` is the plural where it takes more than an s."""
    return f"{number:,} {noun if number == 1 else nouns or f'{noun}s'}"


def drop(comparison: Comparison) -> str:
    """Return the word for a change to the worse."""
    return "drop" if comparison.higher_is_better else "rise"


def rise(comparison: Comparison) -> str:
    """Return the word for a change to the better."""
    return "rise" if comparison.higher_is_better else "drop"


def asked(comparison: Comparison, amount: float) -> str:
    """Return a configured amount with its unit: `10 points`, `0.5 s`."""
    if not _in_points(comparison):
        return f"{amount:g} {comparison.unit}".strip()
    points = f"{100 * amount:g}"
    return f"{points} point{'' if points == '1' else 's'}"


def _about(comparison: Comparison, amount: float) -> str:
    return asked(comparison, float(f"{amount:.2g}"))


def _measured(comparison: Comparison, amount: float) -> str:
    """Write a measured amount without its unit, points to a tenth."""
    text = f"{100 * amount:.1f}" if _in_points(comparison) else f"{amount:.3g}"
    return text.removeprefix("-") if float(text) == 0 else text


def _in_points(comparison: Comparison) -> bool:
    return not comparison.unit and (comparison.low, comparison.high) == (0, 1)


def _direction(comparison: Comparison) -> int:
    return 1 if comparison.higher_is_better else -1


def _rounded(cases: float) -> int:
    """Round up to two figures: nobody knows more."""
    step: int = 10 ** max(0, math.ceil(math.log10(max(cases, 1))) - 2)
    return step * math.ceil(cases / step - 1e-9)
