"""Candidates that a service trains, in whole runs: what they cost, and that there is one job."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from scripted import Scripted


@pytest.fixture
def service() -> Iterator[Scripted]:
    with Scripted() as running:
        yield running


def settings(
    project: Any, service: Scripted, more: str = "", tables: str = "", keys: str = ""
) -> None:
    """A hosted base and a candidate that is trained on it."""
    project.rows("data/train.jsonl", [project.row(f"was it {n}") for n in range(12)])
    project.pyproject(
        f'[tool.harness]\nbase = "served"\n[tool.harness.models.served]\nmodel = "openai:base-1"\n'
        f'base_url = "{service.url}"\n{keys}\n'
        '[tool.harness.candidates.tuned]\ntrainer = "openai"\ntrain = "data/train.jsonl"\n'
        f"epochs = 2\n{more}\n{tables}"
    )


PRICED = '[tool.harness.prices."openai:base-1"]\ninput = 1.0\noutput = 1.0\ntraining = 1000.0\n'


def test_a_hosted_candidate_is_trained_asked_and_compared(
    project: Any, service: Scripted, workers: tuple[str, ...]
) -> None:
    settings(project, service)
    run = project.run(*workers)
    assert run.status == 0, run.text
    assert len(service.jobs) == 1
    assert run.metric("demo.exact_match")["candidate_mean"] == 1
    assert run.metric("demo.exact_match")["baseline_mean"] == 0
    [training] = run.results["training"]
    assert training["train_loss"] == pytest.approx(0.1667)
    assert training["started"].startswith("20")
    asked = service.calls["chat"]
    again = project.run(*workers)
    assert again.status == 0
    assert again.results["training"][0]["cached"]
    assert service.calls["chat"] == asked
    assert len(service.jobs) == 1


def test_a_job_that_fails_is_started_once_in_a_run_and_is_undecidable(
    project: Any, service: Scripted
) -> None:
    service.statuses = ("running", "failed")
    service.errors = {"failed": {"code": "bad_rows", "message": "row 3 is bad"}}
    settings(project, service)
    run = project.run()
    assert run.status == 6
    assert any("ftjob-0 failed: bad_rows: row 3 is bad" in error for error in run.results["errors"])
    assert len(service.jobs) == 1
    assert service.calls["chat"] == 24  # the base's


def test_a_paid_training_without_a_word_about_money_is_refused(
    project: Any, service: Scripted
) -> None:
    settings(project, service, tables=PRICED)
    run = project.run()
    assert run.status == 4
    [error] = run.errors
    assert "training tuned takes about 240 tokens in 2 epochs (counted by the service)" in error
    assert "for about $0.24; nothing was uploaded: allow it with --harness-max-cost" in error
    assert service.calls["upload"] == service.calls["chat"] == service.calls["create"] == 0


def test_a_limit_covers_training_and_replies_together(project: Any, service: Scripted) -> None:
    settings(project, service, tables=PRICED)
    for limit in ("0.2", "0.241"):  # not the training; not the replies beside it
        run = project.run("--harness-max-cost", limit)
        assert run.status == 4
        assert "--harness-max-cost: " in run.errors[0]
    assert service.calls["upload"] == service.calls["create"] == service.calls["chat"] == 0
    assert project.run("--harness-max-cost", "1").status == 0


def test_a_plan_says_what_training_costs_and_asks_nobody(project: Any, service: Scripted) -> None:
    settings(project, service, tables=PRICED)
    run = project.run("--harness-plan")
    assert run.status == 0
    assert "candidate tuned: openai on openai:base-1; training tuned takes about" in run.text
    assert "(guessed at 4 characters a token)" in run.text
    assert not service.seen
    assert not (project.root / ".harness").exists()


@pytest.mark.parametrize("option", ["--harness-no-train", "--harness-offline"])
def test_a_run_that_may_not_train_asks_no_service(
    project: Any, service: Scripted, option: str
) -> None:
    settings(project, service)
    run = project.run(option)
    assert run.status == 6
    assert any("run: harness train tuned" in error for error in run.results["errors"])
    assert service.calls.keys() <= {"chat"}


def test_a_run_without_the_key_is_undecidable_until_it_replays(
    project: Any, service: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a pull request from a fork, which gets no secrets."""
    settings(project, service, keys='api_key_env = "MY_KEY"\n')
    monkeypatch.delenv("MY_KEY", raising=False)
    run = project.run()
    assert run.status == 6
    assert "set the environment variable MY_KEY" in run.results["errors"][0]
    assert not service.seen
    monkeypatch.setenv("MY_KEY", "sk-for-the-test")
    assert project.run().status == 0
    monkeypatch.delenv("MY_KEY")
    assert project.run().status == 0  # candidate and replies are known


