"""A fine-tuning service with one account: calls that are tried again, errors that are sentences."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from harness.models.endpoint import endpoint_of
from harness.models.failures import CallFailed, Kind, failure_of
from harness.models.lane import Tries
from harness.models.secrecy import LOGGERS, LogMask
from harness.records import ModelSpec
from harness.text import line

if TYPE_CHECKING:
    from openai import OpenAI
    from tenacity import RetryCallState

CALL_S = 120.0
"""Seconds after which a call without an answer is given up."""

PATIENCE_S = 120.0
"""Seconds for which a call is tried again while the service fails or is away."""

LONGEST_WAIT_S = 20.0
LONGEST_TEXT = 2_000

_T = TypeVar("_T")


class NeverSent(CallFailed):
    """The service could not be reached: it has not heard of the call."""


class Service:
    """The service that `base` names and its account.

    Raises:
        HarnessError: the model's table is wrong.
        EvidenceError: the account's key is missing.

    """

    def __init__(self, base: ModelSpec) -> None:
        place = endpoint_of(base)
        self.url = place.url
        self._mask = place.mask
        self._filter = LogMask(self._mask)
        self._client: OpenAI = place.waiting_client(CALL_S)

    def __enter__(self) -> Service:
        for name in LOGGERS:
            logging.getLogger(name).addFilter(self._filter)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        for name in LOGGERS:
            logging.getLogger(name).removeFilter(self._filter)
        self._client.close()

    def once(self, work: Callable[[OpenAI], _T]) -> _T:
        """Return what `work` returns.

        Raises:
            NeverSent: the service was not reached.
            CallFailed: the service did not do it, or may have done it without saying so.

        """
        try:
            return work(self._client)
        except Exception as problem:  # a server may answer anything at all
            kind = NeverSent if _is_unsent(problem) else CallFailed
            raise self._told(failure_of(problem, CALL_S), kind) from None

    def ask(self, work: Callable[[OpenAI], _T], patience_s: float | None = None) -> _T:
        """Return what `work` returns, trying again for `patience_s` where that may help.

        `patience_s` is `PATIENCE_S` unless it is given.

        For calls that do no harm when they are done twice.

        Raises:
            CallFailed: the service refuses, or is away for too long.

        """
        from tenacity import Retrying, retry_if_exception, stop_after_delay

        retrying = Retrying(
            retry=retry_if_exception(is_passing),
            wait=_pause_after,
            stop=stop_after_delay(PATIENCE_S if patience_s is None else patience_s),
            sleep=time.sleep,
            reraise=True,
        )
        done: _T = retrying(self.once, work)
        return done

    def shown(self, text: object) -> str:
        """Return a text of the server as people may see it: no secrets, no terminal sequences."""
        return line(self._mask(str(text)))[:LONGEST_TEXT]

    def _told(self, problem: CallFailed, kind: type[CallFailed]) -> CallFailed:
        return kind(problem.kind, self.shown(problem), problem.pause_s, problem.status)


def _is_unsent(problem: Exception) -> bool:
    """Whether no connection came about."""
    import httpx2

    return isinstance(problem.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout)


def is_passing(problem: BaseException) -> bool:
    """Whether a failed call may succeed when it is tried again."""
    return isinstance(problem, CallFailed) and problem.kind in (Kind.RATE_LIMIT, Kind.TRANSIENT)


def _pause_after(state: RetryCallState) -> float:
    """Return how many seconds to stay away: what the server asks, else longer and longer."""
    return min(Tries.wait(state), LONGEST_WAIT_S)
