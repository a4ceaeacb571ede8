"""Two series of scores -> one paired comparison."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, TypedDict

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


_Trials = tuple[Score, ...]


class _Pairs(NamedTuple):
    """Cases in both arms, column by column: the scores of all trials, empty where one lacks."""

    before: Sequence[_Trials]
    after: Sequence[_Trials]
    groups: Sequence[Hashable]

    def complete(self) -> _Pairs:
        if all(self.before) and all(self.after):
            return self
        kept = [pair for pair in zip(*self, strict=True) if pair[0] and pair[1]]
        return _Pairs(*zip(*kept, strict=True)) if kept else _Pairs((), (), ())

    def scores(self) -> Iterator[Score]:
        return itertools.chain.from_iterable(itertools.chain(self.before, self.after))


class _Method(Protocol):
    """How a metric is made of its cases' scores; all that it is given are complete."""

    def mean(self, cases: Sequence[_Trials]) -> float: ...

    def difference(self, frame: Comparison, pairs: _Pairs) -> Comparison:
        """Return `frame` with means, difference, p values, standard error and intervals."""

    def blanks(self, pairs: _Pairs, frame: Comparison) -> _Blanks: ...


class _Blanks(Protocol):
    """What stands in for one trial of an incomplete case; `seen` is what the other arm has."""

    def __call__(self, seen: _Trials, *, good: bool) -> Score: ...


def _compared(
    baseline: Series | None, candidate: Series, clusters: Mapping[str, str], method: _Method
) -> Comparison:
    # A series alone is paired with itself: then a pair is complete where its scores are.
    before = baseline or candidate
    frame = _frame(baseline, candidate)
    ids = sorted(before.scores.keys() | candidate.scores.keys())
    pairs = _Pairs(
        _complete(before, ids, frame.trials),
        _complete(candidate, ids, frame.trials),
        [("cluster", clusters[id_]) if id_ in clusters else id_ for id_ in ids],
    )
    _refuse_other_checks(candidate.metric, ids, pairs)
    whole = pairs.complete()
    both = len(before.scores.keys() & candidate.scores.keys())
    counted = replace(
        frame,
        missing=len(ids) - both,
        unscored=both - len(whole.groups),
        absent=(sum(not case for case in pairs.before), sum(not case for case in pairs.after)),
    )
    comparison = _summed_up(counted, whole, method)
    if not comparison.n or whole is pairs or too_much_missing(comparison):
        return comparison
    return replace(comparison, extremes=_extremes(frame, pairs, method))


def _complete(series: Series, ids: Iterable[str], trials: int) -> list[_Trials]:
    """The scores of each case, empty where a trial is missing or has no value."""
    cases = [series.scores.get(id_, ()) for id_ in ids]
    return [
        case if len(case) == trials and None not in [score.value for score in case] else ()
        for case in cases
    ]


def _extremes(frame: Comparison, pairs: _Pairs, method: _Method) -> tuple[Comparison, Comparison]:
    """The comparison with incomplete arms filled whole, to the candidate's loss and to its win."""
    blank = method.blanks(pairs, frame)

    def filled(cases: Sequence[_Trials], others: Sequence[_Trials], good: bool) -> list[_Trials]:
        return [
            case or (blank(other, good=good),) * frame.trials
            for case, other in zip(cases, others, strict=True)
        ]

    def world(*, lost: bool) -> Comparison:
        before = filled(pairs.before, pairs.after, lost)
        after = filled(pairs.after, pairs.before, not lost)
        return _summed_up(frame, _Pairs(before, after, pairs.groups), method)

    return world(lost=True), world(lost=False)


def _refuse_other_checks(metric: str, ids: Sequence[str], pairs: _Pairs) -> None:
    if len({score.check for score in pairs.scores()}) < 2:
        return
    for case, before, after in zip(ids, pairs.before, pairs.after, strict=True):
        if before and after and len({score.check for score in before + after}) > 1:
            raise EvidenceError(
                f"{metric}: case {case!r} was scored by different checks in the two arms, "
                "so they cannot be compared; run both arms again with today's checks"
            )


