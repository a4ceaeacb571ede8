"""Item results -> scores by metric, model and case, and their comparisons."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.comparing import compare, corpus_comparison
from harness.evaluation import ItemResult
from harness.records import Comparison, Rule, Score, Series
from harness.rules import tags_of, usage_metrics
from harness.unicode import normalised

ByModel = Mapping[str, Mapping[str, tuple[Score, ...]]]
"""model -> case id -> its scores, one per trial"""

Scores = Mapping[str, ByModel]
"""metric -> model -> case id -> its scores, one per trial"""

CaseKey = tuple[str, str]
"""(suite, case id)"""

_USAGE_UNITS = {"latency_s": "s", "cost_usd": "USD"}


@dataclass(frozen=True)
class Evidence:
    """All scores of a run, and what its cases are.

    `clusters` maps cases to their origin, `tags` to their tags; `guards` are the metrics of tests
    marked as guards.
    """

    scores: Scores
    clusters: Mapping[CaseKey, str]
    tags: Mapping[CaseKey, tuple[str, ...]]
    guards: frozenset[str]


def evidence_of(results: Sequence[ItemResult], rules: Sequence[Rule] = ()) -> Evidence:
    """Return the evidence in `results`, with the usage metrics that `rules` name."""
    ordered = sorted(results, key=lambda each: (each.suite, each.test, each.id, each.arm))
    return Evidence(
        scores=_collected(ordered, rules),
        clusters=_clusters(ordered),
        tags={(result.suite, result.id): result.tags for result in ordered},
        guards=_guarded(ordered),
    )


# ---------------------------------------------------------------------- scores


def _collected(results: Sequence[ItemResult], rules: Sequence[Rule]) -> Scores:
    found: dict[tuple[str, str, str], dict[int, Score]] = defaultdict(dict)
    for result, score in _scored(results):
        # A metric that two tests record is a mistake; until it is told, the last test counts.
        found[score.metric, result.arm, result.id][result.trial] = score
    for result, score in _usage_scores(results, rules):
        found[score.metric, result.arm, result.id].setdefault(result.trial, score)
    scores: dict[str, dict[str, dict[str, tuple[Score, ...]]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for (metric, arm, id_), trials in found.items():
        scores[metric][arm][id_] = tuple(score for _, score in sorted(trials.items()))
    return scores


def _scored(results: Sequence[ItemResult]) -> Iterator[tuple[ItemResult, Score]]:
    asserting = _asserting(results)
    reached = {
        (result.suite, result.test, result.id, score.metric): score
        for result in results
        for score in result.scores
    }
    by_case: dict[tuple[str, str, str], list[Score]] = defaultdict(list)
    for (suite, test, id_, _), score in reached.items():
        by_case[suite, test, id_].append(score)
    for result in results:
        yield from ((result, score) for score in scores_of(result, asserting))
        if result.asserted is False:
            others = by_case[result.suite, result.test, result.id]
            yield from ((result, score) for score in _unreached(result, others))


def scores_of(result: ItemResult, asserting: set[tuple[str, str]]) -> Iterator[Score]:
    """Yield the scores of an item, with that of its assertions where its test is `asserting`."""
    yield from result.scores
    if result.asserted is not None and (result.suite, result.test) in asserting:
        yield Score(
            metric=assertion_metric(result),
            value=float(result.holds),
            passed=result.holds,
            explanation=result.explanation or result.reply.failure,
        )


def _asserting(results: Iterable[ItemResult]) -> set[tuple[str, str]]:
    """The tests whose own assertions are a metric: without checks, or failed at least once."""
    return {
        (result.suite, result.test)
        for result in results
        if result.plain or result.asserted is False
    }


def assertion_metric(result: ItemResult) -> str:
    """The metric of a test function's own assertions: its name without `test_`."""
    return f"{result.suite}.{result.test.removeprefix('test_')}"


def _unreached(result: ItemResult, others: Iterable[Score]) -> Iterator[Score]:
    """The worst scores for the checks that a failed assertion kept from running.

    The reply failed, not the evidence. `others` are the scores of this case in any arm and trial;
    where the range is open there is no worst, and the score stays missing.
    """
    mine = {score.metric for score in result.scores}
    for model in others:
        score = model.worst(f"not reached: {result.explanation}")
        if model.metric not in mine and score.value is not None:
            yield score


def _usage_scores(
    results: Sequence[ItemResult], rules: Sequence[Rule]
) -> Iterator[tuple[ItemResult, Score]]:
    for result in results:
        for name in usage_metrics(rules, result.suite):
            value = getattr(result.reply, name)
            if value is not None:
                yield result, _usage_score(f"{result.suite}.{name}", float(value))


