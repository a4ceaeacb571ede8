"""Where a difference comes from: the cases of one tag, one field of a JSON answer.

Exploratory: many looks at one run. What stands out is told by Benjamini and Hochberg's false
discovery rate and never decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from harness import stats
from harness.comparing import compare
from harness.evidence import ByModel, Evidence, cases_with, clusters_in, series
from harness.records import Comparison, Score, Slice

_CASES_AT_LEAST = 5


def slices(
    evidence: Evidence, baseline: str, candidates: Sequence[str], alpha: float
) -> tuple[Slice, ...]:
    """Compare every candidate with the baseline on each slice of five complete cases or more.

    Sorted by candidate, kind, metric and name. `q` is adjusted over all slices of a candidate.
    """
    return tuple(
        found
        for candidate in candidates
        for found in _adjusted(list(_of(evidence, baseline, candidate, alpha)))
    )


def _of(evidence: Evidence, baseline: str, candidate: str, alpha: float) -> Iterator[Slice]:
    for metric in sorted(evidence.scores):
        for kind, name, scores in (*_by_field(evidence, metric), *_by_tag(evidence, metric)):
            compared = compare(
                series(metric, baseline, scores),
                series(metric, candidate, scores),
                clusters_in(evidence, metric),
                alpha,
            )
            if compared.n >= _CASES_AT_LEAST and not compared.diagnostic:
                yield Slice(kind, name, compared, q=_two_sided(compared))


def _two_sided(compared: Comparison) -> float:
    assert compared.p is not None
    assert compared.p_better is not None
    return min(1.0, 2 * min(compared.p, compared.p_better))


def _adjusted(found: Sequence[Slice]) -> Iterator[Slice]:
    qs = stats.benjamini_hochberg([one.q for one in found])
    for one, q in zip(found, qs, strict=True):
        yield replace(one, q=q)


def _by_tag(evidence: Evidence, metric: str) -> Iterator[tuple[str, str, ByModel]]:
    suite = metric.partition(".")[0]
    tags = {tag for (of, _), found in evidence.tags.items() if of == suite for tag in found}
    for tag in sorted(tags):
        yield "tag", tag, cases_with(evidence, metric, tag)


def _by_field(evidence: Evidence, metric: str) -> Iterator[tuple[str, str, ByModel]]:
    models = evidence.scores[metric]
    every = (score for found in models.values() for trials in found.values() for score in trials)
    for field in sorted({field for score in every for field in score.parts}):
        yield "field", field, {model: _parts(found, field) for model, found in models.items()}


def _parts(found: Mapping[str, tuple[Score, ...]], field: str) -> dict[str, tuple[Score, ...]]:
    return {
        id_: tuple(_part(score, field) for score in trials)
        for id_, trials in found.items()
        if all(score.value is None or field in score.parts for score in trials)
    }


def _part(score: Score, field: str) -> Score:
    return score if score.value is None else replace(score, value=score.parts[field], labels=None)
