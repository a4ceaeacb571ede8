"""The chat provider against a server in a process of its own that does everything wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback import Loopback

from harness.models import lane
from harness.records import ModelSpec, Reply
from harness.replies import Replies
from harness.store import Store

STORM = {"refused": 0.30, "failed": 0.05, "dropped": 0.02, "truncated": 0.02, "silent": 0.01}


@pytest.fixture
def replies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Replies]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    monkeypatch.setattr(lane, "LONGEST_WAIT_S", 0.05)
    replies = Replies(Store(tmp_path / "store.sqlite"))
    yield replies
    replies.close()


def ask(replies: Replies, server: Loopback, count: int, **options: Any) -> list[Reply]:
    spec = ModelSpec("api", "openai", "m", options={"base_url": server.url, **options})
    planned = [
        replies.plan(spec, [{"role": "user", "content": f"is it {n}"}]) for n in range(count)
    ]
    found = replies.gather(planned)
    return [found[request.key] for request in planned]


@pytest.mark.parametrize("count", [120, pytest.param(2000, marks=pytest.mark.slow)])
def test_no_reply_is_lost_in_a_storm_and_none_is_asked_for_again(
    replies: Replies, count: int
) -> None:
    with Loopback(latency_s=0.005, **STORM) as server:
        answered = ask(replies, server, count, timeout_s=0.5)
        assert [reply.error for reply in answered if reply.error] == []
        assert {reply.text for reply in answered} == {"yes"}
        stats = server.stats()
        assert set(stats["done"].values()) == {1}
        assert len(stats["done"]) == count
        assert sum(reply.attempts or 0 for reply in answered) == stats["requests"] > 1.2 * count
        ask(replies, server, count, timeout_s=0.5)
        assert server.stats()["requests"] == stats["requests"]


@pytest.mark.parametrize("fault", ["silent", "endless"])
def test_an_answer_that_never_ends_is_given_up(replies: Replies, fault: str) -> None:
    with Loopback(**{fault: 1.0}) as server:
        started = time.monotonic()
        (reply,) = ask(replies, server, 1, timeout_s=0.2)
        assert time.monotonic() - started < 10
    assert reply.error == "no answer within 0.2 s"
    assert reply.attempts == lane.TRIES


@pytest.mark.parametrize("fault", ["dropped", "truncated"])
def test_a_connection_that_breaks_every_time_is_an_error(replies: Replies, fault: str) -> None:
    with Loopback(**{fault: 1.0}) as server:
        (reply,) = ask(replies, server, 1)
    assert (reply.error or "").startswith("the connection failed: ")
    assert reply.attempts == lane.TRIES


@pytest.mark.parametrize("whole_seconds", [False, True])
def test_a_service_that_admits_few_calls_answers_all_in_the_end(
    replies: Replies, whole_seconds: bool
) -> None:
    with Loopback(latency_s=0.01, rate=20, whole_seconds=whole_seconds) as server:
        answered = ask(replies, server, 60)
        assert [reply.text for reply in answered] == ["yes"] * 60
        assert server.stats()["answered"] == 60
    assert max(reply.queue_s or 0 for reply in answered) > 0.5


def test_what_a_reply_took_is_told(replies: Replies) -> None:
    with Loopback(latency_s=0.02) as server:
        (reply,) = ask(replies, server, 1)
    assert (reply.prompt_tokens, reply.completion_tokens, reply.cached_tokens) == (3, 1, 1)
    assert (reply.served_model, reply.attempts) == ("m-2026", 1)
    assert reply.latency_s is not None
    assert reply.latency_s >= 0.02
    assert 0 <= (reply.queue_s or 0) < 5
