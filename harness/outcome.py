"""What became of each case: its statuses, its record in the run, the confusion of labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from statistics import fmean

from harness.evaluation import ItemResult
from harness.evidence import Scores, assertion_metric
from harness.records import CaseResult, LabelTable, Score, Status, with_calls


def status_of(baseline: Score, candidate: Score) -> Status | None:
    """Return what became of a case; None where a score is missing or only a diagnostic."""
    if baseline.value is None or candidate.value is None or candidate.diagnostic:
        return None
    change = candidate.value - baseline.value
    if not candidate.higher_is_better:
        change = -change
    if change:
        return Status.IMPROVED if change > 0 else Status.REGRESSED
    solved = candidate.passed if candidate.passed is not None else candidate.value == candidate.high
    return Status.HELD if solved else Status.UNSOLVED


def overall(statuses: Iterable[Status | None]) -> Status | None:
    """Return the one status of an item: the worst of its metrics, an improvement before held."""
    found = set(statuses)
    for status in (Status.REGRESSED, Status.IMPROVED, Status.UNSOLVED, Status.HELD):
        if status in found:
            return status
    return None


def over_trials(trials: Sequence[Score]) -> Score:
    """Return the one score of a case: the mean of its trials, passed where most of them did.

    Unscored where a trial is. The explanation is that of the first trial that did not pass.
    """
    first = next((score for score in trials if score.value is None), trials[0])
    values = [score.value for score in trials if score.value is not None]
    if len(trials) == 1 or len(values) < len(trials):
        return first
    worst = next((score for score in trials if not score.passed), first)
    votes = [score.passed for score in trials if score.passed is not None]
    return replace(
        first,
        value=fmean(values),
        passed=2 * sum(votes) > len(votes) if votes else None,
        explanation=worst.explanation,
    )


def case_results(
    results: Sequence[ItemResult], scores: Scores, baseline: str
) -> tuple[CaseResult, ...]:
    """Return the results case by case, sorted by suite, case id and test.

    Of several trials the scores are means, and the reply is the first.
    """

    def key(result: ItemResult) -> tuple[str, str, str]:
        return (result.suite, result.id, result.test)

    metrics = _metrics_by_test(results, scores)
    ordered = sorted(results, key=lambda result: (*key(result), result.trial))
    return tuple(
        _case_result(list(group), scores, metrics, baseline)
        for _, group in groupby(ordered, key=key)
    )


def _metrics_by_test(
    results: Sequence[ItemResult], scores: Scores
) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for result in results:
        found[result.suite, result.test].update(score.metric for score in result.scores)
        if (metric := assertion_metric(result)) in scores:
            found[result.suite, result.test].add(metric)
    return {test: sorted(metrics) for test, metrics in found.items()}


def _case_result(
    group: Sequence[ItemResult],
    scores: Scores,
    metrics: Mapping[tuple[str, str], Sequence[str]],
    baseline: str,
) -> CaseResult:
    first = group[0]
    mine = metrics.get((first.suite, first.test), ())
    by_arm = {
        result.arm: {
            metric: over_trials(trials)
            for metric in mine
            if (trials := scores[metric].get(result.arm, {}).get(first.id))
        }
        for result in group
    }
    before = by_arm.get(baseline, {})
    return CaseResult(
        suite=first.suite,
        id=first.id,
        test=first.test,
        prompt=first.prompt,
        expected=first.expected,
        tags=first.tags,
        scores={arm: {m: s.value for m, s in found.items()} for arm, found in by_arm.items()},
        explanations={
            arm: {m: text for m, s in found.items() if (text := s.unscored or s.explanation)}
            for arm, found in by_arm.items()
        },
        replies={
            result.arm: with_calls(result.reply.text, result.reply.tool_calls)
            for result in reversed(group)
            if not result.error
        },
        status={
            arm: {
                metric: status
                for metric, score in found.items()
                if metric in before and (status := status_of(before[metric], score))
            }
            for arm, found in by_arm.items()
            if arm != baseline
        },
    )


def label_tables(scores: Scores) -> tuple[LabelTable, ...]:
    """Return the confusion of labels of every classification metric and model."""
    tables = []
    for metric in sorted(scores):
        for model, found in scores[metric].items():
            counts: dict[tuple[str, str], int] = defaultdict(int)
            for score in (score for trials in found.values() for score in trials):
                if score.labels:
                    counts[score.labels] += 1
            if counts:
                tables.append(LabelTable(metric, model, dict(counts)))
    return tuple(tables)
