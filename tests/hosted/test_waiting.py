"""A job is waited for as long as it may take, whatever its status is called."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.jobs import cancel, follow, overview
from trainers import hosted, service
from trainers.hosted_job import State, job_of, moment, name_of, state_of
from trainers.service import Service


@pytest.mark.parametrize("status", ["paused", "pausing_for_review"])
def test_a_status_that_is_not_final_is_waited_out(account: Any, status: str) -> None:
    project = account(statuses=("queued", status, "running", "succeeded"), job_s=0.4)
    assert project.train(project.recipe()).failed == {}


@pytest.mark.parametrize("status", ["completed", "success", "JOB_STATE_COMPLETED"])
def test_success_has_many_names(account: Any, status: str) -> None:
    project = account(statuses=("pending", "QUEUED", status))
    assert project.train(project.recipe()).failed == {}


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ("expired", "ftjob-0 failed (expired): out of money; run again"),
        ("error", "ftjob-0 failed (error): out of money"),
        ("user_error", "failed (user_error)"),
        ("FAILED", "ftjob-0 failed: out of money"),
        ("canceled", "ftjob-0 was cancelled: out of money"),
        ("stopped", "ftjob-0 was cancelled (stopped)"),
    ],
)
def test_a_job_that_ended_without_a_model_is_told_at_once(
    account: Any, status: str, told: str
) -> None:
    project = account(statuses=("running", status), errors={status: "out of money"})
    assert told in project.train(project.recipe()).failed["cand"]
    assert project.service.calls["create"] == 1


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("Succeeded", "succeeded"),
        ("STATUS_COMPLETED", "succeeded"),
        ("timed out", "failed"),
        ("FAILED_VALIDATION", "failed"),
        ("JOB_STATE_CANCELLED", "cancelled"),
        ("cancellation_requested", "open"),
        ("compressing", "open"),
        ("notRunning", "open"),
        ("", "open"),
    ],
)
def test_a_status_means_what_its_service_means(status: str, state: str) -> None:
    assert state_of(status) == state


@pytest.mark.parametrize("told", ["x", ["x"], {"message": "x"}, {"code": None, "detail": "x"}])
def test_errors_are_read_in_every_shape(told: object) -> None:
    assert job_of({"id": "a", "error": told}).error == "x"


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        (1.7e9, 1.7e9),
        (1_700_000_000_000, 1.7e9),
        ("2023-11-14T22:13:20Z", 1.7e9),
        ("2023-11-14T22:13:20", 1.7e9),
        ("1700000000", 1.7e9),
        ("soon", 0),
        (-1, 0),
        (float("nan"), 0),
        (10**300, 0),
        (None, 0),
    ],
)
def test_times_are_read_in_every_shape(told: object, seconds: float) -> None:
    assert moment(told) == seconds


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "id",
                "status",
                "model",
                "created_at",
                "finished_at",
                "error",
                "metadata",
                "result_files",
                "method",
                "seed",
                "hyperparameters",
                "fine_tuned_model",
                "trained_tokens",
                "suffix",
            ]
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["id", "type", "message", "x"]), inner, max_size=3
                )
            ),
            max_leaves=6,
        ),
    )
)
def test_a_job_of_any_shape_is_a_job_or_none(answer: dict[str, Any]) -> None:
    try:
        job = job_of(answer)
    except ValueError:
        return
    assert job.id
    assert isinstance(job.state, State)
    json.dumps([job.id, job.error, job.fine_tuned_model]).encode()


@pytest.mark.parametrize("fault", ["html", "null", "list", "empty", "text 502", "plain", "drop"])
def test_a_poll_that_cannot_be_read_is_asked_again(account: Any, fault: str) -> None:
    project = account()
    project.service.faults["job"] = [fault, fault]
    project.service.always["events"] = fault
    assert project.train(project.recipe()).failed == {}


def test_polls_are_tried_until_the_deadline(account: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """For longer than any other call."""
    monkeypatch.setattr(service, "PATIENCE_S", 0.1)
    project = account()
    project.service.faults["job"] = ["html"] * 20
    assert project.train(project.recipe()).failed == {}


def test_a_list_without_an_end_is_left(account: Any) -> None:
    project = account()
    project.train(project.recipe(seed=1))
    shown = project.service._list({})[1]["data"]
    endless = {"object": "list", "data": [*shown, {"id": "\x1b[2J"}, {}, 5], "has_more": True}
    project.service._list = lambda _: (200, endless)
    assert project.train(project.recipe()).failed == {}
    assert project.service.calls["list"] <= 10


@pytest.mark.parametrize("name", ["\x1b[2Jevil", "a\nb", "\ud800", "", None, 7.5, True, "x" * 9999])
def test_what_can_be_no_name_is_none(name: object) -> None:
    assert name_of(name) == ""
    assert job_of({"id": 7, "fine_tuned_model": name}).fine_tuned_model == ""
    with pytest.raises(ValueError, match="it names no job"):
        job_of({"id": name})


def test_a_job_is_created_when_its_file_is_processed(account: Any) -> None:
    project = account(processing_s=0.4)
    assert project.train(project.recipe()).failed == {}
    assert project.service.calls["create"] == 1


def test_a_file_that_is_never_processed_is_tried_at_last(
    account: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosted, "FILE_S", 0.2)
    project = account(processing_s=60)
    failed = project.train(project.recipe()).failed["cand"]
    assert "the server answered 400: that is no job of this service" in failed


def test_a_service_with_neither_lists_nor_news_is_used(account: Any) -> None:
    absent = {"list": "405", "events": "404", "checkpoints": "501", "count": "404", "file": "404"}
    project = account(always=absent, dialect="hyperparameters")
    recipe = project.recipe(dialect="hyperparameters", epochs=2, learning_rate_multiplier=1e-5)
    made = project.train(recipe)
    assert made.failed == {}
    assert made.candidates["cand"].losses
    [job] = project.service.jobs.values()
    assert job["body"]["hyperparameters"] == {"n_epochs": 2, "learning_rate_multiplier": 1e-5}
    assert "method" not in job["body"]
    assert not any("outside of" in note for note in made.notes)


def test_the_dialect_is_part_of_the_recipe_only_where_it_is_set(account: Any) -> None:
    project = account()
    plain = project.recipe()
    assert project.recipe(dialect="method").fingerprint == plain.fingerprint
    assert project.recipe(dialect="hyperparameters").fingerprint != plain.fingerprint


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
