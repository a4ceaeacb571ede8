"""What a page of pairs hands back -> votes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.files import read_file
from harness.records import HarnessError, Vote
from harness.review.pairs import Pair

LONGEST_NOTE = 2_000
_LARGEST = 10_000_000
_RATER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Ballot(_Table):
    """What a rater says of the pair called `pair`; without a `choice` the vote is taken back."""

    pair: Annotated[str, Field(max_length=64)]
    choice: Literal["left", "right", "tie"] | None
    left_ships: bool = True
    right_ships: bool = True
    note: Annotated[str, Field(max_length=LONGEST_NOTE)] = ""

    def vote(self, pair: Pair, rater: str) -> Vote:
        """Return the vote of `rater` on `pair`; there must be a choice."""
        assert self.choice is not None
        return pair.vote(rater, self.choice, self.left_ships, self.right_ships, self.note)


class Ballots(_Table):
    """The file that a page offers: what `rater` says of pairs of the run called `run`."""

    run: str
    rater: str
    votes: list[Ballot]


def rater_name(name: str) -> str:
    """Return `name` if it can name a rater.

    Raises:
        HarnessError: it cannot.

    """
    if not _RATER.fullmatch(name):
        raise HarnessError(
            f"{name!r} cannot name a rater; take up to 40 letters, digits, dots, dashes and "
            "underscores: --rater NAME"
        )
    return name


def read(path: Path) -> Ballots:
    """Return the ballots in the file at `path`.

    Raises:
        HarnessError: it cannot be read or is no such file.

    """
    try:
        if path.stat().st_size > _LARGEST:
            raise HarnessError(f"{path}: it is too large for a file of votes; give another file")
        return Ballots.model_validate_json(read_file(path))
    except OSError as problem:
        raise HarnessError(
            f"{path}: {problem.strerror or problem}; give the file that the page made"
        ) from None
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise HarnessError(
            f"{path}: this is no file of votes ({where or 'whole'}: {first['msg']}); give the file "
            "of the page"
        ) from None


def votes(ballots: Ballots, pairs: Mapping[str, Pair], path: Path) -> list[Vote]:
    """Return the votes in `ballots`, which came from `path`; `pairs` are those of its run.

    Raises:
        HarnessError: a pair is not of that run and store.

    """
    rater = rater_name(ballots.rater)
    strange = next((one.pair for one in ballots.votes if one.pair not in pairs), None)
    if strange is not None:
        raise HarnessError(
            f"{path}: there is no pair {strange!r} in the run {ballots.run} of this store; give "
            "votes on a page that was made here"
        )
    return [one.vote(pairs[one.pair], rater) for one in ballots.votes if one.choice]
