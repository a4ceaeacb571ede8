"""A recording as a model: it answers the cases that it holds, as they were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.models import Models
from harness.recording import Recording, write
from harness.records import Case, EvidenceError, HarnessError, ModelSpec, Recorded, Reply, Sampling
from harness.replies import Replies
from harness.store import Store


def case(text: str, suite: str = "demo", id_: str = "") -> Case:
    return Case(suite, id_ or text, ({"role": "user", "content": text},), "yes")


def recorded(one: Case, text: str, suite: str | None = None, trial: int = 0) -> Recorded:
    reply = Reply(text=text, prompt_tokens=3, latency_s=0.5, cost_usd=0.1)
    return Recorded(one.id, one.digest, reply, one.suite if suite is None else suite, trial)


def model(folder: Path, *replies: Recorded) -> ModelSpec:
    whole = Recording(
        "openai:x", "old", "", Sampling(), "0" * 64, "2026-11-02", "cases.jsonl", replies
    )
    write(whole, folder / "old.jsonl")
    return ModelSpec("old", "replay", str(folder / "old.jsonl"))


@pytest.fixture
def store(tmp_path: Path) -> Any:
    store = Store(tmp_path / "store.sqlite")
    yield store
    store.close()


def ask(store: Store, spec: ModelSpec, *cases: Case, trial: int = 0) -> list[Reply]:
    replies = Replies(store, Models())
    planned = [replies.plan(spec, one.messages, trial, one.id, one) for one in cases]
    found = replies.gather(planned)
    return [found[request.key] for request in planned]


def test_a_reply_comes_back_whole_and_is_not_cached_again(tmp_path: Path, store: Store) -> None:
    one = case("is it 1")
    spec = model(tmp_path, recorded(one, "yes"))
    replies = Replies(store)
    request = replies.plan(spec, one.messages, case=one)
    reply = replies.gather([request])[request.key]
    assert reply == recorded(one, "yes").reply
    assert store.replies([request.key]) == {}
    usage = replies.usage([request])["old"]
    assert (usage.requests, usage.cached, usage.cost_usd) == (1, 1, 0.1)


def test_tags_do_not_count_but_anything_else_of_a_case_does(tmp_path: Path, store: Store) -> None:
    one = case("is it 1")
    spec = model(tmp_path, recorded(one, "yes"))
    tagged, other, renamed = (
        replace(one, tags=("x",)),
        replace(one, expected="no"),
        replace(one, id="new name"),
    )
    assert [reply.text for reply in ask(store, spec, tagged, renamed)] == ["yes", "yes"]
    assert [reply.error for reply in ask(store, spec, other, case("is it 2"))] == [
        "case is it 1 changed since it was recorded",
        "case is it 2 was not recorded",
    ]


def test_cases_of_one_prompt_keep_their_own_replies(tmp_path: Path, store: Store) -> None:
    """The same prompt in two suites, asked with the examples of each."""
    first, second = case("is it 1", "a"), case("is it 1", "b")
    spec = model(tmp_path, recorded(first, "from a"), recorded(second, "from b"))
    renamed = case("is it 1", "c")
    texts = [reply.text for reply in ask(store, spec, first, second, renamed)]
    assert texts[:2] == ["from a", "from b"]
    assert texts[2] in texts[:2]


def test_a_case_of_another_suite_with_the_same_id_is_no_earlier_version(
    tmp_path: Path, store: Store
) -> None:
    spec = model(tmp_path, recorded(case("old", "a", "c1"), "yes"))
    [reply] = ask(store, spec, case("new", "b", "c1"))
    assert reply.error == "case c1 was not recorded"


def test_a_recording_without_suites_answers_in_every_suite(tmp_path: Path, store: Store) -> None:
    one = case("is it 1")
    spec = model(tmp_path, recorded(one, "yes", suite=""))
    assert [reply.text for reply in ask(store, spec, one, case("is it 1", "b"))] == ["yes", "yes"]
    assert [reply.error for reply in ask(store, spec, replace(one, expected="no"))] == [
        "case is it 1 changed since it was recorded"
    ]


def test_trials_are_told_apart(tmp_path: Path, store: Store) -> None:
    one = case("is it 1")
    spec = model(tmp_path, recorded(one, "first"), recorded(one, "second", trial=1))
    assert ask(store, spec, one, trial=1)[0].text == "second"
    assert ask(store, spec, one, trial=2)[0].error == "case is it 1 was recorded without a trial 3"


def test_a_recording_does_not_converse(tmp_path: Path, store: Store) -> None:
    one = case("is it 1")
    replies = Replies(store)
    request = replies.plan(model(tmp_path, recorded(one, "yes")), one.messages)
    assert "cannot converse" in str(replies.gather([request])[request.key].error)


def test_the_identity_is_that_of_the_content(tmp_path: Path) -> None:
    one = case("is it 1")
    (tmp_path / "b").mkdir()
    same = model(tmp_path, recorded(one, "yes"))
    moved, other = model(tmp_path / "b", recorded(one, "yes")), tmp_path / "c"
    other.mkdir()
    changed = model(other, recorded(one, "no"))
    found = [Models().identity(spec) for spec in (same, moved, changed)]
    assert found[0] == found[1] != found[2]
    assert found[0]["about"] == "openai:x made on 2026-11-02, temperature 0 (cases.jsonl)"


def test_a_damaged_or_missing_file_is_named(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    spec = model(tmp_path, recorded(case("is it 1"), "yes"))
    file = tmp_path / "old.jsonl"
    file.write_bytes(file.read_bytes().replace(b"yes", b"yEs"))
    with pytest.raises(EvidenceError, match=r"^old\.jsonl: the recording is not as it was"):
        Models().identity(spec)
    file.unlink()
    with pytest.raises(HarnessError, match=r"^old\.jsonl: there is no such recording"):
        Models().identity(spec)