def _frame(baseline: Series | None, candidate: Series) -> Comparison:
    """The comparison with nothing yet but what the metric is and how often it was tried."""
    cases = [*candidate.scores.values(), *(baseline.scores.values() if baseline else ())]
    meanings = {
        (score.higher_is_better, score.low, score.high, score.unit, score.diagnostic)
        for trials in cases
        for score in trials
        if score.value is not None
    }
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
        trials=max(map(len, cases), default=1),
        diagnostic=diagnostic,
        higher_is_better=higher_is_better,
        low=low,
        high=high,
        unit=unit,
    )


def _summed_up(frame: Comparison, pairs: _Pairs, method: _Method) -> Comparison:
    if not pairs.groups:
        return frame
    counted = replace(
        frame,
        n=len(pairs.groups),
        clusters=len(set(pairs.groups)),
        candidate_mean=method.mean(pairs.after),
    )
    return method.difference(counted, pairs) if frame.baseline is not None else counted


def _values(cases: Sequence[_Trials]) -> list[float]:
    """All trials of the first case, then of the next."""
    return [score.value for trials in cases for score in trials if score.value is not None]


def _rows(values: Sequence[float], trials: int) -> list[Sequence[float]]:
    return [values[start : start + trials] for start in range(0, len(values), trials)]


def _case_means(values: list[float], trials: int) -> list[float]:
    """Trials are averaged before anything else: more of them are no more cases."""
    return values if trials == 1 else [_mean(row) for row in _rows(values, trials)]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _differences(frame: Comparison, before: Iterable[float], after: Iterable[float]) -> list[float]:
    """Candidate minus baseline per case, more is better; rounding noise is no difference."""
    sign = 1 if frame.higher_is_better else -1
    return [
        0.0 if old == new or math.isclose(old, new) else sign * (new - old)
        for old, new in zip(before, after, strict=True)
    ]


class _Counts(TypedDict):
    losses: int
    wins: int
    ties: int
    contract_losses: int


def _counts(frame: Comparison, differences: Sequence[float], pairs: _Pairs) -> _Counts:
    moved = [difference for difference in differences if difference]
    losses = sum(difference < 0 for difference in moved)
    return {
        "losses": losses,
        "wins": len(moved) - losses,
        "ties": len(differences) - len(moved),
        "contract_losses": _broken(frame, pairs) if _all_yes_or_no(pairs) else losses,
    }


def _all_yes_or_no(pairs: _Pairs) -> bool:
    return all(score.value in (0, 1) for score in pairs.scores())


def _broken(frame: Comparison, pairs: _Pairs) -> int:
    """How many cases the baseline passes by the majority of its trials and the candidate fails."""

    def passes(trials: _Trials) -> bool:
        passed = [
            (score.value == 1) == frame.higher_is_better if score.passed is None else score.passed
            for score in trials
        ]
        return 2 * sum(passed) > len(trials)

    both = zip(pairs.before, pairs.after, strict=True)
    return sum(passes(before) and not passes(after) for before, after in both)


@dataclass(frozen=True, slots=True)
class _Means:
    """Metrics that are the mean of their cases' values."""

    alpha: float

    def mean(self, cases: Sequence[_Trials]) -> float:
        return _mean(_case_means(_values(cases), len(cases[0])))

    def difference(self, frame: Comparison, pairs: _Pairs) -> Comparison:
        values = _values(pairs.before), _values(pairs.after)
        before, after = (_case_means(arm, frame.trials) for arm in values)
        differences = _differences(frame, before, after)
        groups = _groups(frame, pairs)
        sums = stats.cluster_sums(differences, groups)
        worse, better = stats.sign_flip(sums)
        alone = frame.trials == 1 and frame.clusters == frame.n
        summed = replace(
            frame,
            **_counts(frame, differences, pairs),
            baseline_mean=_mean(before),
            difference=_mean(differences),
            p=worse,
            p_better=better,
            se=stats.cluster_se(differences, groups),
            binary=alone and {*before, *after} <= {0, 1} and (frame.low or 0) <= 0,
            noise_share=_noise_share(frame, *values),
            skew=_skew(sums, groups),
            deviation=math.sqrt(stats.variance(differences)) if frame.n > 1 else None,
            design_effect=stats.design_effect(differences, groups),
        )
        return _with_intervals(summed, self.alpha)

    def blanks(self, pairs: _Pairs, frame: Comparison) -> _Blanks:
        """The end of the metric's range, or where that is open, of the values seen."""
        known = list(pairs.scores())
        values = [score.value for score in known if score.value is not None]
        low = min(values) if frame.low is None else frame.low
        high = max(values) if frame.high is None else frame.high

        def blank(seen: _Trials, *, good: bool) -> Score:
            passed = None if known[0].passed is None else good
            value = high if good == frame.higher_is_better else low
            return replace(known[0], value=value, passed=passed)

        return blank


