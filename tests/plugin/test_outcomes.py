"""A reply, a model's failure, an infrastructure error: three outcomes and never two."""

from __future__ import annotations

import pytest

MODELS = """
def _number(messages):
    return int("".join(c for c in messages[-1]["content"] if c.isdigit()))


def _some(messages, odd):
    return odd if _number(messages) < 4 else "yes"


def empty(messages):
    return _some(messages, "  ")


def refused(messages):
    with open("refused.log", "a") as log:
        log.write("x")
    return _some(messages, {"text": "yes", "finish_reason": "content_filter"})


def truncated(messages):
    return _some(messages, {"text": "yes", "finish_reason": "length"})


def once_empty(messages):
    return "" if _number(messages) == 3 else "yes"
"""
SUITE = """
import pytest

pytestmark = pytest.mark.cases("data/demo.jsonl")


def test_exact(score):
    score.exact()


def test_never_says_no(reply):
    assert "no" not in reply.text


def test_first_word(reply, score):
    score.record("speaks", reply.text.split()[0] == "yes")
"""


@pytest.fixture
def odd(project):
    project.write("odd.py", MODELS)
    project.write("evals/test_demo.py", SUITE)
    return project


def _settings(project, model):
    project.settings(
        f'[tool.harness.candidates.cand]\nmodel = "python:odd:{model}"\n', base="right"
    )


@pytest.mark.parametrize("kind", ["empty", "refused"])
def test_a_model_that_fails_scores_0_and_is_no_error(odd, kind):
    _settings(odd, kind)
    run = odd.run()
    assert run.results["errors"] == []
    assert run.status == 0, "four of 24 may be chance"
    for metric in ("demo.exact_match", "demo.never_says_no", "demo.speaks"):
        found = run.metric(metric)
        assert (found["candidate_mean"], found["losses"]) == (20 / 24, 4), metric
        assert (found["missing"], found["unscored"]) == (0, 0)
    usage = run.results["usage"]["cand"]
    assert usage[kind] == 4
    assert usage["truncated"] == 0


def test_a_truncated_reply_is_scored_as_it_stands_and_counted(odd):
    _settings(odd, "truncated")
    run = odd.run()
    assert run.status == 0
    assert run.metric("demo.exact_match")["candidate_mean"] == 1
    assert run.results["usage"]["cand"]["truncated"] == 4


def test_many_replies_that_fall_short_raise_an_alarm_everywhere(odd):
    _settings(odd, "truncated")
    run = odd.run()
    [alarm] = run.results["alarms"]
    assert alarm.startswith("cand: 4 of 24 replies (17%) fall short (4 truncated): raise max_token")
    assert "ALARM: cand: 4 of 24 replies" in run.text
    reports = odd.root / "reports" / run.results["run_id"]
    assert "**⚠️ Alarm**\n\n- cand: 4 of 24 replies" in (reports / "summary.md").read_text("utf-8")
    assert 'class="alarm"' in (reports / "index.html").read_text()


def test_one_reply_in_twenty_that_falls_short_raises_no_alarm(odd):
    _settings(odd, "once_empty")
    run = odd.run()
    assert run.results["usage"]["cand"]["empty"] == 1
    assert run.results["alarms"] == []


def test_a_refused_reply_is_asked_once_in_a_run_and_again_in_the_next(odd, workers):
    _settings(odd, "refused")
    odd.run(*workers)
    log = odd.root / "refused.log"
    assert len(log.read_text()) == 24
    odd.run(*workers)
    assert len(log.read_text()) == 24 + 4


def test_a_reply_that_never_came_is_asked_once_in_a_run_and_again_in_the_next(odd, workers):
    odd.settings(base="right", cand="unreachable_at_3")
    for _ in range(2):
        assert odd.run(*workers).status == 6
    assert odd.calls().count(("unreachable_at_3", "is it 3")) == 2
