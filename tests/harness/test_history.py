"""Which earlier run or candidate is meant, and what it needs to be asked again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.arms import planned_arms
from harness.config import parse
from harness.history import baseline, find_run, promote, replies_of
from harness.records import Arm, HarnessError, ModelSpec, Recorded, Reply, Role
from harness.store import Store

FINGERPRINT = "f" * 16
ELSEWHERE = Path("/on/another/machine/.harness/candidates") / FINGERPRINT
TUNED = ModelSpec("cand", "bundled", "pocket", system="be brief", adapter=ELSEWHERE)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / ".harness/store.sqlite")
    yield store
    store.close()


def add(store: Store, run: str, *arms: Arm, answered: bool = True) -> None:
    results: dict[str, Any] = {
        "run_id": run,
        "started": run,
        "verdict": "pass",
        "metrics": [],
        "errors": [],
        "cases": [],
    }
    said = [Recorded("c1", "d" * 64, Reply(text="yes"), "demo")]
    store.add_run(results, arms, {arm.name: said for arm in arms} if answered else {})


def champion(root: Path, spec: ModelSpec, fingerprint: str = "", **settings: Any) -> Arm:
    store = Store(root / ".harness/store.sqlite")
    add(store, "one", Arm("cand", Role.CANDIDATE, spec, fingerprint))
    promote(store, "one", "cand")
    store.close()
    planned = baseline("champion", parse(settings), root)
    assert planned is not None
    return planned.arm


def test_a_run_is_named_by_its_id_its_beginning_or_as_the_latest(store: Store) -> None:
    for name in ("one", "two", "two-b"):
        add(store, name)
    named = {text: find_run(store, text) for text in ("one", "o", "two", "two-", "latest")}
    assert named == {"one": "one", "o": "one", "two": "two", "two-": "two-b", "latest": "two-b"}
    with pytest.raises(HarnessError, match=r"2 runs begin with 'tw'; .*: two-b, two$"):
        find_run(store, "tw")


def test_the_latest_answered_run_is_not_the_latest(store: Store) -> None:
    arm = Arm("base", Role.BASELINE, ModelSpec("base", "python", "x:y"))
    add(store, "one", arm)
    add(store, "two", arm, answered=False)
    assert (find_run(store, "latest"), find_run(store, "latest", answered=True)) == ("two", "one")


def test_of_many_runs_the_newest_are_named(store: Store) -> None:
    for number in range(9):
        add(store, f"run{number}")
    with pytest.raises(HarnessError, match=r"run8, run7, run6, run5, run4 and 4 earlier$"):
        find_run(store, "x")


def test_a_trained_champion_is_found_where_the_store_lies_now(tmp_path: Path) -> None:
    folder = tmp_path / ".harness/candidates" / FINGERPRINT
    folder.mkdir(parents=True)
    arm = champion(tmp_path, TUNED, FINGERPRINT)
    assert arm.spec == replace(TUNED, name="champion", adapter=folder)
    assert (arm.name, arm.role, arm.fingerprint) == ("champion", Role.BASELINE, FINGERPRINT)
    assert not arm.examples


def test_a_champion_of_whole_weights_is_found_too(tmp_path: Path) -> None:
    folder = tmp_path / ".harness/candidates" / FINGERPRINT
    folder.mkdir(parents=True)
    spec = replace(TUNED, provider="local", target=str(ELSEWHERE), adapter=None)
    assert champion(tmp_path, spec, FINGERPRINT).spec.target == str(folder)


def test_a_champion_whose_artefact_is_gone_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=f"cand of the run one is gone: .*{FINGERPRINT}"):
        champion(tmp_path, TUNED, FINGERPRINT)


def test_a_champion_behind_a_service_gets_the_headers_of_today(tmp_path: Path) -> None:
    spec = ModelSpec("cand", "openai", "x", options={"base_url": "http://127.0.0.1:9/v1"})
    table = {"model": "openai:x", "headers": {"authorization": "today"}}
    arm = champion(tmp_path, spec, models={"service": table})
    assert arm.spec.options == {**spec.options, "headers": table["headers"]}


def test_a_candidate_cannot_have_the_name_of_the_champion(tmp_path: Path) -> None:
    spec = ModelSpec("cand", "python", "x:y")
    champion(tmp_path, spec)
    settings = parse({"candidates": {"champion": {"model": "python:x:y"}}})
    with pytest.raises(HarnessError, match=r"candidates\.champion: the baseline has this name too"):
        planned_arms(settings, tmp_path, baseline("champion", settings, tmp_path))


def test_no_result_is_no_reply() -> None:
    assert replies_of([]) == {}
