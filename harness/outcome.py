"""Item results -> series, statuses, comparisons and the record of the whole run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from harness import gate
from harness.comparing import compare, corpus_comparison
from harness.evaluation import ItemResult
from harness.records import (
    CaseResult,
    Comparison,
    LabelTable,
    Rule,
    Score,
    Series,
    Status,
)

Scores = Mapping[str, Mapping[str, Mapping[str, Score]]]
"""metric -> model -> case id -> score"""


def collect_scores(results: Sequence[ItemResult]) -> Scores:
    """Return all scores of `results`, with the metrics of plain assertions."""
    asserting = _asserting(results)
    scores: dict[str, dict[str, dict[str, Score]]] = defaultdict(lambda: defaultdict(dict))
    # In one order whatever order they came in: a metric that two tests record is a mistake, and
    # until it is told both arms must be scored by the same of the two.
    for result in sorted(results, key=lambda each: (each.suite, each.test, each.id, each.arm)):
        for score in _scores_of(result, asserting):
            scores[score.metric][result.arm][result.id] = score
    return scores


def _asserting(results: Sequence[ItemResult]) -> set[tuple[str, str]]:
    """The tests whose own assertions are a metric: without checks, or failed at least once."""
    return {
        (result.suite, result.test)
        for result in results
        if result.plain or result.asserted is False
    }


def _scores_of(result: ItemResult, asserting: set[tuple[str, str]]) -> Iterable[Score]:
    yield from result.scores
    if result.asserted is not None and (result.suite, result.test) in asserting:
        yield Score(
            metric=assertion_metric(result),
            value=float(result.asserted),
            passed=result.asserted,
            explanation=result.explanation,
        )


def recorded_twice(results: Sequence[ItemResult]) -> dict[str, list[str]]:
    """Return the metrics that a case has twice under one model, with the tests they come from."""
    asserting = _asserting(results)
    tests: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for result in results:
        for score in _scores_of(result, asserting):
            tests[score.metric, result.arm, result.id].append(result.test)
    return {
        metric: list(dict.fromkeys(names))
        for (metric, _, _), names in tests.items()
        if len(names) > 1
    }


def assertion_metric(result: ItemResult) -> str:
    """The metric of a test function's own assertions: its name without `test_`."""
    return f"{result.suite}.{result.test.removeprefix('test_')}"


def rules_with_guards(rules: Mapping[str, Rule], results: Sequence[ItemResult]) -> dict[str, Rule]:
    """Return `rules` and a contract for every metric of a guard that has no rule."""
    asserting = _asserting(results)
    guarded = {
        metric
        for result in results
        if result.guard
        for metric in [
            *(score.metric for score in result.scores if not score.diagnostic),
            *([assertion_metric(result)] if (result.suite, result.test) in asserting else []),
        ]
    }
    contracts = {
        metric: Rule(key=metric, max_regressions=0)
        for metric in sorted(guarded)
        if not gate.find_rule(rules, metric).key
    }
    return {**contracts, **rules}


def comparisons(
    scores: Scores,
    baseline: str | None,
    candidates: Sequence[str],
    clusters: Mapping[tuple[str, str], str],
    alpha: float,
) -> list[Comparison]:
    """Compare every candidate with the baseline on every metric, sorted by metric.

    Without candidates the baseline stands alone and is only summed up. `clusters` maps
    (suite, case id) to the case's origin.
    """
    made = []
    for metric in sorted(scores):
        arms = scores[metric]
        suite = metric.split(".")[0]
        origin = {id_: name for (of, id_), name in clusters.items() if of == suite}
        for candidate in candidates or ([baseline] if baseline else []):
            left = _series(metric, baseline, arms) if candidates and baseline else None
            right = _series(metric, candidate, arms)
            if not right.scores and not (left and left.scores):
                continue
            made.append(compare(left, right, origin, alpha))
            if any(score.labels for score in right.scores.values()):
                whole = macro_f1_metric(metric)
                before = left and replace(left, metric=whole)
                made.append(corpus_comparison(before, replace(right, metric=whole), origin, alpha))
    return made


def macro_f1_metric(metric: str) -> str:
    """The name of macro-F1 beside a metric of labels: `macro_f1` beside `accuracy`."""
    stem = metric.removesuffix("accuracy")
    return f"{stem}macro_f1" if stem[-1] in "._" else f"{stem}_macro_f1"


def macro_f1_name(metric: str) -> str:
    """`intents.accuracy` -> `intents.macro_f1`; other names get `_macro_f1` behind them."""
    if metric.endswith("accuracy"):
        return metric.removesuffix("accuracy") + "macro_f1"
    return f"{metric}_macro_f1"


def _series(metric: str, model: str, arms: Mapping[str, Mapping[str, Score]]) -> Series:
    return Series(metric, model, arms.get(model, {}))


def clusters_of(results: Sequence[ItemResult]) -> dict[tuple[str, str], str]:
    """Return (suite, case id) -> the case's cluster; identical prompts are one cluster."""
    prompts: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for result in results:
        prompts[result.suite, result.prompt, ""].add(result.id)
    repeated = {key for key, ids in prompts.items() if len(ids) > 1}
    found = {}
    for result in results:
        if result.cluster is not None:
            found[result.suite, result.id] = result.cluster
        elif (result.suite, result.prompt, "") in repeated:
            found[result.suite, result.id] = f"prompt {result.digest}"
    return found


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


def case_results(
    results: Sequence[ItemResult], scores: Scores, baseline: str
) -> tuple[CaseResult, ...]:
    """Return the results case by case, sorted by suite, case id and test."""

    def key(result: ItemResult) -> tuple[str, str, str]:
        return (result.suite, result.id, result.test)

    metrics = _metrics_by_test(results, scores)
    return tuple(
        _case_result(list(group), scores, metrics, baseline)
        for _, group in groupby(sorted(results, key=key), key=key)
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
            metric: score
            for metric in mine
            if (score := scores[metric].get(result.arm, {}).get(first.id))
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
        replies={result.arm: result.reply.text for result in group if not result.error},
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
            for score in found.values():
                if score.labels:
                    counts[score.labels] += 1
            if counts:
                tables.append(LabelTable(metric, model, dict(counts)))
    return tuple(tables)
