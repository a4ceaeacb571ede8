"""What went wrong with a call, and what that means for the next try."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

_TRANSIENT = (408, 409, 425)
_EXHAUSTED = ("insufficient_quota", "billing_hard_limit_reached")
_FILTERED = ("content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation")
_TOO_FAST = re.compile(r"rate.?limit|too.?many|throttl|resource.?exhausted", re.IGNORECASE)
_PASSING = re.compile(
    r"overload|unavailable|time.?out|timed.?out|deadline|gateway|upstream|internal|"
    r"(server|api|provider|network|engine)_?error|network|busy|try.?again",
    re.IGNORECASE,
)
"""What codes and types of errors are called that pass."""
_TITLE = re.compile(r"<title[^<>]*>([^<>]+)", re.IGNORECASE)
_TAG = re.compile(r"<[^<>]*>")
_STATUS = ("code", "status", "status_code", "statusCode", "http_status")
_SAID = ("message", "msg", "status_msg", "error_msg", "detail", "error")
_UNITS = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "us": 1e-6, "µs": 1e-6}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|[dhms])")
_EPOCH = 1e9
"""Numbers above are moments (seconds since 1970), not lengths of time."""


class Kind(StrEnum):
    """What a failure means: too fast, try again, never try again, the model's own refusal."""

    RATE_LIMIT = "rate limit"
    TRANSIENT = "transient"
    PERMANENT = "permanent"
    CONTENT_FILTER = "content filter"


