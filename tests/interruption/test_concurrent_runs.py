"""Several processes of one project share their work: each training and each request once."""

from __future__ import annotations

import re
from typing import Any

import pytest

pytestmark = pytest.mark.slow

STUB_CALLS = 48
TUNED_REQUESTS = 24


def trainings(project: Any) -> int:
    """How many trainings the processes reported as over."""
    return len(re.findall(r"\[harness\] training tuned: .* in [\d.]+ s", project.output))


def asked(results: dict[str, Any]) -> int:
    return sum(model["requests"] - model["cached"] for model in results["usage"].values())


def test_runs_and_workers_at_once_train_once_and_ask_each_request_once(projects: Any) -> None:
    project = projects.new("at-once", training=True)
    runs = [project.start(), project.start("-n", "2")]
    assert [run.wait() for run in runs] == [1, 1]
    first, second = project.all_results()
    assert sorted(results["training"][0]["cached"] for results in (first, second)) == [False, True]
    assert trainings(project) == 1
    assert set(project.calls().values()) == {1}
    assert len(project.calls()) == STUB_CALLS
    assert sorted([asked(first), asked(second)]) == [0, STUB_CALLS + TUNED_REQUESTS]
    assert first["metrics"] == second["metrics"]
    assert first["cases"] == second["cases"]
