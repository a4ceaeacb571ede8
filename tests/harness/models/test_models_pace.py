from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.models.pace import COOL_DOWN_S, FIRST_WINDOW, Pace


@dataclass
class Bucket:
    """A server that admits `rate` calls a second and says when there is room again."""

    rate: float
    burst_s: float = 1.0
    latency_s: float = 0.1
    failing: float = 0.0
    refusing: float = 0.0
    tokens: float = math.inf
    filled: float = 0.0

    def admits(self, now: float) -> float:
        """Return 0.0, or in how many seconds to come again."""
        most = max(1.0, self.rate * self.burst_s)
        self.tokens = min(most, self.tokens + (now - self.filled) * self.rate)
        self.filled = now
        if self.tokens >= 1:
            self.tokens -= 1
            return 0.0
        return (1 - self.tokens) / self.rate


def answers(server: Bucket, pace: Pace, seconds: float, seed: int = 0) -> Iterator[float]:
    """Yield when each good answer comes, with as many calls waiting as the pace lets through."""
    draw, now, order = random.Random(seed), 0.0, 0
    coming: list[tuple[float, int, str, float]] = []
    while now < seconds:
        while pace.may_send(now):
            pace.sent()
            order += 1
            wait = server.admits(now) or (0.02 if draw.random() < server.refusing else 0.0)
            takes = 0.005 if wait else server.latency_s * draw.uniform(0.8, 1.2)
            said = "refused" if wait else "failed" if draw.random() < server.failing else "answered"
            heapq.heappush(coming, (now + takes, order, said, wait))
        if not coming or (pace.opens > now and pace.opens < coming[0][0]):
            now = max(pace.opens, now)
            continue
        now, _, said, wait = heapq.heappop(coming)
        if said == "refused":
            pace.refused(now, wait)
        elif said == "failed":
            pace.failed()
        else:
            pace.answered(now)
            yield now


@pytest.mark.parametrize("latency_s", [0.05, 0.1])
@pytest.mark.parametrize("burst_s", [0.1, 1.0])
@pytest.mark.parametrize("rate", [5, 50, 500])
def test_throughput_settles_at_what_the_server_admits(
    rate: int, burst_s: float, latency_s: float
) -> None:
    server = Bucket(rate, burst_s, latency_s)
    times = [time for time in answers(server, Pace(256), 60) if time > 20]
    assert 0.8 * rate <= len(times) / 40 <= 1.2 * rate


def test_a_fast_server_is_soon_asked_as_much_as_is_allowed() -> None:
    pace = Pace(64)
    times = list(answers(Bucket(rate=1e9), pace, 2))
    assert pace.window == 64
    assert len(times) > 0.8 * 2 * 64 / 0.1


def test_failures_of_the_server_slow_the_growth_and_never_cut() -> None:
    pace, widths = Pace(64), [0]
    for _ in answers(Bucket(rate=1e9, failing=0.05), pace, 10):
        widths.append(pace.window)
    assert widths == sorted(widths)
    assert widths[-1] > 2 * FIRST_WINDOW
    steady = Pace(64)
    for _ in answers(Bucket(rate=1e9, failing=0.9), steady, 10):
        assert steady.window == FIRST_WINDOW


def test_refusals_that_no_pace_prevents_leave_a_few_calls_in_flight() -> None:
    server = Bucket(rate=1e9, refusing=0.3)
    times = [time for time in answers(server, Pace(64), 60) if time > 20]
    assert len(times) / 40 > 2 / server.latency_s


def test_a_refusal_takes_a_fifth_once_per_cool_down_and_growth_is_by_one_afterwards() -> None:
    pace = Pace(100)
    pace.window = 100
    for _ in range(100):
        pace.sent()
    for _ in range(50):
        pace.refused(10.0)
    assert pace.window == 80
    pace.refused(10.0 + COOL_DOWN_S)
    assert pace.window == 64
    for _ in range(49):
        pace.answered(20.0)
    for _ in range(64):
        pace.sent()
        pace.answered(20.0)
    assert pace.window == 65


def test_nothing_leaves_while_the_server_asks_to_wait() -> None:
    pace = Pace(8)
    pace.sent()
    pace.sent()
    pace.refused(1.0, pause_s=30.0)
    pace.refused(2.0, pause_s=1.0)
    assert not pace.may_send(30.9)
    assert pace.may_send(31.0)


events = st.lists(
    st.tuples(
        st.sampled_from(["sent", "answered", "failed", "refused"]),
        st.floats(0, 5),
        st.floats(0, 20),
    )
)


@given(st.integers(1, 200), events)
def test_the_window_stays_between_one_and_the_limit_and_the_calls_inside_it(
    limit: int, happened: list[tuple[str, float, float]]
) -> None:
    pace, now = Pace(limit), 0.0
    for what, later, pause in happened:
        now += later
        width = pace.window
        if what == "sent":
            if pace.may_send(now):
                pace.sent()
                assert pace.in_flight <= pace.window
        elif pace.in_flight:
            if what == "answered":
                pace.answered(now)
                assert pace.window >= width
            elif what == "failed":
                pace.failed()
                assert pace.window == width
            else:
                pace.refused(now, pause)
                assert pace.window in (width, max(1, width * 4 // 5))
        assert 1 <= pace.window <= limit
        assert pace.in_flight >= 0
