"""What a baseline and a candidate replied -> pairs that do not tell which is which.

The order of the pairs, their names and their sides come from the content of the replies and a
secret of the store: exchanging the models behind the replies changes nothing that is shown.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.records import HarnessError, Recorded, Role, Vote, canonical_json, reply_digest
from harness.store import Asked, Store
from harness.votes import Sides

_NAME = 24
_Secretly = Callable[..., str]


@dataclass(frozen=True, slots=True)
class Shown:
    """A reply as it is shown, and its digest (`harness.records.reply_digest`)."""

    text: str
    digest: str


@dataclass(frozen=True, slots=True)
class Pair:
    """Two replies to one case, sides hidden; `sides` is the key to them and is never shown."""

    name: str
    suite: str
    case: str
    asked: Asked
    left: Shown
    right: Shown
    sides: Sides

    def vote(
        self,
        rater: str,
        choice: str,
        left_ships: bool = True,
        right_ships: bool = True,
        note: str = "",
    ) -> Vote:
        """Return what `rater` says of the pair."""
        left, right = self.left.digest, self.right.digest
        return Vote(self.name, rater, left, right, choice, left_ships, right_ships, note)


def candidates(store: Store, run: str, name: str = "") -> list[str]:
    """Return the candidates of `run`, or only the one called `name`.

    Raises:
        HarnessError: there is none.

    """
    known = [arm.name for arm in store.arms(run) if arm.role is Role.CANDIDATE]
    if not known:
        raise HarnessError(f"the run {run} has no candidate to compare with a baseline")
    if name and name not in known:
        raise HarnessError(f"the run {run} has no candidate {name!r}; there: {', '.join(known)}")
    return [name] if name else known


def pairs_of(store: Store, run: str, candidate: str, suite: str = "") -> list[Pair]:
    """Return the pairs of `candidate` and the baseline in `run`, in the order to read them.

    One for each case (of `suite`) that both replied to; of several trials the first. Cases that
    cannot be told apart are one.

    Raises:
        HarnessError: there is none.
        EvidenceError: the run cannot be read.

    """
    baseline = next(arm.name for arm in store.arms(run) if arm.role is Role.BASELINE)
    before, after = (_first(store.run_replies(run, name)) for name in (baseline, candidate))
    shared = [key for key in before if key in after]
    wanted = [key for key in shared if suite in ("", key[0])]
    if not wanted:
        raise HarnessError(_nothing(run, suite, sorted({name for name, _ in shared})))
    asked, secretly = store.asked(), _hidden_by(store.blinding())
    ordered = sorted(wanted, key=lambda key: secretly("order", run, *key))
    made = [
        _pair(before[key], after[key], asked[before[key].digest], secretly)
        for key in ordered
        if before[key].digest in asked
    ]
    return list({pair.name: pair for pair in made}.values())


def _first(replies: Sequence[Recorded]) -> dict[tuple[str, str], Recorded]:
    """(suite, case id) -> what was replied in the first trial."""
    found: dict[tuple[str, str], Recorded] = {}
    for one in replies:
        found.setdefault((one.suite, one.id), one)
    return found


def _nothing(run: str, suite: str, suites: Sequence[str]) -> str:
    if suites:
        return f"the run {run} has no suite {suite!r} to read; there: {', '.join(suites)}"
    return f"the run {run} has no case that both models replied to; run `pytest evals/` again"


def _hidden_by(secret: str) -> _Secretly:
    def secretly(*parts: str) -> str:
        content = canonical_json(parts).encode()
        return hmac.new(secret.encode(), content, hashlib.sha256).hexdigest()

    return secretly


def _pair(before: Recorded, after: Recorded, asked: Asked, secretly: _Secretly) -> Pair:
    both = (_shown(before), _shown(after))
    left, right = sorted(both, key=lambda one: secretly("side", one.digest))
    return Pair(
        name=secretly("pair", left.digest, right.digest)[:_NAME],
        suite=after.suite,
        case=after.id,
        asked=asked,
        left=left,
        right=right,
        sides=Sides(both[0].digest, both[1].digest),
    )


def _shown(one: Recorded) -> Shown:
    return Shown(one.reply.said, reply_digest(one.digest, one.reply))
