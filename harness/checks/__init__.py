"""Checks: pure functions from a case and a reply to scores.

A check names its metrics without the suite (`harness.scoring` adds it), reads the generated text
alone, never raises on a bad reply, and raises HarnessError where the case lacks what it needs. A
reply with an `error` is its caller's business.
"""

from __future__ import annotations

from harness.records import Case, HarnessError, Score, digest_of


def reference(case: Case, check: str) -> str:
    """Return what `case` expects, stripped; HarnessError if it expects nothing."""
    if case.expected is None or not case.expected.strip():
        raise HarnessError(
            f"{case.source}: the case {case.id!r} has no reference answer, which the check "
            f"{check} compares with; end its messages with an assistant message"
        )
    return case.expected.strip()


def check_digest(check: str, version: int, **settings: object) -> str:
    """Return the identity of a check with its settings; `version` counts its definitions."""
    return digest_of([check, version, settings])


def right_or_wrong(metric: str, problem: str, check: str) -> Score:
    """Return a score of 1, or of 0 where there is a `problem`, which explains it."""
    return Score(metric, float(not problem), passed=not problem, explanation=problem, check=check)


def quoted(value: object, longest: int = 80) -> str:
    """Return `value` for people: one printable line of at most `longest` characters."""
    return shortened(repr(value), longest)


def shortened(text: str, longest: int) -> str:
    """Return `text`, cut to `longest` characters."""
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
