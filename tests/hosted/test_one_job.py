"""Never two jobs for one recipe, whatever goes wrong; and always back to the one there is."""

from __future__ import annotations

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from trainers import hosted
from trainers.ledger import Entry, Ledger
from trainers.service import Service


def test_a_job_is_made_followed_and_kept_as_a_candidate(account: Any) -> None:
    project = account()
    made = project.train(project.recipe()).candidates["cand"]
    assert made.model == "ft:base-1:org:cand:ftjob-0"
    assert not made.cached
    assert made.steps == 12
    assert made.started
    again = project.train(project.recipe()).candidates["cand"]
    assert again.cached
    assert len(project.service.jobs) == 1
    assert project.service.calls["upload"] == 1


def test_the_job_says_what_is_trained(account: Any) -> None:
    project = account()
    project.write([{"messages": row["messages"]} for row in rows(4)], "validation.jsonl")
    recipe = project.recipe(
        epochs=2, batch_size="auto", learning_rate_multiplier=0.5, seed=7, suffix="mine",
        validation="validation.jsonl",
    )  # fmt: skip
    project.train(recipe)
    [job] = project.service.jobs.values()
    body = job["body"]
    assert body["model"] == "base-1"
    assert body["method"] == {
        "type": "supervised",
        "supervised": {
            "hyperparameters": {
                "n_epochs": 2,
                "batch_size": "auto",
                "learning_rate_multiplier": 0.5,
            }
        },
    }
    assert (body["seed"], body["suffix"]) == (7, "mine")
    assert list(body["metadata"].values()) == [recipe.job_fingerprint]
    uploaded = project.service.files[body["training_file"]].decode().splitlines()
    assert len(uploaded) == 12
    assert not any("tags" in line or '"id"' in line for line in uploaded)
    assert len(project.service.files[body["validation_file"]].splitlines()) == 4


def rows(count: int) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"and {n}"},
                {"role": "assistant", "content": "no"},
            ]
        }
        for n in range(count)
    ]


@pytest.mark.parametrize("fault", ["500 after", "drop after", "garbage", "429 after"])
def test_a_job_that_was_made_although_its_answer_got_lost_is_found(
    account: Any, fault: str
) -> None:
    project = account()
    project.service.faults["create"] = [fault]
    assert project.train(project.recipe()).failed == {}
    assert len(project.service.jobs) == 1


@pytest.mark.parametrize("fault", ["500", "429", "409"])
def test_a_job_that_was_not_made_is_asked_for_again(account: Any, fault: str) -> None:
    """The list shows that the service keeps metadata, and none of this recipe."""
    project = account()
    project.train(project.recipe(seed=1))
    project.service.faults["create"] = [fault]
    assert project.train(project.recipe()).failed == {}
    assert len(project.service.jobs) == 2
    assert project.service.calls["create"] == 3


def test_a_service_that_never_makes_the_job_is_told_and_not_asked_for_ever(account: Any) -> None:
    project = account()
    project.service.faults["create"] = ["429"] * 9
    failed = project.train(project.recipe()).failed["cand"]
    assert "could not begin: the server answered 429: told to say 429" in failed
    assert project.service.calls["create"] == 3


def test_a_refused_job_is_told_in_the_services_words(account: Any) -> None:
    project = account()
    project.service.faults["create"] = ["400"]
    failed = project.train(project.recipe()).failed["cand"]
    assert "the server answered 400: told to say 400" in failed
    assert project.service.calls["create"] == 1
    assert project.train(project.recipe()).failed == {}


def test_a_job_of_another_machine_is_joined(account: Any) -> None:
    project = account()
    first = project.train(project.recipe()).candidates["cand"]
    shutil.rmtree(project.home)
    second = project.train(project.recipe())
    assert second.candidates["cand"].model == first.model
    assert len(project.service.jobs) == 1
    assert second.cost_usd == 0
    assert project.service.calls["upload"] == 1


def test_a_job_that_a_killed_run_asked_for_is_waited_for_before_another(account: Any) -> None:
    """The request was on its way when the run was killed: the job shows up a little later."""
    project, recipe = account(), None
    recipe = project.recipe()
    project.service.files["file-0"] = b""
    Ledger(project.home).remember(recipe, Entry(time.time(), "", "file-0"))
    late = {
        "model": "base-1",
        "training_file": "file-0",
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": "auto"}}},
        "metadata": {"pytest_finetune_recipe": recipe.job_fingerprint},
    }
    arrives = threading.Timer(0.4, lambda: project.service._create(late))
    arrives.start()
    assert project.train(recipe).failed == {}
    assert len(project.service.jobs) == 1
    assert project.service.calls["create"] == 0


def test_processes_that_ask_at_once_make_one_job(account: Any) -> None:
    project = account()
    project.service.watch = lambda: time.sleep(0.02)

    def submit(_: int) -> str:
        recipe = project.recipe()
        with Service(recipe.base) as service:
            return hosted.submit(recipe, project.home, service)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(submit, range(4))) == ["ftjob-0"] * 4


def test_a_service_that_fails_and_restarts_in_the_middle_of_a_job_is_outlasted(
    account: Any,
) -> None:
    project = account(job_s=0.1)
    project.train(project.recipe(seed=1))
    project.service.storm, project.service.job_s = 0.3, 1.0
    away = threading.Timer(0.5, lambda: (project.service.stop(), time.sleep(0.3)))
    back = threading.Timer(1.0, project.service.start)
    for timer in (away, back):
        timer.start()
    made = project.train(project.recipe())
    for timer in (away, back):
        timer.join()
    assert made.failed == {}
    assert made.candidates["cand"].losses
    assert len(project.service.jobs) == 2


def test_a_recipe_that_differs_is_another_job_and_a_name_is_no_difference(account: Any) -> None:
    project = account()
    first = project.recipe()
    assert project.recipe(suffix="other").fingerprint == first.fingerprint
    others = [
        project.recipe(epochs=2),
        project.recipe(seed=1),
        project.recipe("base-2"),
        project.recipe(batch_size=2),
        project.recipe(learning_rate_multiplier=2.0),
    ]
    assert len({recipe.fingerprint for recipe in (first, *others)}) == 6
    project.write(rows(11))
    assert project.recipe().fingerprint != first.fingerprint


def test_an_upload_is_used_again_while_it_is_there(account: Any) -> None:
    project = account()
    project.train(project.recipe())
    project.train(project.recipe(seed=1))
    assert project.service.calls["upload"] == 1
    project.service.files.clear()
    assert project.train(project.recipe(seed=2)).failed == {}
    assert project.service.calls["upload"] == 2