def test_training_data_that_is_a_case_is_refused(project: Any, service: Scripted) -> None:
    settings(project, service)
    project.rows("data/train.jsonl", [project.row(f"is it {n}") for n in range(12)])
    run = project.run()
    assert run.status == 4
    assert "is also the evaluation case" in run.errors[0]
    assert not service.seen


def test_a_local_base_is_refused_for_a_hosted_training(project: Any, service: Scripted) -> None:
    settings(project, service, more='base = "bundled:pocket"')
    assert "trains at the service of an openai: model" in project.run().errors[0]


def test_a_hosted_champion_is_asked_under_its_own_name(project: Any, service: Scripted) -> None:
    settings(project, service)
    assert project.run().status == 0
    assert project.harness("promote", "latest", "tuned")[0] == 0
    project.rows("data/demo.jsonl", project.questions(25))
    run = project.run("--harness-baseline", "champion")
    assert run.status == 0, run.text
    assert run.metric("demo.exact_match")["baseline_mean"] == 1


def test_the_commands_train_and_list(project: Any, service: Scripted) -> None:
    settings(project, service, tables=PRICED)
    status, text = project.harness("train", "tuned")
    assert status == 4
    assert "nothing was uploaded" in text
    status, text = project.harness("train", "tuned", "--max-cost", "1")
    assert status == 0, text
    assert "tuned trained in " in text
    status, text = project.harness("jobs")
    assert text == "tuned: ftjob-0 succeeded: ft:base-1:org:tuned:ftjob-0\n"


def test_hosted_jobs_start_first_and_are_waited_for_last(project: Any, service: Scripted) -> None:
    """The base is asked while the job runs."""
    service.job_s = 3.0
    settings(project, service, tables=PRICED)
    assert project.run("--harness-yes").status == 0
    base = [place for place, route in enumerate(service.seen) if route == "chat"][:24]
    created = service.seen.index("create")
    done = max(place for place, route in enumerate(service.seen) if route == "job")
    assert created < base[0] < base[-1] < done


def test_ctrl_c_leaves_the_job_running_and_says_how_to_come_back(
    project: Any, service: Scripted
) -> None:
    service.job_s = 600
    settings(project, service)
    command = [sys.executable, "-m", "pytest"]
    run = subprocess.Popen(
        command, cwd=project.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 60
    while service.calls["job"] < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    text, _ = run.communicate(timeout=60)
    assert run.returncode == 2, text
    assert "the job ftjob-0 of tuned goes on at its service: run again to rejoin it" in text
    assert not any(job["cancelled"] for job in service.jobs.values())
    service.job_s = 0.1
    assert project.run().status == 0
    assert len(service.jobs) == 1


def test_a_doubt_ends_runs_with_6_until_a_person_settles_it(
    project: Any, service: Scripted
) -> None:
    service.metadata_kept, service.always = False, {"list": "404"}
    service.faults["create"] = ["500 after"]
    settings(project, service)
    for _ in range(2):
        run = project.run()
        assert run.status == 6
        assert any("harness jobs adopt ID tuned" in error for error in run.results["errors"])
    assert "it is not known whether" in project.harness("jobs")[1]
    assert project.harness("jobs", "adopt", "nothing")[0] == 4
    status, text = project.harness("jobs", "adopt", "ftjob-0")
    assert (status, text.startswith("tuned: the job ftjob-0 (")) == (0, True)
    assert project.run().status == 0
    assert project.harness("jobs", "forget")[0] == 4
    assert service.calls["create"] == 1
