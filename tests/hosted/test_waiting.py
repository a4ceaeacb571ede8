"""A job is waited for as long as it may take, whatever its status is called."""

from __future__ import annotations

from typing import Any

import pytest

from harness.jobs import cancel, follow, overview
from trainers import hosted
from trainers.service import Service


@pytest.mark.parametrize("status", ["paused", "pausing_for_review"])
def test_a_status_that_is_not_final_is_waited_out(account: Any, status: str) -> None:
    project = account(statuses=("queued", status, "running", "succeeded"), job_s=0.4)
    assert project.train(project.recipe()).failed == {}


def test_a_job_that_never_ends_is_left_at_the_deadline_and_joined_again(account: Any) -> None:
    project = account(statuses=("running", "paused"), job_s=0.1)
    recipe = project.recipe(deadline_h=2 / 3600)
    failed = project.train(recipe).failed["cand"]
    assert "the job ftjob-0 is paused and not over" in failed
    assert "raise deadline_h and run again to rejoin it" in failed
    project.service.statuses = ("running", "succeeded")
    assert project.train(project.recipe()).failed == {}
    assert len(project.service.jobs) == 1


def test_an_error_object_without_content_is_no_failure(account: Any) -> None:
    project = account(errors={"running": {}, "succeeded": {"code": None, "message": None}})
    assert project.train(project.recipe()).failed == {}


def test_the_error_of_a_failed_job_is_told_verbatim_and_the_next_run_tries_again(
    account: Any,
) -> None:
    told = {"code": "invalid_training_file", "message": "line 3 \x1b[31mis\x1b[0m bad"}
    project = account(statuses=("running", "failed"), errors={"failed": told})
    failed = project.train(project.recipe()).failed["cand"]
    assert "ftjob-0 failed: invalid_training_file: line 3 is bad; run again" in failed
    project.service.statuses = ("running", "succeeded")
    project.service.jobs["ftjob-0"]["cancelled"] = True
    assert project.train(project.recipe()).failed == {}
    assert len(project.service.jobs) == 2


def test_a_failure_without_a_reason_says_so(account: Any) -> None:
    project = account(statuses=("running", "failed"), errors={"failed": {}})
    failed = project.train(project.recipe()).failed["cand"]
    assert "failed, and the service gives no reason" in failed


def test_a_job_that_was_cancelled_elsewhere_is_told(account: Any) -> None:
    project = account(job_s=60)
    recipe = project.recipe()
    with Service(recipe.base) as service:
        job = hosted.submit(recipe, project.home, service)
        project.service.jobs[job]["cancelled"] = True
        with pytest.raises(hosted.TrainingError, match="ftjob-0 was cancelled"):
            hosted.finish(recipe, project.home, service, job)


def test_statuses_and_events_are_live_progress(account: Any) -> None:
    project, seen = account(), []
    recipe = project.recipe()
    with Service(recipe.base) as service:
        job = hosted.submit(recipe, project.home, service)
        hosted.finish(recipe, project.home, service, job, seen.append)
    kinds = [event.kind for event in seen]
    assert kinds[0] == "validating_files"
    assert "succeeded" in kinds
    messages = [event.message for event in seen if event.message]
    assert messages == [
        "the job is validating_files",
        "the job is running",
        "the job is succeeded",
    ]


class _Plan:
    """As much of a plan as jobs are looked up by."""

    def __init__(self, project: Any) -> None:
        self.home = project.home
        self.hosted = {"cand": project.recipe()}


def test_jobs_are_listed_followed_and_cancelled(account: Any) -> None:
    project = account()
    plan: Any = _Plan(project)
    assert list(overview(plan)) == ["cand: no job yet; `harness train` or a run begins one"]
    with Service(plan.hosted["cand"].base) as service:
        hosted.submit(plan.hosted["cand"], project.home, service)
    project.service.job_s = 60
    assert list(overview(plan)) == ["cand: ftjob-0 validating_files"]
    assert cancel(plan, "cand") == "cand: the job ftjob-0 is cancelled"
    with Service(plan.hosted["cand"].base) as service:
        hosted.submit(plan.hosted["cand"], project.home, service)
    project.service.job_s = 0.2
    said: list[str] = []
    first, *_ = follow(plan, "cand", said.append)
    assert first == "cand: ft:base-1:org:cand:ftjob-1"
    assert said[-1] == "the job is succeeded"
    assert list(overview(plan)) == ["cand: ftjob-1 succeeded: ft:base-1:org:cand:ftjob-1"]