def _usage_score(metric: str, value: float) -> Score:
    unit = _USAGE_UNITS.get(metric.partition(".")[2], "tokens")
    return Score(metric, value, higher_is_better=False, low=0.0, high=None, unit=unit)


def recorded_twice(results: Sequence[ItemResult]) -> dict[str, list[str]]:
    """Return the metrics that a case has twice under one model, with the tests they come from."""
    asserting = _asserting(results)
    tests: dict[tuple[str, str, str, int], list[str]] = defaultdict(list)
    for result in results:
        for score in scores_of(result, asserting):
            tests[score.metric, result.arm, result.id, result.trial].append(result.test)
    return {metric: sorted(set(names)) for (metric, *_), names in tests.items() if len(names) > 1}


# ---------------------------------------------------------------------- cases


def _guarded(results: Sequence[ItemResult]) -> frozenset[str]:
    asserting = _asserting(results)
    return frozenset(
        score.metric
        for result in results
        if result.guard
        for score in scores_of(result, asserting)
        if not score.diagnostic
    )


def _clusters(results: Sequence[ItemResult]) -> dict[CaseKey, str]:
    """Return case -> its cluster; prompts that read the same are one cluster."""
    prompts: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for result in results:
        prompts[_prompt(result)].setdefault(result.id, result.digest)
    found = {}
    for result in results:
        alike = prompts[_prompt(result)]
        if result.cluster is not None:
            found[result.suite, result.id] = result.cluster
        elif len(alike) > 1:
            found[result.suite, result.id] = f"prompt {next(iter(alike.values()))}"
    return found


def _prompt(result: ItemResult) -> tuple[str, str]:
    return result.suite, normalised(result.prompt).strip()


# ---------------------------------------------------------------------- comparisons


def comparisons(
    evidence: Evidence,
    baseline: str,
    candidates: Sequence[str],
    rules: Sequence[Rule],
    alpha: float,
) -> list[Comparison]:
    """Compare every candidate with the baseline on every metric, sorted by metric.

    Once over all cases, and once for each tag that a rule wants. Without candidates the baseline
    stands alone and is only summed up.
    """
    return [
        replace(made, guard=metric in evidence.guards, tag=tag)
        for metric in sorted(evidence.scores)
        for candidate in candidates or [baseline]
        for tag in [None, *_wanted_tags(rules, metric)]
        for made in compared(
            evidence, metric, baseline if candidates else None, candidate, alpha, tag=tag
        )
    ]


def _wanted_tags(rules: Sequence[Rule], metric: str) -> list[str]:
    return sorted({*tags_of(rules, metric), *tags_of(rules, macro_f1_metric(metric))})


def compared(
    evidence: Evidence,
    metric: str,
    baseline: str | None,
    candidate: str,
    alpha: float,
    *,
    tag: str | None = None,
) -> Iterator[Comparison]:
    """Yield the comparison of one metric, and that of macro-F1 where its scores have labels.

    With `tag`, of the cases that bear it; nothing where no model has a score.
    """
    models = cases_with(evidence, metric, tag)
    before = None if baseline is None else series(metric, baseline, models)
    after = series(metric, candidate, models)
    if not after.scores and not (before and before.scores):
        return
    origin = clusters_in(evidence, metric)
    yield compare(before, after, origin, alpha)
    if any(score.labels for trials in after.scores.values() for score in trials):
        whole = macro_f1_metric(metric)
        named = before and replace(before, metric=whole)
        yield corpus_comparison(named, replace(after, metric=whole), origin, alpha)


def cases_with(evidence: Evidence, metric: str, tag: str | None) -> ByModel:
    """Return the scores of `metric` on the cases with `tag`; on all of them without."""
    suite = metric.partition(".")[0]
    return {
        model: {
            id_: scores
            for id_, scores in found.items()
            if tag is None or tag in evidence.tags.get((suite, id_), ())
        }
        for model, found in evidence.scores[metric].items()
    }


def clusters_in(evidence: Evidence, metric: str) -> dict[str, str]:
    """Return case id -> cluster in the suite of `metric`."""
    suite = metric.partition(".")[0]
    return {id_: name for (of, id_), name in evidence.clusters.items() if of == suite}


def series(metric: str, model: str, models: ByModel) -> Series:
    """Return the scores of one of `models`; none where it has none."""
    return Series(metric, model, models.get(model, {}))


def macro_f1_metric(metric: str) -> str:
    """The name of macro-F1 beside a metric of labels: `macro_f1` beside `accuracy`."""
    stem = metric.removesuffix("accuracy")
    return f"{stem}macro_f1" if stem[-1] in "._" else f"{stem}_macro_f1"
