"""Runs on a damaged store: what is asked again, what is told, and who has to agree."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from loopback import Loopback

from .test_endpoints import settings

PAGE = 4096
CASES = 24


def page_of(data: bytes, text: bytes) -> slice:
    """The page with the first `text`."""
    start = data.index(text) // PAGE * PAGE
    return slice(start, start + PAGE)


def damaged(project: Any, damage: Callable[[bytearray], object]) -> None:
    path: Path = project.root / ".harness/store.sqlite"
    data = bytearray(path.read_bytes())
    damage(data)
    path.write_bytes(data)


def without_first_page(data: bytearray) -> None:
    data[:PAGE] = bytes(PAGE)


def without_a_page(data: bytearray) -> None:
    """A page with replies is missing, and all behind it are one too early."""
    del data[page_of(data, b"demo:c")]


def with_another_reply(data: bytearray) -> None:
    at = data.index(b'"prompt_tokens": 3', data.index(b"demo:c"))
    data[at : at + 18] = b'"prompt_tokens": 4'


@pytest.fixture
def asked(project: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A project whose two models behind an endpoint were asked everything."""
    monkeypatch.setenv("CANARY_KEY", "sk-canary")
    with Loopback() as server:
        project.pyproject(settings(server))
        assert project.run("evals/").status == 0
        project.count = lambda: server.stats()["requests"]
        assert project.count() == 2 * CASES
        yield project


def test_a_store_without_its_first_page_is_whole(asked: Any) -> None:
    damaged(asked, without_first_page)
    asked.rows("data/demo.jsonl", asked.questions(CASES + 1))
    run = asked.run("evals/")
    assert run.status == 0
    assert "48 replies and 1 runs could be read and are in a new one, nothing is lost" in flat(run)
    assert run.results["alarms"] == []
    assert asked.count() == 2 * (CASES + 1)


def test_paid_models_are_not_asked_again_what_was_lost_until_somebody_agrees(asked: Any) -> None:
    damaged(asked, without_a_page)
    run = asked.run("evals/")
    assert run.status == 6
    assert any("some of it may be lost" in alarm for alarm in run.results["alarms"])
    assert "ALARM: " in run.text
    error = run.results["errors"][0]
    assert "of its requests have no reply" in error
    assert "not asked: the store was damaged, and this reply may have been paid for" in error
    assert asked.run("evals/", "-n", "2").status == 6, "the next run knows it too"
    assert asked.count() == 2 * CASES
    assert asked.run("evals/", "--harness-yes").status == 0
    after = asked.count()
    assert 2 * CASES < after < 4 * CASES
    asked.rows("data/demo.jsonl", asked.questions(CASES + 1))
    assert asked.run("evals/").status == 0
    assert asked.count() == after + 2


def test_a_command_accepts_a_loss_and_a_changed_reply_is_asked_again(asked: Any) -> None:
    damaged(asked, without_a_page)
    status, text = asked.harness("cache", "accept-loss")
    assert (status, "the store was damaged; " in " ".join(text.split())) == (0, True)
    assert asked.harness("cache", "accept-loss") == (0, "nothing was lost\n")
    damaged(asked, with_another_reply)
    run = asked.run("evals/")
    assert run.status == 0
    assert asked.count() > 2 * CASES
    assert [alarm.partition(": ")[2] for alarm in run.results["alarms"]] == [
        "1 replies are damaged; only asked again they count"
    ]
    assert run.results["usage"]["new"]["prompt_tokens_mean"] == 3


def test_a_run_that_asks_nothing_leaves_damage_to_the_next_one_that_tells_it_too(
    asked: Any,
) -> None:
    damaged(asked, with_another_reply)
    for arguments, status in ((["--harness-offline"], 6), ([], 0)):
        run = asked.run("evals/", *arguments)
        assert run.status == status
        assert [alarm.partition(": ")[2] for alarm in run.results["alarms"]] == [
            "1 replies are damaged; only asked again they count"
        ]
    assert asked.count() == 2 * CASES + 1
    assert asked.run("evals/").results["alarms"] == []


def test_a_baseline_of_which_replies_are_damaged_is_not_saved(asked: Any) -> None:
    with closing(sqlite3.connect(asked.root / ".harness/store.sqlite")) as store, store:
        changed = "reply = replace(reply, 'yes', 'no')"
        store.execute(f"UPDATE run_replies SET {changed} WHERE model = 'first' AND case_id = 'c3'")
    status, text = asked.harness("baseline", "save", "base.jsonl")
    assert status == 6
    assert "1 of the replies of first in the run" in " ".join(text.split())
    assert not (asked.root / "base.jsonl").exists()
    assert asked.harness("baseline", "save", "base.jsonl", "--model", "new")[0] == 0


def flat(run: Any) -> str:
    return " ".join(run.text.split())