class CallFailed(Exception):
    """A call came to nothing; the message says why, `pause_s` how long the server asks to wait.

    `status` is the HTTP status of the answer, or the one that an answer with status 200 reports
    (`in_body`); None where none came, or it could not be read. `error` is the error object of the
    answer, or whatever came in its place.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        pause_s: float | None = None,
        status: int | None = None,
        error: object = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.pause_s = pause_s
        self.status = status
        self.error = error
        self.in_body = False


def failure_of(problem: Exception, timeout_s: float) -> CallFailed:
    """Return what an exception of the client means; a programming error is permanent."""
    from openai import APIConnectionError, APIStatusError

    if isinstance(problem, CallFailed):
        return problem
    if isinstance(problem, APIStatusError):
        headers = problem.response.headers
        return status_failure(problem.status_code, problem.body, headers, problem.message)
    if isinstance(problem, TimeoutError):
        return CallFailed(Kind.TRANSIENT, f"no answer within {timeout_s:g} s")
    if isinstance(problem, APIConnectionError):
        cause = problem.__cause__
        why = str(cause) or type(cause).__name__ if cause else problem.message
        return CallFailed(Kind.TRANSIENT, f"the connection failed: {why}")
    if isinstance(problem, ValueError):  # half a body is no JSON
        return CallFailed(Kind.TRANSIENT, f"the server's answer cannot be read: {problem}")
    return CallFailed(Kind.PERMANENT, f"{type(problem).__name__}: {problem}")


def status_failure(
    status: int, body: object, headers: Mapping[str, str], message: str = ""
) -> CallFailed:
    """Return what an answer with an error status means.

    `body` is the error object of the protocol, or whatever came in its place; then `message`
    stands for it.
    """
    error = unwrapped(body)
    text = f"the server answered {status}: {_message(error) or message}"
    codes = _codes(error)
    if status < 500 and codes.intersection(_FILTERED):
        return CallFailed(Kind.CONTENT_FILTER, text, status=status, error=body)
    if status == 429 and not codes.intersection(_EXHAUSTED):
        return CallFailed(Kind.RATE_LIMIT, text, pause_asked(headers), status, body)
    if status in _TRANSIENT or (status >= 500 and status != 501):
        return CallFailed(Kind.TRANSIENT, text, pause_asked(headers), status, body)
    return CallFailed(Kind.PERMANENT, text, status=status, error=body)


def unwrapped(answer: object) -> object:
    """Return the error in an answer: some services put it into a list, or under `error` again."""
    first = answer[0] if isinstance(answer, list) and answer else answer
    inner = first.get("error") if isinstance(first, dict) else None
    return inner if isinstance(inner, dict) else first


def error_failure(
    error: object, body: Mapping[str, Any], otherwise: Kind = Kind.PERMANENT
) -> CallFailed:
    """Return what an `error` means that came in a `body` with status 200.

    Its code or type counts like a status; where it has none, it is of the kind `otherwise`.
    """
    if status := _status_in(error) or _status_in(body):
        failure = status_failure(status, error, {}, "it gave no reason")
    else:
        text = f"the server answered with an error: {_message(error) or 'it gave no reason'}"
        kind = _kind_of(_codes(error) | _codes(body)) or otherwise
        failure = CallFailed(kind, text, error=error)
    failure.in_body = True
    return failure


def _status_in(error: object) -> int | None:
    """Return the HTTP status that an error object names, as a number or in digits."""
    named = [error.get(name) for name in _STATUS] if isinstance(error, dict) else []
    found = (str(value) for value in named if re.fullmatch(r"[45]\d\d", str(value)))
    return next(map(int, found), None)


def _kind_of(codes: set[str]) -> Kind | None:
    if codes.intersection(_FILTERED):
        return Kind.CONTENT_FILTER
    if codes.intersection(_EXHAUSTED):
        return Kind.PERMANENT
    if any(map(_TOO_FAST.search, codes)):
        return Kind.RATE_LIMIT
    return Kind.TRANSIENT if any(map(_PASSING.search, codes)) else None


def _codes(error: object) -> set[str]:
    """Return the words by which an error object names its kind."""
    table = error if isinstance(error, dict) else {}
    inner = table.get("innererror")
    named = [table.get(name) for name in ("code", "type", "status")]
    named += [inner.get("code")] if isinstance(inner, dict) else []
    return {value for value in named if isinstance(value, str)}


def _message(error: object) -> str:
    """Return what an error object says, with the words of the service behind a router."""
    if isinstance(error, str):
        return page_text(error)
    if not isinstance(error, dict):
        return ""
    said = next((error[name] for name in _SAID if error.get(name)), "")
    inner = error.get("metadata")
    raw = inner.get("raw") if isinstance(inner, dict) else None
    return ": ".join(str(part) for part in (said, raw) if part)


def page_text(text: str) -> str:
    """Return `text`; of an HTML page its title, or its words where it has none."""
    if not text.lstrip().startswith("<"):
        return text
    title = _TITLE.search(text)
    return " ".join((title[1] if title else _TAG.sub(" ", text)).split())


def pause_asked(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Return how many seconds (>= 0) the headers of an answer ask to wait; None: they do not say.

    `retry-after-ms` and `Retry-After` (RFC 9110: seconds or a date) come first, then the resets of
    what is used up: `x-ratelimit-reset-*`. `now` is the time in seconds since 1970.
    """
    now = time.time() if now is None else now
    if (pause := _number(headers.get("retry-after-ms"))) is not None:
        return pause / 1000
    if value := headers.get("retry-after"):
        return _pause(value, now)
    kinds = ("requests", "tokens")
    used_up = [kind for kind in kinds if headers.get(f"x-ratelimit-remaining-{kind}") == "0"]
    names = [f"x-ratelimit-reset-{kind}" for kind in used_up or kinds]
    resets = (_pause(headers.get(name, ""), now) for name in (*names, "x-ratelimit-reset"))
    return max((pause for pause in resets if pause is not None), default=None)


def _pause(value: str, now: float) -> float | None:
    """Read seconds, `1m2.5s`, a moment in seconds since 1970, or a date."""
    value = value.strip()
    if (number := _number(value)) is not None:
        return max(0.0, number - now) if number > _EPOCH else number
    if value and _PART.sub("", value) == "":
        return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(value))
    moment = _date(value)
    return max(0.0, moment - now) if moment is not None else None


def _number(value: str | None) -> float | None:
    return float(value) if value and re.fullmatch(r"\d{1,15}(\.\d{1,9})?", value.strip()) else None


def _date(value: str) -> float | None:
    for read in (parsedate_to_datetime, datetime.fromisoformat):
        with suppress(ValueError, TypeError, IndexError, OverflowError):
            moment = read(value)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return None
