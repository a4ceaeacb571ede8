"""Two series of scores -> one paired comparison."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from harness import stats
from harness.records import (
    INVALID_LABEL,
    Comparison,
    EvidenceError,
    HarnessError,
    Score,
    Series,
)

_MISSING_LIMIT = 0.02
_NOISE = 1e-12


def compare(
    baseline: Series | None, candidate: Series, clusters: Mapping[str, str], alpha: float
) -> Comparison:
    """Pair two series by case id and sum up how they differ, with p values and intervals.

    `clusters` maps case ids to the key of their cluster; a case without one stands alone. Without
    a baseline only the candidate's mean and the counts are set.

    Raises:
        EvidenceError: a case was scored by different checks in the two arms.
        HarnessError: the metric was recorded with differing ranges, units or directions.

    """
    return _compared(baseline, candidate, clusters, _Means(alpha))


def corpus_comparison(
    baseline: Series | None, candidate: Series, clusters: Mapping[str, str], alpha: float
) -> Comparison:
    """Compare macro-F1 of two series whose scores carry `labels`; arguments as for `compare`.

    p by swapping the arms cluster by cluster; interval by the jackknife over clusters with
    Student's t. Losses and wins count the cases that went wrong or right (`value` 0 or 1).

    Raises:
        EvidenceError: a case was scored by different checks in the two arms.
        HarnessError: the metric was recorded without labels, or as for `compare`.

    """
    return _compared(baseline, candidate, clusters, _MacroF1(alpha))


def incomplete(comparison: Comparison) -> int:
    """Return how many pairs lack a value in one arm or in both."""
    return comparison.missing + comparison.unscored


def too_much_missing(comparison: Comparison) -> bool:
    """Say whether more than 2 % of the pairs are incomplete."""
    pairs = comparison.n + incomplete(comparison)
    return incomplete(comparison) > _MISSING_LIMIT * pairs


@dataclass(frozen=True, slots=True)
class _Pair:
    """One case in both arms; None where an arm has no value."""

    before: Score | None
    after: Score | None
    group: Hashable


@dataclass(frozen=True, slots=True)
class _Whole:
    """One case that has a value in both arms."""

    before: Score
    after: Score
    group: Hashable


class _Method(Protocol):
    """How a metric is made of its cases' scores."""

    def mean(self, scores: Sequence[Score]) -> float: ...

    def difference(self, frame: Comparison, pairs: Sequence[_Whole]) -> Comparison:
        """Return `frame` with means, difference, p values, standard error and intervals."""

    def blanks(self, pairs: Sequence[_Pair], frame: Comparison) -> _Blanks: ...


class _Blanks(Protocol):
    """What stands in for a value that is missing in `pair`."""

    def __call__(self, pair: _Pair, *, good: bool) -> Score: ...


def _compared(
    baseline: Series | None, candidate: Series, clusters: Mapping[str, str], method: _Method
) -> Comparison:
    # A series alone is paired with itself: then a pair is complete where its one score is.
    before = (baseline or candidate).scores
    ids = sorted(before.keys() | candidate.scores.keys())
    pairs = [_pair(case, before, candidate.scores, clusters) for case in ids]
    whole = [_Whole(p.before, p.after, p.group) for p in pairs if p.before and p.after]
    both = len(before.keys() & candidate.scores.keys())
    frame = replace(
        _frame(baseline, candidate), missing=len(ids) - both, unscored=both - len(whole)
    )
    comparison = replace(
        _summed_up(frame, whole, method),
        absent=(sum(not pair.before for pair in pairs), sum(not pair.after for pair in pairs)),
    )
    if not whole or len(whole) == len(pairs) or too_much_missing(comparison):
        return comparison
    blank = method.blanks(pairs, frame)
    full = replace(frame, missing=0, unscored=0)
    worlds = [
        [
            _Whole(p.before or blank(p, good=lost), p.after or blank(p, good=not lost), p.group)
            for p in pairs
        ]
        for lost in (True, False)
    ]
    extremes = tuple(_summed_up(full, world, method) for world in worlds)
    return replace(comparison, extremes=extremes)


