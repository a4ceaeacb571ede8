"""What a run asks: each request once, and never what is known."""

from __future__ import annotations

import re
from collections import Counter

EXACT = '[tool.harness.gates]\n"demo.exact_match" = {{ at_least = {} }}\n'
SUITE = """
import pytest

pytestmark = pytest.mark.cases("data/demo.jsonl")


def test_exact(score):
    score.exact(ignore_case=IGNORE)


def test_twice(reply):
    assert reply.text
"""


def _asked_by(project):
    return dict(Counter(name for name, _ in project.calls()))


def _planned(run):
    found = (re.match(r"requests to (.+): (\d+)$", line) for line in run.lines)
    return {match[1]: int(match[2]) for match in found if match}


def _in_all(run):
    [line] = [line for line in run.lines if line.startswith("requests in all: ")]
    return int(line.rpartition(" ")[2])


def test_a_second_run_asks_nothing_and_an_edited_case_only_itself(project):
    project.settings(EXACT.format(0.9), base="half", cand="right")
    first = project.run()
    assert _asked_by(project) == {"half": 24, "right": 24}
    project.forget_calls()
    second = project.run()
    assert project.calls() == []
    assert second.status == first.status == 0
    assert second.results["run_id"] != first.results["run_id"]
    assert second.results["metrics"] == first.results["metrics"]
    assert second.results["cases"] == first.results["cases"]
    usage = second.results["usage"]
    assert {(name, u["requests"], u["cached"]) for name, u in usage.items()} == {
        ("base", 24, 24),
        ("cand", 24, 24),
    }

    edited = (project.root / "data/demo.jsonl").read_text().replace("is it 7", "could it be 7")
    project.write("data/demo.jsonl", edited)
    assert project.run().status == 0
    assert sorted(project.calls()) == [("half", "could it be 7"), ("right", "could it be 7")]

    project.forget_calls()
    project.write("data/demo.jsonl", edited.replace('"content": "yes"', '"content": "no"', 1))
    changed = project.run()
    assert project.calls() == [], "another expected answer asks nothing"
    assert changed.metric("demo.exact_match")["candidate_mean"] == 23 / 24


def test_editing_a_check_or_a_gate_asks_nothing_and_changes_the_verdict(project):
    rows = (project.root / "data/demo.jsonl").read_text()
    project.write("data/demo.jsonl", rows.replace('"content": "yes"', '"content": "Yes"'))
    project.write("evals/test_demo.py", SUITE.replace("IGNORE", "False"))
    project.settings(EXACT.format(0.9), base="half", cand="right")
    assert project.run().status == 1
    assert _asked_by(project) == {"half": 24, "right": 24}, "two tests share a reply"

    project.forget_calls()
    project.write("evals/test_demo.py", SUITE.replace("IGNORE", "True"))
    assert project.run().status == 0
    project.settings(EXACT.format(0.9), base="half", cand="right", same="half")
    assert project.run().status == 1
    assert project.calls() == [], "the base under another name is no other model"


def test_two_workers_ask_each_request_once(project):
    """Also where the second comes while the first is still asking."""
    project.write(
        "conftest.py",
        "import os\nfrom pathlib import Path\n\n\n"
        "def pytest_collection_finish(session):\n"
        "    if worker := os.environ.get('PYTEST_XDIST_WORKER'):\n"
        "        Path(f'begun-{worker}').touch()\n",
    )
    project.rows("data/demo.jsonl", project.questions(8))
    project.settings(base="half", cand="slow")
    run = project.run("-n", "2")
    assert run.status == 0
    assert set(Counter(project.calls()).values()) == {1}
    assert _asked_by(project) == {"half": 8, "slow": 8}
    usage = run.results["usage"]
    assert {(name, u["requests"], u["cached"]) for name, u in usage.items()} == {
        ("base", 8, 0),
        ("cand", 8, 0),
    }


def test_the_plan_counts_what_the_run_asks(project):
    """Prompts that occur twice count once; few-shot prompts and their choice count too."""
    rows = [
        project.row("is it 1", "a"),
        project.row("is it 1", "b"),
        *(project.row(f"is it {n}") for n in range(2, 9)),
    ]
    project.rows("data/demo.jsonl", rows)
    project.rows(
        "data/few.jsonl", [project.row("for 91"), project.row("for 92"), project.row("for 93")]
    )
    project.rows(
        "data/validation.jsonl",
        [project.row("try 5"), project.row("try 6"), project.row("try 6", "again")],
    )
    project.write(
        "evals/test_demo.py",
        """
import pytest

pytestmark = pytest.mark.cases(
    "data/demo.jsonl",
    few_shot="data/few.jsonl",
    shots=[0, 1, 3],
    validation="data/validation.jsonl",
)


def test_exact(score):
    score.exact()
""",
    )
    project.rows("data/plain.jsonl", [project.row("is it 1"), project.row("is it 77")])
    project.write(
        "evals/test_plain.py",
        'import pytest\n\npytestmark = pytest.mark.cases("data/plain.jsonl")\n\n'
        "def test_exact(score):\n    score.exact()\n",
    )
    project.settings(
        '[tool.harness.candidates.prompted]\nmodel = "prompted"\n'
        '[tool.harness.models.prompted]\nmodel = "python:stub_models:by_prompt"\n'
        'system = "answer yes"\n',
        base="by_shots",
        cand="right",
    )
    plan = project.run("--harness-plan")
    assert plan.status == 0
    assert _planned(plan) == {
        "base": 8 + 2,
        "base (choosing shots)": 3 * 2,
        "cand": 9,
        "prompted": 9,
    }
    run = project.run()
    assert run.status == 0
    usage = run.results["usage"]
    assert {name: one["requests"] for name, one in usage.items()} == _planned(plan)
    assert _in_all(plan) == len(project.calls())
    assert any("sees a drop of" in line or "too few" in line for line in plan.lines)


def test_the_plan_says_what_of_a_recipe_is_not_learnt(project):
    earlier = project.row("was it 1")
    earlier["messages"] += project.row("was it 2")["messages"]
    weightless = project.row("was it 3")
    weightless["messages"][-1]["weight"] = 0
    project.rows("data/train.jsonl", [project.row("was it 4"), earlier, weightless])
    project.settings(
        '[tool.harness.candidates.own]\ntrainer = "lora"\nbase = "bundled:pocket"\n'
        'train = "data/train.jsonl"\n',
        base="right",
    )
    plan = project.run("--harness-plan")
    assert plan.status == 0
    for count in ("1 answers before the last of a row", "1 rows with weight 0 at the end"):
        assert f"candidate own: not learnt: {count}" in plan.lines
