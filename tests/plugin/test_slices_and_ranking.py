"""Where a difference comes from, and how several candidates stand among each other."""

from __future__ import annotations

FIELDS = """
import pytest

pytestmark = pytest.mark.cases("data/demo.jsonl")


def test_answer(score):
    score.fields()
"""
STUBS = """
import json


def good(messages):
    return json.dumps({"kind": "a", "size": 1})


def bad(messages):
    number = int("".join(c for c in messages[-1]["content"] if c.isdigit()))
    return json.dumps({"kind": "a", "size": 2 if number % 2 else 1})
"""


def _tagged_questions(project, count: int) -> None:
    rows = project.questions(count)
    for number, row in enumerate(rows):
        row["tags"] = ["odd" if number % 2 else "even"]
    project.rows("data/demo.jsonl", rows)


def test_a_drop_is_traced_to_the_tag_it_comes_from(project, workers):
    _tagged_questions(project, 40)
    project.settings(base="right", cand="half")
    run = project.run(*workers)
    found = {(one["kind"], one["name"]): one for one in run.results["slices"]}
    assert set(found) == {("tag", "odd"), ("tag", "even")}
    assert (found["tag", "even"]["n"], found["tag", "even"]["difference"]) == (20, -1.0)
    assert found["tag", "even"]["q"] < 0.001 < 0.5 < found["tag", "odd"]["q"]
    told = " ".join(run.text.split())
    assert "exploratory: demo.exact_match with the tag even: 1.00 -> 0.00 on 20 cases" in told
    assert "with the tag odd" not in told, "nothing stands out there"


def test_a_drop_is_traced_to_the_field_it_comes_from(project):
    project.write("evals/test_demo.py", FIELDS)
    project.write("json_models.py", STUBS)
    rows = project.questions(40)
    for row in rows:
        row["messages"][-1]["content"] = '{"kind": "a", "size": 1}'
    project.rows("data/demo.jsonl", rows)
    project.settings(
        '[tool.harness.candidates.cand]\nmodel = "python:json_models:bad"\n',
        base="python:json_models:good",
    )
    run = project.run()
    found = {one["name"]: one["difference"] for one in run.results["slices"]}
    assert found == {"kind": 0.0, "size": -0.5}
    assert "demo.field_accuracy in the field size: 1.00 -> 0.50" in " ".join(run.text.split())


def test_slices_never_decide(project):
    _tagged_questions(project, 40)
    gates = "[tool.harness.gates]\nexact_match = { at_least = 0.4 }\n"
    project.settings(gates, base="right", cand="half")
    run = project.run("--junit-xml=junit.xml")
    assert run.status == 0
    assert set(project.gates()) == {"demo.exact_match[cand]"}


def test_candidates_are_ranked_as_far_as_it_can_be_told(project, workers):
    _tagged_questions(project, 60)
    project.settings(base="wrong", good="right", fair="half", other="other_half")
    run = project.run(*workers)
    assert [(one["candidate"], one["ahead_of"]) for one in run.results["ranking"]] == [
        ("good", ["fair", "other"]),
        ("fair", []),
        ("other", []),
    ]
    told = " ".join(run.text.split())
    assert "demo.exact_match: good 1.00 (ahead of fair and other), fair 0.50, other 0.50" in told
    assert "none is shown to be the best" not in told


def test_no_winner_is_named_where_none_is_shown(project):
    project.settings(base="wrong", fair="half", other="other_half")
    run = project.run()
    assert "fair 0.50, other 0.50; none is shown to be the best" in " ".join(run.text.split())


def test_a_single_candidate_has_no_ranking(project):
    project.settings(base="wrong", cand="right")
    assert project.run().results["ranking"] == []
