"""What people's votes say: would they ship a reply, which of two do they prefer, do they agree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness import agreement, stats
from harness.agreement import Estimate
from harness.evaluation import ItemResult
from harness.records import WOULD_SHIP, Comparison, Rule, Vote, reply_digest
from harness.rules import counts_votes

READ_AT_LEAST = 20
"""Replies of a suite that people must have read for `max_would_not_ship`; all where it has fewer.

Practitioners read twenty, and do not ship with more than two that they would not.
"""

Ships = Mapping[str, bool]
"""Digest of a reply -> whether people would ship it."""


def ships(votes: Iterable[Vote]) -> dict[str, bool]:
    """Return whether more than half of those who read a reply would ship it, by its digest."""
    said: dict[str, list[bool]] = defaultdict(list)
    for vote in votes:
        for digest, answer in vote.ships.items():
            said[digest].append(answer)
    return {digest: 2 * sum(answers) > len(answers) for digest, answers in said.items()}


# ---------------------------------------------------------------------- for the gate


def comparisons(
    results: Sequence[ItemResult], ships: Ships, rules: Sequence[Rule], candidates: Sequence[str]
) -> list[Comparison]:
    """Return what people say of the replies of `candidates`, for the rules that count it.

    One comparison for each suite and candidate that such a rule concerns, as the metric
    `SUITE.would_ship` without a baseline: `n` replies were read (of several trials the first
    counts), `losses` of them would not be shipped, `missing` must still be read.
    """
    read = _first_replies(results)
    return [
        _comparison(metric, candidate, read[suite, candidate], ships)
        for suite in sorted({result.suite for result in results})
        for candidate in candidates
        if counts_votes(rules, metric := f"{suite}.{WOULD_SHIP}", candidate)
    ]


def _first_replies(results: Sequence[ItemResult]) -> Mapping[tuple[str, str], dict[str, str]]:
    """(suite, model) -> case id -> digest of its reply."""
    found: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for result in sorted(results, key=lambda result: result.trial):
        digest = reply_digest(result.digest, result.reply)
        found[result.suite, result.arm].setdefault(result.id, digest)
    return found


def _comparison(
    metric: str, candidate: str, replies: Mapping[str, str], ships: Ships
) -> Comparison:
    read = [ships[digest] for digest in replies.values() if digest in ships]
    return Comparison(
        metric=metric,
        candidate=candidate,
        baseline=None,
        n=len(read),
        missing=max(0, min(READ_AT_LEAST, len(replies)) - len(read)),
        unscored=0,
        candidate_mean=sum(read) / len(read) if read else None,
        losses=len(read) - sum(read),
    )


# ---------------------------------------------------------------------- for people


@dataclass(frozen=True, slots=True)
class Sides:
    """The digests of what the baseline (`before`) and the candidate (`after`) replied to a case."""

    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Tally:
    """What people say of a candidate and its baseline. Intervals are two-sided at 95 %.

    `preference` in [-1, 1] is the share of pairs in which the candidate is preferred less that of
    the baseline, `wins`, `losses` and `ties` count them: a pair is what most of its raters say.
    `ships_before` and `ships_after` are shares of replies. `alpha` is Krippendorff's of the
    preferences, on an ordinal scale, `ships_alpha` that of the answers whether a reply would ship.
    """

    raters: tuple[str, ...]
    preference: Estimate
    wins: int
    losses: int
    ties: int
    ships_before: Estimate
    ships_after: Estimate
    alpha: Estimate
    ships_alpha: Estimate


def tally(votes: Sequence[Vote], pairs: Iterable[Sides]) -> Tally:
    """Sum up the votes on `pairs`; of the same two replies to two cases only once."""
    by_pair = _by_pair(votes, pairs)
    replies = ships(votes)
    said = [[value for _, value in found] for found in by_pair.values()]
    signs = list(preferences(votes, by_pair).values())
    wins, losses = signs.count(1), signs.count(-1)
    return Tally(
        raters=tuple(sorted({vote.rater for found in by_pair.values() for vote, _ in found})),
        preference=_preference(len(signs), losses, wins),
        wins=wins,
        losses=losses,
        ties=signs.count(0),
        ships_before=_share([replies[sides.before] for sides in by_pair]),
        ships_after=_share([replies[sides.after] for sides in by_pair]),
        alpha=agreement.alpha(said),
        ships_alpha=agreement.alpha(_ship_ratings(by_pair), "nominal"),
    )


def preferences(votes: Sequence[Vote], pairs: Iterable[Sides]) -> dict[Sides, int]:
    """Return what most raters prefer of each pair that was voted on: 1 the candidate, -1, 0."""
    found = _by_pair(votes, pairs)
    return {sides: _sign(sum(value for _, value in said)) for sides, said in found.items()}


_ByPair = Mapping[Sides, list[tuple[Vote, int]]]
"""pair -> its votes, each with the preference for the candidate"""


def _by_pair(votes: Sequence[Vote], pairs: Iterable[Sides]) -> _ByPair:
    of: dict[frozenset[str], list[Vote]] = defaultdict(list)
    for vote in votes:
        of[frozenset((vote.left, vote.right))].append(vote)
    return {
        sides: [
            (vote, value)
            for vote in found
            if (value := vote.preference(sides.before, sides.after)) is not None
        ]
        for sides in pairs
        if (found := of.get(frozenset((sides.before, sides.after))))
    }


def _ship_ratings(by_pair: _ByPair) -> list[list[float | None]]:
    return [
        [float(vote.ships[digest]) for vote, _ in found]
        for sides, found in by_pair.items()
        for digest in {sides.before: None, sides.after: None}
    ]


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)


def _preference(n: int, losses: int, wins: int) -> Estimate:
    if not n:
        return Estimate(None, None, 0)
    return Estimate((wins - losses) / n, stats.tango_interval(n, losses, wins, 0.95), n)


def _share(answers: Sequence[bool]) -> Estimate:
    n, count = len(answers), sum(answers)
    if not n:
        return Estimate(None, None, 0)
    return Estimate(count / n, stats.wilson_interval(count, n, 0.95), n)
