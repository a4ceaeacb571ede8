"""`replay:FILE`: a model whose replies are read from a recording; it need not exist any more."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.data.jsonl import shown_path
from harness.recording import Recording, dumps, read
from harness.records import Case, ModelSpec, Recorded, Reply, Request


class Provider:
    """Looks cases up by their digests; see `harness.models.Provider`.

    A case that the recording does not hold, and free messages, are answered by an error.
    """

    options: frozenset[str] = frozenset()
    in_flight = 0

    def __init__(self) -> None:
        self._served: dict[str, _Served] = {}

    def identity(self, spec: ModelSpec) -> dict[str, Any]:
        """Return the digest of the recording, and what it is, for people.

        Raises:
            HarnessError, EvidenceError: see `harness.recording.read`.

        """
        recording = self._of(spec).recording
        return {"sha256": hashlib.sha256(dumps(recording)).hexdigest(), "about": recording.about}

    def ask(self, batches: Sequence[Sequence[Request]]) -> Iterator[dict[str, Reply]]:
        """Yield the recorded replies of each batch."""
        for batch in batches:
            yield {request.key: self._of(request.model).reply(request) for request in batch}

    def close(self) -> None:
        """Forget what was read."""
        self._served.clear()

    def _of(self, spec: ModelSpec) -> _Served:
        if spec.target not in self._served:
            path = Path(spec.target)
            self._served[spec.target] = _Served(read(path, shown_path(path, Path.cwd())))
        return self._served[spec.target]


class _Served:
    """A recording, ready to be looked up."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self._replies: dict[tuple[str, str, int], Reply] = {}
        self._ids: set[tuple[str, str]] = set()
        for one in recording.replies:
            self._add(one)

    def _add(self, one: Recorded) -> None:
        self._replies[one.suite, one.digest, one.trial] = one.reply
        # A suite may have been renamed since: then the same case of any other suite answers.
        self._replies.setdefault(("", one.digest, one.trial), one.reply)
        self._ids.add((one.suite, one.id))

    def reply(self, request: Request) -> Reply:
        """Return what the model said when it was asked the request's case."""
        case = request.case
        if case is None:
            return Reply(error="a recording cannot converse: it only holds replies to cases")
        own = self._replies.get((case.suite, case.digest, request.trial))
        other = self._replies.get(("", case.digest, request.trial))
        return own or other or Reply(error=self._gap(case, request.trial))

    def _gap(self, case: Case, trial: int) -> str:
        if ("", case.digest, 0) in self._replies:
            return f"case {case.id} was recorded without a trial {trial + 1}"
        if {(case.suite, case.id), ("", case.id)} & self._ids:
            return f"case {case.id} changed since it was recorded"
        return f"case {case.id} was not recorded"
