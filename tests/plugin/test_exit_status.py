"""What a run ends with: 0 passed, 1 a gate failed, 6 undecidable, 4 a mistake of the user."""

from __future__ import annotations

import json

import pytest

EXACT_90 = '[tool.harness.gates]\n"demo.exact_match" = { at_least = 0.9 }\n'
BROKEN = """
import pytest

pytestmark = pytest.mark.cases("data/demo.jsonl")


@pytest.fixture
def room(case, model):
    if (case.id, model.name) == ("c7", "cand"):
        raise OSError("no room")


def test_exact(score, case, model, room):
    score.exact()
    if (case.id, model.name) == ("c5", "cand"):
        1 / 0
"""


def test_gates_that_pass_end_with_0(project, workers):
    project.settings(EXACT_90, base="half", cand="right")
    run = project.run(*workers, "--junit-xml=junit.xml")
    assert run.status == 0
    assert run.results["verdict"] == "pass"
    assert run.verdicts == {"demo.exact_match[cand]": "passed"}
    assert project.gates() == {"demo.exact_match[cand]": "passed"}
    assert run.text.count("PASS: ") == 1
    folder = project.root / "reports" / run.results["run_id"]
    assert {file.name for file in folder.iterdir()} == {"index.html", "results.json", "summary.md"}


def test_a_failed_gate_ends_with_1_and_stands_in_junit_but_not_in_last_failed(project, workers):
    project.write(
        "evals/test_demo.py",
        'import pytest\n\npytestmark = pytest.mark.cases("data/demo.jsonl")\n\n'
        "def test_exact(score):\n    score.exact()\n\n"
        "def test_says_something(reply):\n    assert reply.text\n",
    )
    project.settings(base="half", cand="wrong")
    run = project.run(*workers, "--junit-xml=junit.xml")
    assert run.status == 1
    assert run.results["verdict"] == "fail"
    assert project.gates() == {
        "demo.exact_match[cand]": "failure",
        "demo.says_something[cand]": "passed",
    }
    assert "FAILED gates::demo.exact_match[cand]" in run.text
    assert run.counts["failed"] == 1
    remembered = project.root / ".pytest_cache/v/cache/lastfailed"
    assert not remembered.exists() or json.loads(remembered.read_text()) == {}
    if not workers:
        again = project.run("--lf")
        assert again.status == 1, "nothing is remembered, so everything runs and is gated"
        assert again.verdicts == run.verdicts


def test_gates_decide_without_a_terminal(project):
    project.settings(base="half", cand="wrong")
    run = project.run("-p", "no:terminal", "--junit-xml=junit.xml")
    assert run.status == 1
    assert project.gates() == {"demo.exact_match[cand]": "failure"}


def test_whatever_has_no_score_is_undecidable_even_beside_a_failed_gate(project, workers):
    """Errors of a test function, of a user's fixture and of a model."""
    project.write("evals/test_demo.py", BROKEN)
    project.settings(EXACT_90, base="half", cand="right", worse="wrong", lost="unreachable_at_3")
    run = project.run(*workers, "--junit-xml=junit.xml")
    assert run.status == 6
    assert (run.counts["failed"], run.counts["skipped"]) == (2, 1), "a gate fails, and an item"
    assert "FAILED evals/test_demo.py::test_exact[c5-cand] - ZeroDivisionError" in run.text
    assert project.gates()["demo.exact_match[worse]"] == "failure"
    assert project.gates()["demo.exact_match[lost]"] == "error"
    errors = " / ".join(run.results["errors"])
    assert "lost: 1 of its requests have no reply, first demo:c3" in errors
    assert "no route to the model" in errors
    assert "demo.test_exact under cand: 2 cases have no score" in errors
    assert "ZeroDivisionError: division by zero" in errors or "OSError: no room" in errors
    if not workers:
        project.write("evals/test_demo.py", BROKEN.replace("1 / 0", "pass"))
        again = project.run("--lf")
        assert again.status == 6
        assert "gates not evaluated" in again.text, "it ran what failed and nothing else"


def test_unit_tests_beside_the_suites_fail_the_run_and_no_gate(project):
    project.write("tests/test_unit.py", "def test_unit():\n    assert 1 == 2\n")
    project.settings(EXACT_90, base="half", cand="right")
    run = project.run()
    assert run.status == 1
    assert run.verdicts == {"demo.exact_match[cand]": "passed"}
    without = project.run("-k", "not unit")
    assert without.status == 0, "to leave them out leaves no case out"


def test_stopping_at_the_first_failure_evaluates_no_gate(project):
    project.write("evals/test_demo.py", BROKEN)
    project.write("evals/test_other.py", BROKEN.replace("1 / 0", "pass"))
    other = EXACT_90.replace("demo", "other")
    project.settings(other, base="half", cand="right")
    run = project.run("-x")
    assert run.status == 6
    assert "gates not evaluated" in run.text


PARTS = {
    "keyword": ("-k", "c1-"),
    "keyword, two workers": ("-k", "c1-", "-n", "2"),
    "one item": ("evals/test_demo.py::test_exact[c1-cand]",),
}


@pytest.mark.parametrize("arguments", PARTS.values(), ids=PARTS)
def test_a_part_of_the_suites_evaluates_no_gate(project, arguments):
    project.settings(EXACT_90, base="half", cand="wrong")
    run = project.run(*arguments)
    assert run.status == 6
    assert "gates not evaluated" in run.text
    assert "demo (cand): 1" in run.text, "it names what was recorded"
    assert all(metric["verdict"] is None for metric in run.results["metrics"])


def test_one_file_is_a_part_unless_the_settings_name_it(project):
    project.settings(EXACT_90, base="half", cand="right")
    run = project.run("test_demo.py", folder="evals")
    assert run.status == 6
    assert "gates not evaluated" in run.text
    toml = (project.root / "pyproject.toml").read_text()
    project.write("pyproject.toml", f'{toml}testpaths = ["evals/test_demo.py"]\n')
    assert project.run().status == 0


def test_nothing_selected_stays_5(project, workers):
    project.settings(EXACT_90, base="half", cand="right")
    run = project.run(*workers, "-k", "nothing_at_all")
    assert run.status == 5
    assert project.calls() == []
    assert run.results == {}


def test_looking_decides_and_asks_nothing(project):
    project.settings(EXACT_90, base="half", cand="wrong")
    for options in (["--collect-only"], ["--harness-plan", "-p", "no:terminal"]):
        run = project.run(*options)
        assert run.status == 0, options
        assert run.results == {}
    assert project.calls() == []
    assert not (project.root / ".harness/store.sqlite").exists()


def test_a_plan_refuses_workers(project):
    project.settings(base="half", cand="right")
    run = project.run("--harness-plan", "-n", "2")
    assert run.status == 4
    assert "--harness-plan needs no workers" in run.text


def test_a_file_that_cannot_be_collected_asks_nothing(project, workers):
    project.write("evals/test_broken.py", "import nothing_of_this_name\n")
    project.settings(EXACT_90, base="half", cand="right")
    run = project.run(*workers, "--tb=no")
    assert run.status == (6 if workers else 2), "xdist goes on with what it could collect"
    assert project.calls() == []
    assert not run.results or run.results["verdict"] == "undecidable"


def test_without_a_candidate_absolute_gates_apply_to_the_base(project):
    project.settings(EXACT_90, base="half")
    run = project.run()
    assert run.status == 1
    assert run.verdicts == {"demo.exact_match[base]": "failed"}
    assert run.counts == {"passed": 24, "failed": 1}
