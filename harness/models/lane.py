"""The calls to one endpoint with one account: each waits here for its turn, and for its next."""

from __future__ import annotations

import asyncio
from collections import deque
from random import uniform
from typing import TYPE_CHECKING

from harness.models.failures import CallFailed, Kind
from harness.models.pace import Pace

if TYPE_CHECKING:
    from tenacity import RetryCallState

TRIES = 8
"""How often a call may fail for other reasons than coming too fast."""
PATIENCE_S = 600.0
"""Longest time that a call is held up by refusals, and longest pause that is kept to."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0


class Lane:
    """Lets calls pass at the pace that the service allows; belongs to one event loop."""

    def __init__(self, limit: int) -> None:
        self.pace = Pace(limit)
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._alarm: asyncio.TimerHandle | None = None

    async def turn(self) -> None:
        """Return when one more call may leave; it is counted until `leave`."""
        if not self._waiting and self.pace.may_send(_now()):
            self.pace.sent()
            return
        mine = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        self._admit()
        try:
            await mine
        except asyncio.CancelledError:
            if not mine.cancelled():  # it was let in and does not come
                self.leave(CallFailed(Kind.TRANSIENT, "broken off"))
            raise

    def leave(self, failure: CallFailed | None = None) -> None:
        """Take a call out that came back, with the `failure` that it ended in."""
        if failure is None or failure.kind in (Kind.PERMANENT, Kind.CONTENT_FILTER):
            self.pace.answered(_now())
        elif failure.kind is Kind.RATE_LIMIT:
            self.pace.refused(_now(), _bearable(failure.pause_s))
        else:
            self.pace.failed()
        self._admit()

    def _admit(self) -> None:
        now = _now()
        while self._waiting and self.pace.may_send(now):
            first = self._waiting.popleft()
            if not first.done():
                self.pace.sent()
                first.set_result(None)
        if self._waiting and now < self.pace.opens and self._alarm is None:
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_at(self.pace.opens, self._reopen)

    def _reopen(self) -> None:
        self._alarm = None
        self._admit()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _bearable(pause_s: float | None) -> float:
    """A pause that outlasts everybody's patience is no pause: the calls fail."""
    return pause_s if pause_s is not None and pause_s <= PATIENCE_S else 0.0


class Tries:
    """Decides for one call whether a failure is worth another try, and when (for tenacity)."""

    def __init__(self) -> None:
        self.failures = 0
        self._refused_since: float | None = None

    def again(self, problem: BaseException) -> bool:
        """Return whether the call may still succeed; asked once after each failure."""
        if not isinstance(problem, CallFailed):
            return False
        # A refusal in a body with status 200 does not say when it ends, nor that it will.
        if problem.kind is Kind.RATE_LIMIT and not problem.in_body:
            self._refused_since = self._refused_since or _now()
            held_up = _now() - self._refused_since + (problem.pause_s or 0.0)
            return held_up <= PATIENCE_S
        self.failures += 1
        passing = problem.kind in (Kind.TRANSIENT, Kind.RATE_LIMIT)
        return passing and self.failures < TRIES

    @staticmethod
    def wait(state: RetryCallState) -> float:
        """Return how long to stay away, in seconds: what the server asked, and full jitter."""
        problem = state.outcome.exception() if state.outcome else None
        asked = problem.pause_s if isinstance(problem, CallFailed) else None
        if asked is not None and asked <= PATIENCE_S:
            return asked + uniform(0.0, min(asked, FIRST_WAIT_S))
        doubled = FIRST_WAIT_S * 2.0 ** min(state.attempt_number - 1, 16)
        return uniform(0.0, min(doubled, LONGEST_WAIT_S))
