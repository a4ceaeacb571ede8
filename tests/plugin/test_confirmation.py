"""--harness-confirm decides on one candidate, on cases that the choice was not made by."""

from __future__ import annotations

import pytest

SUITE = """
import pytest

pytestmark = pytest.mark.cases("data/demo.jsonl", confirm="data/held.jsonl")


def test_exact(score):
    score.exact()
"""
OTHER = """
import pytest

pytestmark = pytest.mark.cases("data/demo.jsonl")


def test_other(score):
    score.exact(name="other")
"""
GATES = """
[tool.harness.gates]
"demo.exact_match" = { better_by = 0.2 }
"other.other" = { at_least = 0.1 }
"""


@pytest.fixture
def split(project):
    """A project with two candidates, a suite with held-out cases and one without."""
    project.write("evals/test_demo.py", SUITE)
    project.write("evals/test_other.py", OTHER)
    held = [project.row(f"is it {number}", f"h{number}") for number in range(100, 140)]
    project.rows("data/held.jsonl", held)
    project.settings(GATES, base="half", good="right", bad="wrong")
    return project


def test_the_winner_is_confirmed_on_held_out_cases_alone(split, workers):
    run = split.run("--harness-confirm", "good", *workers)
    assert run.status == 0
    assert {name for name, _ in split.calls()} == {"half", "right"}, "no other candidate is asked"
    assert {case["id"] for case in run.results["cases"]} == {f"h{n}" for n in range(100, 140)}
    [exact] = run.results["metrics"]
    assert (exact["n"], exact["verdict"]) == (40, "improved")
    told = " ".join(run.text.split())
    assert "confirmation of good on the held-out cases of demo" in told


def test_a_candidate_that_is_not_confirmed_fails(split):
    run = split.run("--harness-confirm", "bad")
    assert run.status == 1


def test_without_the_option_held_out_cases_are_not_asked(split):
    split.run()
    assert not any(
        "is it 1" in m[-1]["content"] and len(m[-1]["content"]) > 8
        for _, m in split.conversations()
    )


def test_an_unknown_candidate_is_a_mistake(split):
    run = split.run("--harness-confirm", "godo")
    assert run.status == 4
    assert "there is no candidate 'godo' in tool.harness.candidates: good, bad" in run.text
    assert split.calls() == []


def test_a_project_without_held_out_cases_is_told_how_to_name_them(project):
    project.settings(base="half", cand="right")
    run = project.run("--harness-confirm", "cand")
    assert run.status == 4
    assert "--harness-confirm: no suite has held-out cases" in run.text


def test_a_case_on_both_sides_is_refused_with_both_places(split):
    split.rows("data/held.jsonl", [split.row("is\u00a0it 3\u200b", "h3")])
    run = split.run()
    assert run.status == 4
    assert "data/held.jsonl:1: this case stands at data/demo.jsonl:4 too" in run.text
    assert split.calls() == []
