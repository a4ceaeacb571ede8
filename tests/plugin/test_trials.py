"""--harness-trials asks every case several times; --harness-aa compares a model with itself."""

from __future__ import annotations

import pytest


def test_each_case_is_asked_once_per_trial_and_its_scores_are_averaged(project, workers):
    project.settings(base="moody", cand="right")
    run = project.run("--harness-trials", "2", *workers)
    assert len(project.calls()) == 24 * 2 * 2
    exact = run.metric("demo.exact_match")
    assert (exact["n"], exact["trials"]) == (24, 2)
    assert exact["baseline_mean"] == pytest.approx((8 + 16 / 2) / 24)
    assert (exact["wins"], exact["losses"]) == (16, 0)
    assert run.results["usage"]["base"]["requests"] == 48
    assert len(run.results["cases"]) == 24


def test_the_plan_counts_every_trial(project):
    project.settings(base="half", cand="right")
    plan = project.run("--harness-plan", "--harness-trials", "3")
    assert "requests to base: 72" in plan.text
    assert "requests in all: 144" in plan.text
    assert project.calls() == []


def test_more_trials_keep_the_replies_of_the_first(project):
    project.settings(base="half", cand="right")
    project.run()
    project.forget_calls()
    project.run("--harness-trials", "2")
    assert len(project.calls()) == 24 * 2


@pytest.mark.parametrize("count", ["0", "-1", "two"])
def test_a_number_of_trials_that_is_none_is_refused(project, count):
    project.settings(base="half", cand="right")
    run = project.run(f"--harness-trials={count}")
    assert run.status == 4
    assert f"{count!r} is no whole number from 1 on" in run.text
    assert project.calls() == []


def test_a_model_compared_with_itself_shows_how_many_cases_flip(project, workers):
    rules = "[tool.harness.gates]\nexact_match = { better_by = 0.5 }\n"
    project.settings(rules, base="moody", cand="wrong")
    run = project.run("--harness-aa", *workers)
    assert {name for name, _ in project.calls()} == {"moody"}, "no candidate takes part"
    assert len(project.calls()) == 48
    assert [model["name"] for model in run.results["models"]] == ["base", "base-again"]
    exact = run.metric("demo.exact_match")
    assert exact["wins"] + exact["losses"] == 16
    assert exact["rule"] == "must not regress", "the project's own rules are of its candidates"
    told = " ".join(run.text.split())
    assert "the same model differs from itself on 16 of 24 cases (66.7 %)" in told


def test_a_steady_model_compared_with_itself_passes(project):
    project.settings(base="half")
    run = project.run("--harness-aa")
    assert run.status == 0
    assert "differs from itself on 0 of 24 cases (0.0 %)" in " ".join(run.text.split())


def test_a_model_compared_with_itself_gets_the_same_examples(project):
    project.rows("data/shots.jsonl", [project.row("is it 99", "shot")])
    project.write(
        "evals/test_demo.py",
        "import pytest\n\n"
        'pytestmark = pytest.mark.cases("data/demo.jsonl", few_shot="data/shots.jsonl")\n\n\n'
        "def test_exact(score):\n    score.exact()\n",
    )
    project.settings(base="by_shots")
    run = project.run("--harness-aa")
    exact = run.metric("demo.exact_match")
    assert (exact["baseline_mean"], exact["candidate_mean"]) == (1.0, 1.0)
