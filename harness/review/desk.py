"""What `harness review` does: choose pairs, write a page, import votes, sum them up."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.history import find_run
from harness.recording import replace_file
from harness.records import HarnessError, Vote, digest_of
from harness.review import ballots
from harness.review.page import page
from harness.review.pairs import Pair, candidates, pairs_of
from harness.store import Store
from harness.votes import Tally, tally


@dataclass(frozen=True, slots=True)
class Reading:
    """The `pairs` of `run` that `rater` is to read."""

    run: str
    pairs: tuple[Pair, ...]
    rater: str


def reading(
    store: Store, run: str, candidate: str = "", suite: str = "", number: int = 20, rater: str = ""
) -> Reading:
    """Return the first `number` pairs of a candidate of `run`; see `pairs_of`.

    Raises:
        HarnessError: no run, candidate or case is meant, or several candidates; or nobody is named.
        EvidenceError: the run cannot be read.

    """
    found = find_run(store, run, answered=True)
    named = candidates(store, found, candidate)
    if len(named) > 1:
        raise HarnessError(
            f"the run {found} has several candidates: {', '.join(named)}; "
            f"name one: --candidate {named[0]}"
        )
    pairs = pairs_of(store, found, named[0], suite)
    return Reading(found, tuple(pairs[:number]), ballots.rater_name(rater or _login()))


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "reader"


def written(reading: Reading, out: Path | None, reports: Path) -> Path:
    """Write the page of `reading` to `out`, by default into the run's folder in `reports`."""
    place = out or reports / reading.run / _file_name(reading)
    content = page(reading.run, reading.pairs, reading.rater)
    replace_file(place, content.encode("utf-8"))
    return place


def _file_name(reading: Reading) -> str:
    """Another page has another name; it does not tell which candidate is read."""
    return f"review-{reading.rater}-{digest_of([pair.name for pair in reading.pairs])[:8]}.html"


# ---------------------------------------------------------------------- votes


def imported(store: Store, path: Path, *, replace: bool = False) -> str:
    """Put the votes in the file at `path` into the store; return a sentence on them.

    A stored vote of the same rater on the same pair that says something else is kept, and counted
    in the sentence; with `replace` the file's takes its place.

    Raises:
        HarnessError: it is no file of votes on pairs of this store.
        EvidenceError: their run cannot be read.

    """
    given = ballots.read(path)
    run = find_run(store, given.run)
    votes = ballots.votes(given, {pair.name: pair for pair in _all_pairs(store, run)}, path)
    stored = {(vote.pair, vote.rater): vote for vote in store.votes()}
    fresh = [vote for vote in votes if (vote.pair, vote.rater) not in stored]
    differing = [
        vote
        for vote in votes
        if (known := stored.get((vote.pair, vote.rater))) and vote.says != known.says
    ]
    store.put_votes([*fresh, *(differing if replace else ())])
    told = f"{path}: {len(fresh)} new votes of {given.rater} are stored"
    return told + _about_differing(len(differing), replace=replace)


def _about_differing(count: int, *, replace: bool) -> str:
    if not count:
        return ""
    if replace:
        return f", and {count} replace earlier ones"
    return (
        f"; {count} differ from votes of this rater that are stored already, which were kept: "
        "replace them with --replace, or give another rater's page another name (--rater)"
    )


def _all_pairs(store: Store, run: str) -> Iterator[Pair]:
    for candidate in candidates(store, run):
        yield from pairs_of(store, run, candidate)


@dataclass(frozen=True, slots=True)
class Result:
    """What people say of one candidate: in numbers, and (pair, vote) with a note or a "no"."""

    candidate: str
    tally: Tally
    remarks: tuple[tuple[Pair, Vote], ...]


def results(store: Store, run: str) -> list[Result]:
    """Return what people say of each candidate of `run`; votes of other runs count alike.

    Raises:
        HarnessError: the run has no candidate, or nothing to read.
        EvidenceError: it cannot be read.

    """
    votes = store.votes()
    return [_result(name, pairs_of(store, run, name), votes) for name in candidates(store, run)]


def _result(candidate: str, pairs: list[Pair], votes: list[Vote]) -> Result:
    named = {pair.name: pair for pair in pairs}
    mine = [(named[vote.pair], vote) for vote in votes if vote.pair in named]
    remarks = [(pair, vote) for pair, vote in mine if vote.note or not vote.ships[pair.sides.after]]
    return Result(candidate, tally(votes, [pair.sides for pair in pairs]), tuple(remarks))
