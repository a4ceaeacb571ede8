"""Several candidates: which of them is ahead of which others, as far as that can be told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from harness import stats
from harness.evidence import Evidence, compared
from harness.records import Comparison, Standing


def ranking(
    evidence: Evidence, metrics: Sequence[str], candidates: Sequence[str], alpha: float
) -> tuple[Standing, ...]:
    """Rank `candidates` on each of `metrics`, the best mean first; nothing for a single one.

    Metrics of a whole series, such as macro-F1, are left out.

    Every two candidates are compared case by case, in both directions; "the best of k" is k looks
    at one suite, so Holm's correction runs over all of them.
    """
    pairs = [
        made
        for metric in metrics
        if metric in evidence.scores
        for one, other in combinations(candidates, 2)
        for made in compared(evidence, metric, one, other, alpha)
        if made.metric == metric and made.p is not None
    ]
    ahead = set(_ahead(pairs, alpha))
    means = _means(pairs)
    return tuple(
        Standing(metric, name, mean, tuple(c for c in candidates if (metric, name, c) in ahead))
        for metric in metrics
        for mean, name in _ordered(means, metric, pairs)
    )


def _ahead(pairs: Sequence[Comparison], alpha: float) -> Iterator[tuple[str, str, str]]:
    ps = [p for pair in pairs for p in (pair.p or 0.0, pair.p_better or 0.0)]
    adjusted = stats.holm(ps)
    for place, pair in enumerate(pairs):
        assert pair.baseline is not None
        if adjusted[2 * place] <= alpha:
            yield pair.metric, pair.baseline, pair.candidate
        if adjusted[2 * place + 1] <= alpha:
            yield pair.metric, pair.candidate, pair.baseline


def _means(pairs: Sequence[Comparison]) -> dict[tuple[str, str], float]:
    found = {}
    for pair in pairs:
        found[pair.metric, str(pair.baseline)] = pair.baseline_mean or 0.0
        found[pair.metric, pair.candidate] = pair.candidate_mean or 0.0
    return found


def _ordered(
    means: dict[tuple[str, str], float], metric: str, pairs: Sequence[Comparison]
) -> list[tuple[float, str]]:
    more = next((pair.higher_is_better for pair in pairs if pair.metric == metric), True)
    found = [(mean, name) for (of, name), mean in means.items() if of == metric]
    return sorted(found, key=lambda each: (-each[0] if more else each[0], each[1]))