def _pair(
    case: str,
    before: Mapping[str, Score],
    after: Mapping[str, Score],
    clusters: Mapping[str, str],
) -> _Pair:
    group = ("cluster", clusters[case]) if case in clusters else ("case", case)
    pair = _Pair(_scored(before.get(case)), _scored(after.get(case)), group)
    if pair.before and pair.after and pair.before.check != pair.after.check:
        raise EvidenceError(
            f"{pair.after.metric}: case {case!r} was scored by different checks in the two arms, "
            "so they cannot be compared; run both arms again with today's checks"
        )
    return pair


def _scored(score: Score | None) -> Score | None:
    return score if score is not None and score.value is not None else None


def _frame(baseline: Series | None, candidate: Series) -> Comparison:
    """The comparison with nothing yet but what the metric is."""
    scores = [*candidate.scores.values(), *(baseline.scores.values() if baseline else ())]
    scored = [score for score in scores if score.value is not None]
    meanings = {(s.higher_is_better, s.low, s.high, s.unit, s.diagnostic) for s in scored}
    if len(meanings) > 1:
        raise HarnessError(
            f"{candidate.metric} is recorded with differing ranges, units or directions; "
            "give every case the same, or the metrics different names"
        )
    meaning = meanings.pop() if meanings else (True, 0.0, 1.0, "", False)
    higher_is_better, low, high, unit, diagnostic = meaning
    return Comparison(
        metric=candidate.metric,
        candidate=candidate.model,
        baseline=baseline.model if baseline else None,
        n=0,
        missing=0,
        unscored=0,
        diagnostic=diagnostic,
        higher_is_better=higher_is_better,
        low=low,
        high=high,
        unit=unit,
    )


def _summed_up(frame: Comparison, pairs: Sequence[_Whole], method: _Method) -> Comparison:
    if not pairs:
        return frame
    groups = len({pair.group for pair in pairs})
    mean = method.mean([pair.after for pair in pairs])
    counted = replace(frame, n=len(pairs), clusters=groups, candidate_mean=mean)
    return method.difference(counted, pairs) if frame.baseline is not None else counted


def _value(score: Score) -> float:
    assert score.value is not None
    return score.value


def _differences(frame: Comparison, pairs: Iterable[_Whole]) -> list[float]:
    """Candidate minus baseline per pair, more is better; rounding noise is no difference."""
    sign = 1 if frame.higher_is_better else -1
    values = ((_value(pair.before), _value(pair.after)) for pair in pairs)
    return [0.0 if math.isclose(old, new) else sign * (new - old) for old, new in values]


def _with_counts(frame: Comparison, differences: Sequence[float]) -> Comparison:
    losses, wins = sum(d < 0 for d in differences), sum(d > 0 for d in differences)
    ties = len(differences) - losses - wins
    return replace(frame, losses=losses, wins=wins, ties=ties)


@dataclass(frozen=True, slots=True)
class _Means:
    """Metrics that are the mean of their cases' values."""

    alpha: float

    def mean(self, scores: Sequence[Score]) -> float:
        return math.fsum(map(_value, scores)) / len(scores)

    def difference(self, frame: Comparison, pairs: Sequence[_Whole]) -> Comparison:
        differences = _differences(frame, pairs)
        groups = [pair.group for pair in pairs]
        worse, better = stats.sign_flip(stats.cluster_sums(differences, groups))
        counted = _with_counts(frame, differences)
        binary = frame.clusters == frame.n and _all_binary(pairs)
        summed = replace(
            counted,
            baseline_mean=self.mean([pair.before for pair in pairs]),
            difference=math.fsum(differences) / len(differences),
            p=worse,
            p_better=better,
            p_exact=stats.mcnemar_exact(counted.losses, counted.wins) if binary else None,
            se=stats.cluster_se(differences, groups),
            binary=binary,
        )
        return _with_intervals(summed, self.alpha)

    def blanks(self, pairs: Sequence[_Pair], frame: Comparison) -> _Blanks:
        """The end of the metric's range, or where that is open, of the values seen."""
        known = _known(pairs)
        values = [_value(score) for score in known]
        low = min(values) if frame.low is None else frame.low
        high = max(values) if frame.high is None else frame.high

        def blank(pair: _Pair, *, good: bool) -> Score:
            return replace(known[0], value=high if good == frame.higher_is_better else low)

        return blank


