"""Ctrl-C stops a run; what was paid for is kept, and nothing is decided."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.slow

INTERRUPTED = 2


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["serial", "two workers"])
def test_ctrl_c_while_asking_keeps_the_replies_and_decides_nothing(
    projects: Any, options: tuple[str, ...]
) -> None:
    project = projects.new(f"asking-{len(options)}")
    run = project.start(*options, pace_s=0.4)
    assert project.waits_for(lambda: len(project.replies()) >= 8)
    before = project.replies()
    run.interrupt()
    assert run.wait() == INTERRUPTED
    assert run.orphans() == []
    kept = project.replies()
    assert len(kept) < 48
    assert {key: kept.get(key) for key in before} == before
    decided_nothing(project)

    project.forget_calls()
    assert project.run() == 0
    assert sum(project.calls().values()) == 48 - len(kept)
    after = project.replies()
    assert {key: after[key] for key in kept} == kept


def test_ctrl_c_does_not_wait_for_the_calls_in_flight(projects: Any) -> None:
    project = projects.new("in-flight")
    run = project.start(pace_s=600)
    assert project.waits_for(project.calls)
    run.interrupt()
    assert not run.survives(30)
    assert run.wait() == INTERRUPTED


def test_ctrl_c_while_scoring_decides_nothing(projects: Any) -> None:
    project = projects.new("scoring")
    run = project.start(scoring_s=0.5)
    assert project.waits_for(lambda: "test_demo.py .." in project.output)
    run.interrupt()
    assert run.wait() == INTERRUPTED
    assert len(project.replies()) == 48
    decided_nothing(project)


def test_ctrl_c_while_training_leaves_no_candidate_and_decides_nothing(projects: Any) -> None:
    project = projects.new("training", training=True)
    run = project.start()
    assert project.waits_for(lambda: list(project.candidates.glob(".tmp-*")))
    run.interrupt()
    assert run.wait() == INTERRUPTED
    assert run.orphans() == []
    assert list(project.candidates.glob("[!.]*")) == []
    assert project.replies() == {}
    decided_nothing(project)


def decided_nothing(project: Any) -> None:
    assert project.all_results() == []
    assert not (project.root / "reports").exists()
    assert "INTERNALERROR" not in project.output
    assert "gates" not in project.output