def _groups(frame: Comparison, pairs: _Pairs) -> Sequence[Hashable]:
    return range(frame.n) if frame.clusters == frame.n else pairs.groups


def _noise_share(
    frame: Comparison, before: Sequence[float], after: Sequence[float]
) -> float | None:
    if frame.trials == 1:
        return None
    return stats.noise_share(_rows(before, frame.trials), _rows(after, frame.trials))


def _skew(sums: Sequence[float], groups: Sequence[Hashable]) -> float | None:
    """How skewed the evidence is, with zeros and without, whichever is less.

    Zeros alone make few differences look skewed; a plain drop on a few of many cases looks so
    without them. Large clusters have large sums either way, so sums are taken over root sizes.
    """
    sizes = stats.cluster_sums([1.0] * len(groups), groups)
    scaled = [value / math.sqrt(size) for value, size in zip(sums, sizes, strict=True)]
    moved = [value for value in scaled if value]
    lengths = list(map(abs, moved))
    if not lengths or math.isclose(min(lengths), max(lengths)):
        return None
    found = stats.skewness(scaled), stats.skewness(moved)
    return min((skew for skew in found if skew is not None), default=None)


@dataclass(frozen=True, slots=True)
class _MacroF1:
    """Macro-F1: a metric of the whole series; every trial of a case adds its pair of labels."""

    alpha: float

    def mean(self, cases: Sequence[_Trials]) -> float:
        return stats.macro_f1(_labels(score) for trials in cases for score in trials)

    def difference(self, frame: Comparison, pairs: _Pairs) -> Comparison:
        groups = _groups(frame, pairs)
        paired = stats.paired_labels(
            [_labels(score) for trials in pairs.before for score in trials],
            [_labels(score) for trials in pairs.after for score in trials],
            [group for group in groups for _ in range(frame.trials)],
        )
        worse, better = paired.swap_test()
        before = _case_means(_values(pairs.before), frame.trials)
        after = _case_means(_values(pairs.after), frame.trials)
        differences = _differences(frame, before, after)
        se = paired.jackknife_se()
        summed = replace(
            frame,
            **_counts(frame, differences, pairs),
            baseline_mean=self.mean(pairs.before),
            difference=paired.difference,
            p=worse,
            p_better=better,
            se=se,
            deviation=None if se is None else se * math.sqrt(frame.n),
        )
        return _with_intervals(summed, self.alpha)

    def blanks(self, pairs: _Pairs, frame: Comparison) -> _Blanks:
        """The right label, or an invalid one.

        A case that neither arm labelled counts as one of the rarest label, which weighs most.
        """
        known = list(pairs.scores())
        counts = Counter(_labels(score)[0] for score in known)
        rarest = min(counts, key=lambda label: (counts[label], label))

        def blank(seen: _Trials, *, good: bool) -> Score:
            expected = _labels(seen[0])[0] if seen else rarest
            labels = (expected, expected if good else INVALID_LABEL)
            return replace(known[0], value=float(good), passed=good, labels=labels)

        return blank


def _labels(score: Score) -> stats.LabelPair:
    if score.labels is None:
        raise HarnessError(
            f"{score.metric}: macro-F1 needs scores with labels; record it with `score.label`"
        )
    expected, predicted = score.labels
    return expected, None if predicted == INVALID_LABEL else predicted


def _with_intervals(comparison: Comparison, alpha: float) -> Comparison:
    """Set the two-sided interval and the one-sided lower bound, both at 1 - `alpha`.

    Single yes-or-no answers get their closed forms too.
    """
    bound = _interval(comparison, 1 - 2 * alpha)
    losses, wins = comparison.losses, comparison.wins
    return replace(
        comparison,
        interval=_interval(comparison, 1 - alpha),
        lower=bound[0] if bound else None,
        p_exact=stats.mcnemar_exact(losses, wins) if comparison.binary else None,
        e_value=stats.e_value(losses, wins) if comparison.binary else None,
    )


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