def _all_binary(pairs: Iterable[_Whole]) -> bool:
    return all(score.value in (0, 1) for pair in pairs for score in (pair.before, pair.after))


def _known(pairs: Iterable[_Pair]) -> list[Score]:
    return [score for pair in pairs for score in (pair.before, pair.after) if score]


@dataclass(frozen=True, slots=True)
class _MacroF1:
    """Macro-F1: a metric of the whole series."""

    alpha: float

    def mean(self, scores: Sequence[Score]) -> float:
        return stats.macro_f1(map(_labels, scores))

    def difference(self, frame: Comparison, pairs: Sequence[_Whole]) -> Comparison:
        before, after = [pair.before for pair in pairs], [pair.after for pair in pairs]
        paired = stats.paired_labels(
            [_labels(score) for score in before],
            [_labels(score) for score in after],
            [pair.group for pair in pairs],
        )
        worse, better = paired.swap_test()
        summed = replace(
            _with_counts(frame, _differences(frame, pairs)),
            baseline_mean=self.mean(before),
            difference=paired.difference,
            p=worse,
            p_better=better,
            se=paired.jackknife_se(),
        )
        return _with_intervals(summed, self.alpha)

    def blanks(self, pairs: Sequence[_Pair], frame: Comparison) -> _Blanks:
        """The right label, or an invalid one.

        A case that neither arm labelled counts as one of the rarest label, which weighs most.
        """
        known = _known(pairs)
        counts = Counter(_labels(score)[0] for score in known)
        rarest = min(counts, key=lambda label: (counts[label], label))

        def blank(pair: _Pair, *, good: bool) -> Score:
            seen = pair.before or pair.after
            expected = _labels(seen)[0] if seen else rarest
            labels = (expected, expected if good else INVALID_LABEL)
            return replace(known[0], value=float(good), labels=labels)

        return blank


def _labels(score: Score) -> stats.LabelPair:
    if score.labels is None:
        raise HarnessError(
            f"{score.metric}: macro-F1 needs scores with labels; record it with `score.label`"
        )
    expected, predicted = score.labels
    return expected, None if predicted == INVALID_LABEL else predicted


def _with_intervals(comparison: Comparison, alpha: float) -> Comparison:
    """Set the two-sided interval and the one-sided lower bound, both at 1 - `alpha`."""
    interval = _interval(comparison, 1 - alpha)
    bound = _interval(comparison, 1 - 2 * alpha)
    return replace(comparison, interval=interval, lower=bound[0] if bound else None)


def _interval(comparison: Comparison, level: float) -> tuple[float, float] | None:
    if comparison.binary:
        return stats.tango_interval(comparison.n, comparison.losses, comparison.wins, level)
    if comparison.se is None or comparison.difference is None:
        return None
    span = value_span(comparison)
    if span is not None and comparison.se <= _NOISE * span:
        # A t interval of no width would claim that no case can ever differ from these.
        low, high = stats.tango_interval(comparison.clusters, 0, 0, level)
        return comparison.difference + span * low, comparison.difference + span * high
    return stats.t_interval(comparison.difference, comparison.se, comparison.clusters, level)


def value_span(comparison: Comparison) -> float | None:
    """Return the width of the metric's range; None where it is open."""
    if comparison.low is None or comparison.high is None:
        return None
    return comparison.high - comparison.low
