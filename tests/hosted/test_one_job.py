"""Never two jobs for one recipe, whatever goes wrong; and always back to the one there is."""

from __future__ import annotations

from typing import Any

import pytest


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


@pytest.mark.parametrize("fault", ["500 after", "drop after", "garbage", "503 after", "429 after"])
def test_a_job_that_was_made_although_its_answer_got_lost_is_found(
    account: Any, fault: str
) -> None:
    project = account()
    project.service.faults["create"] = [fault]
    made = project.train(project.recipe())
    assert made.failed == {}
    assert len(project.service.jobs) == 1


@pytest.mark.parametrize("fault", ["500", "drop", "429"])
def test_a_job_that_was_not_made_is_asked_for_again(account: Any, fault: str) -> None:
    project = account()
    project.service.faults["create"] = [fault]
    made = project.train(project.recipe())
    assert made.failed == {}
    assert len(project.service.jobs) == 1
    assert project.service.calls["create"] == 2
