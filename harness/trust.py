"""How far judges can be trusted: their answers -> figures with intervals, and warnings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from harness import agreement, stats
from harness.checks import judge as checks
from harness.checks.judge import Opinion
from harness.judges import Judges
from harness.records import JudgeFigure, Question, Score

LEVEL = 0.95
CONSISTENT, LEANING, FLIPPING, UNSURE = 0.75, 0.1, 0.1, 0.05
BIASED, LONGER = 0.3, 0.8
GOOD_DATA = 4.0

_CaseKey = tuple[str, str, str, int]
_Metric = tuple[str, str]


@dataclass(frozen=True)
class Answer:
    """What judges said of one result: `opinions` maps each to one, or to two on both orders.

    `length` is that of the reply in characters, `key` the result's suite, case, test and trial.
    Without `opinions` the `score` was known without asking, or there is none.
    """

    place: int
    question: Question
    score: Score
    key: _CaseKey
    arm: str
    length: int
    opinions: Mapping[str, Sequence[Opinion]]

    @property
    def scored(self) -> tuple[int, Score]:
        """The score, and whose it is."""
        return self.place, self.score


def figures(answers: Sequence[Answer], baseline: str) -> Iterator[JudgeFigure]:
    """Yield what the `answers` of a run say about the judges of each metric and candidate."""
    grouped: dict[str, dict[str, list[Answer]]] = {}
    for one in answers:
        grouped.setdefault(one.question.metric, {}).setdefault(one.arm, []).append(one)
    for metric, by_arm in sorted(grouped.items()):
        everything = [one for found in by_arm.values() for one in found]
        yield from _unsure(metric, everything)
        yield from _agreement(metric, everything)
        before = {one.key: one for one in by_arm.get(baseline, ())}
        for arm, found in by_arm.items():
            if arm != baseline:
                yield from _orders((metric, arm), found)
                yield from _length((metric, arm), _pairs(before, found))
                yield from _data((metric, arm), found)


def flips(judges: Judges) -> Iterator[JudgeFigure]:
    """Yield how often each judge changed its mind on what it was asked twice."""
    for judge in judges.panel:
        twice = judges.twice(judge)
        changed = sum(one.value != again.value for one, again in twice)
        if twice:
            low, high = stats.wilson_interval(changed, len(twice), LEVEL)
            warning = (
                f"judge {judge} answered {changed} of {len(twice)} equal questions differently "
                "when it was asked again: take several judges, or a coarser rubric"
            )
            share = changed / len(twice)
            yield JudgeFigure(
                "flip rate",
                None,
                None,
                judge,
                share,
                (low, high),
                len(twice),
                warning if low > FLIPPING else "",
            )


def _unsure(metric: str, answers: Sequence[Answer]) -> Iterator[JudgeFigure]:
    """The share of replies that have no score."""
    lacking = [one.score.unscored for one in answers if one.score.unscored]
    if lacking:
        share = len(lacking) / len(answers)
        interval = stats.wilson_interval(len(lacking), len(answers), LEVEL)
        warning = f"{metric}: {len(lacking)} of {len(answers)} replies are unscored: {lacking[0]}"
        yield JudgeFigure(
            "unscored",
            metric,
            None,
            None,
            share,
            interval,
            len(answers),
            warning if share > UNSURE else "",
        )


def _agreement(metric: str, answers: Sequence[Answer]) -> Iterator[JudgeFigure]:
    """Krippendorff's alpha of the judges over all replies that they judged."""
    units = [
        [checks.settled(one.question, found).value for found in one.opinions.values()]
        for one in answers
        if len(one.opinions) > 1
    ]
    if units:
        found = agreement.alpha(units, "ordinal", LEVEL)
        yield JudgeFigure("agreement", metric, None, None, found.value, found.interval, found.n)


def _orders(of: _Metric, answers: Sequence[Answer]) -> Iterator[JudgeFigure]:
    """How each judge is swayed by which reply comes first."""
    by_judge: dict[str, list[Sequence[Opinion]]] = {}
    for one in answers:
        for judge, found in one.opinions.items():
            if len(found) == 2:
                by_judge.setdefault(judge, []).append(found)
    for judge, pairs in by_judge.items():
        yield _consistency(of, judge, pairs)
        yield _position(of, judge, pairs)


