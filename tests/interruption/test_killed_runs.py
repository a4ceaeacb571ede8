"""A run that is killed at any moment costs the next one nothing but what was not stored yet."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout

pytestmark = pytest.mark.slow

MOMENTS = {"asking": 18, "training": 2}
AT_ONCE = 2
REPORT = ["index.html", "results.json", "summary.md"]
PASSING = {"run_id", "started", "finished", "cached", "seconds", "latency_p50_s", "latency_p95_s"}


@dataclass(frozen=True)
class Killed:
    """What a killed run left behind, and the run after it in the same project."""

    project: Any
    half_done: list[str]
    before: dict[str, Any]
    calls: Counter[str]
    status: int
    orphans: list[str]


@dataclass(frozen=True)
class Kills:
    """An undisturbed run, and runs that were killed at random moments."""

    undisturbed: Any
    status: int
    killed: list[Killed]


def moments(count: int, seed: int) -> list[float]:
    """One random moment in each of `count` equal parts of a run, as a share of its time."""
    draw = random.Random(seed)
    return [(part + draw.random()) / count for part in range(count)]


@pytest.fixture(scope="module", params=list(MOMENTS))
def kills(request: pytest.FixtureRequest, projects: Any) -> Kills:
    phase, training = request.param, request.param == "training"
    undisturbed = projects.new(phase, training=training)
    run = undisturbed.start()
    status, seconds = run.wait(), run.seconds()

    def killed(share: float) -> Killed:
        return killed_at(share, seconds, projects, f"{phase}-{share:.4f}", training=training)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return Kills(undisturbed, status, list(pool.map(killed, moments(MOMENTS[phase], seed=2))))


def killed_at(share: float, seconds: float, projects: Any, name: str, *, training: bool) -> Killed:
    """Kill a run after this share of the time that a run takes."""
    project = projects.new(name, training=training)
    run = project.start()
    if not run.survives(share * seconds):  # it was faster than the one that was measured
        return killed_at(share, run.seconds(), projects, f"{name}-again", training=training)
    run.kill()
    half_done, before, calls = list(not_whole(project)), project.replies(), project.calls()
    status = project.run()
    return Killed(project, half_done, before, calls, status, run.orphans())


def not_whole(project: Any) -> Iterator[str]:
    """Name what looks finished and is not."""
    for folder in project.candidates.glob("[!.]*"):
        described = json.loads((folder / "candidate.json").read_text())
        yield from (
            f"{folder.name}/{name}"
            for name, seal in described["files"].items()
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != seal["sha256"]
        )
    for folder in (project.root / "reports").glob("[!.]*"):
        if sorted(path.name for path in folder.iterdir()) != REPORT:
            yield f"{folder.name} holds {list(folder.iterdir())}"
    for run in project.all_results():
        if run["verdict"] not in ("pass", "fail"):
            yield f"run {run['run_id']} is {run['verdict']}: {run['errors']}"


def lasting(results: Any) -> Any:
    """Return results without times, ids and what came from the cache."""
    if isinstance(results, dict):
        return {key: lasting(value) for key, value in results.items() if key not in PASSING}
    return [lasting(value) for value in results] if isinstance(results, list) else results


def taken(lock: Path) -> bool:
    """Return whether somebody holds a lock."""
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def test_the_next_run_ends_as_an_undisturbed_one(kills: Kills) -> None:
    assert kills.status in (0, 1)
    assert [one.status for one in kills.killed] == [kills.status] * len(kills.killed)


def test_results_equal_an_undisturbed_runs(kills: Kills) -> None:
    expected = lasting(kills.undisturbed.results())
    assert len(expected["cases"]) == 24
    for one in kills.killed:
        assert lasting(one.project.results()) == expected


def test_every_stored_reply_is_kept_and_never_asked_again(kills: Kills) -> None:
    undisturbed = kills.undisturbed.replies()
    for one in kills.killed:
        after = one.project.replies()
        assert {key: after.get(key) for key in one.before} == one.before
        assert after.keys() == undisturbed.keys()
        usage = one.project.results()["usage"].values()
        asked = sum(model["requests"] - model["cached"] for model in usage)
        assert asked == len(after) - len(one.before)
        calls = sum((one.project.calls() - one.calls).values())
        stubs = [key for key, row in after.items() if key not in one.before and "stub" in row[0]]
        assert calls == len(stubs)


@pytest.mark.parametrize("kills", ["asking"], indirect=True)
def test_replies_are_stored_as_they_come(kills: Kills) -> None:
    stored = [len(one.before) for one in kills.killed]
    total = len(kills.undisturbed.replies())
    assert any(0 < count < total for count in stored), stored


def test_nothing_that_looks_finished_is_half_done(kills: Kills) -> None:
    for one in kills.killed:
        assert one.half_done == []
        assert list(not_whole(one.project)) == []


def test_no_process_outlives_a_killed_run(kills: Kills) -> None:
    assert [one.orphans for one in kills.killed] == [[]] * len(kills.killed)


def test_no_lock_and_no_leftover_of_a_training_stays(kills: Kills) -> None:
    for one in kills.killed:
        locks = list((one.project.root / ".harness").rglob("*.lock"))
        assert locks
        assert not [lock for lock in locks if taken(lock)]
        left, right = (
            sorted(path.name for path in project.candidates.glob("*"))
            for project in (one.project, kills.undisturbed)
        )
        assert left == right


def test_workers_of_a_killed_run_end_and_leave_the_lock_to_the_next(projects: Any) -> None:
    project = projects.new("workers")
    run = project.start("-n", "2", pace_s=60)
    assert project.waits_for(project.calls)
    assert len(run.processes()) == 3
    run.kill()
    assert project.run() == 0
    assert run.orphans() == []