def _consistency(of: _Metric, judge: str, pairs: Sequence[Sequence[Opinion]]) -> JudgeFigure:
    n, same = len(pairs), sum(one.value == -other.value for one, other in pairs)
    interval = stats.wilson_interval(same, n, LEVEL)
    warning = (
        f"{of[0]} under {of[1]}: judge {judge} says the same of both orders of a pair in only "
        f"{same} of {n} ({same / n:.0%}); the others count as ties"
    )
    bad = interval[1] < CONSISTENT
    return JudgeFigure("consistency", *of, judge, same / n, interval, n, warning if bad else "")


def _position(of: _Metric, judge: str, pairs: Sequence[Sequence[Opinion]]) -> JudgeFigure:
    """Over all pairs: +1 where the first reply wins in both orders, -1 where the second does."""
    n = len(pairs)
    first = sum(one.value == other.value == -1 for one, other in pairs)
    second = sum(one.value == other.value == 1 for one, other in pairs)
    interval = stats.tango_interval(n, second, first, LEVEL)
    side = "first" if first > second else "second"
    warning = (
        f"{of[0]} under {of[1]}: judge {judge} prefers the {side} answer, whichever it is, in "
        f"{max(first, second)} of {n} pairs"
    )
    bad = interval[0] > LEANING or interval[1] < -LEANING
    value = (first - second) / n
    return JudgeFigure(
        "position preference", *of, judge, value, interval, n, warning if bad else ""
    )


# ---------------------------------------------------------------------- length

_Pair = tuple[float, float]
"""(difference of lengths in characters, difference of scores), candidate minus baseline"""


def _pairs(before: Mapping[_CaseKey, Answer], after: Iterable[Answer]) -> list[_Pair]:
    return [
        (float(one.length - old.length), one.score.value - old.score.value)
        for one in after
        if (old := before.get(one.key)) is not None
        and one.score.value is not None
        and old.score.value is not None
    ]


def _length(of: _Metric, pairs: Sequence[_Pair]) -> Iterator[JudgeFigure]:
    """Whether longer replies score higher, and what is left of the difference at equal lengths."""
    lengths, scores = [length for length, _ in pairs], [score for _, score in pairs]
    if len(pairs) < 4 or not any(scores):
        return
    r, n = stats.correlation(lengths, scores), len(pairs)
    interval = None if r is None else stats.correlation_interval(r, n, LEVEL)
    warning = _length_warning(of, pairs, r, interval)
    yield JudgeFigure("length correlation", *of, None, r, interval, n, warning)
    raw = agreement.bias([0.0] * n, scores, LEVEL)
    yield JudgeFigure("raw difference", *of, None, raw.value, raw.interval, n)
    if adjusted := stats.intercept(lengths, scores, LEVEL):
        yield JudgeFigure("length-adjusted difference", *of, None, *adjusted, n)


def _length_warning(
    of: _Metric, pairs: Sequence[_Pair], r: float | None, interval: _Pair | None
) -> str:
    longer = sum(length * score > 0 for length, score in pairs)
    decided = sum(bool(length * score) for length, score in pairs)
    if r is not None and interval and interval[0] > 0 and r > BIASED:
        told = f"the longer a reply, the higher its score (correlation {r:.2f})"
    elif decided and stats.wilson_interval(longer, decided, LEVEL)[0] > LONGER:
        told = f"the longer reply scores higher in {longer} of {decided} pairs that differ"
    else:
        return ""
    return f"{of[0]} under {of[1]}: {told}: read the length-adjusted difference beside the raw one"


# ---------------------------------------------------------------------- the data


def _data(of: _Metric, answers: Sequence[Answer]) -> Iterator[JudgeFigure]:
    """Mean correctness under 4 says that the data has a problem."""
    scores = [one.score.value for one in answers if one.score.value is not None]
    question = answers[0].question
    if question.kind != "rubric" or question.criterion != "correctness" or not scores:
        return
    mean, n = fmean(scores), len(scores)
    found = agreement.bias([0.0] * n, scores, LEVEL)
    warning = (
        f"{of[0]} of {of[1]} is {mean:.2f} of 5 on average; under {GOOD_DATA:g} the data has a "
        "problem: read the replies with the lowest scores, then the training rows like them"
    )
    yield JudgeFigure(
        "mean", *of, None, mean, found.interval, n, warning if mean < GOOD_DATA else ""
    )
