"""What a run ends with: 0 passed, 1 a gate failed, 6 undecidable, 4 a mistake of the user."""

from __future__ import annotations

import json

import pytest

DIVIDES = """
import pytest

pytestmark = pytest.mark.cases("data/demo.jsonl")


def test_exact(score, case, model):
    score.exact()
    if case.id == "c3" and model.name == "cand":
        1 / 0
"""
EXACT_90 = '[tool.harness.gates]\n"demo.exact_match" = { at_least = 0.9 }\n'


def test_gates_that_pass_end_with_0(project, workers):
    project.settings(EXACT_90, base="half", cand="right")
    run = project.run(*workers, "--junit-xml=junit.xml")
    assert run.status == 0
    assert (run.results["verdict"], run.results["exit_status"]) == ("pass", 0)
    assert run.verdicts == {"demo.exact_match[cand]": "passed"}
    assert project.gates() == {"demo.exact_match[cand]": "passed"}
    assert run.counts["improved"] == 12


def test_a_failed_gate_ends_with_1_and_stands_in_junit(project, workers):
    project.write(
        "evals/test_demo.py",
        'import pytest\n\npytestmark = pytest.mark.cases("data/demo.jsonl")\n\n'
        "def test_exact(score):\n    score.exact()\n\n"
        "def test_says_something(reply):\n    assert reply.text\n",
    )
    project.settings(base="half", cand="wrong")
    run = project.run(*workers, "--junit-xml=junit.xml")
    assert run.status == 1
    assert (run.results["verdict"], run.results["exit_status"]) == ("fail", 1)
    assert project.gates() == {
        "demo.exact_match[cand]": "failure",
        "demo.says_something[cand]": "passed",
    }
    assert "FAILED gates::demo.exact_match[cand]" in run.text
    assert run.counts["failed"] == 1

    remembered = project.root / ".pytest_cache/v/cache/lastfailed"
    assert not remembered.exists() or json.loads(remembered.read_text()) == {}


def test_gates_decide_without_a_terminal(project, workers):
    project.settings(base="half", cand="wrong")
    run = project.run(*workers, "-p", "no:terminal", "--junit-xml=junit.xml")
    assert run.status == 1
    assert run.text.strip() == "" or "[harness]" in run.text
    assert project.gates() == {"demo.exact_match[cand]": "failure"}


def test_last_failed_runs_everything_after_a_failed_gate(project):
    project.settings(base="half", cand="wrong")
    assert project.run().status == 1
    again = project.run("--lf")
    assert again.status == 1
    assert again.counts["failed"] == 1
    assert again.verdicts == {"demo.exact_match[cand]": "regressed"}


def test_an_error_in_a_test_function_is_undecidable(project, workers):
    project.write("evals/test_demo.py", DIVIDES)
    project.settings(EXACT_90, base="half", cand="right")
    run = project.run(*workers)
    assert run.status == 6
    assert (run.results["verdict"], run.results["exit_status"]) == ("undecidable", 6)
    assert run.counts["failed"] == 1
    [error] = run.results["errors"]
    assert "demo.test_exact" in error
    assert "cand" in error
    assert "c3" in error
    assert "ZeroDivisionError" in error


def test_last_failed_after_an_error_is_a_part_of_the_suites(project):
    project.write("evals/test_demo.py", DIVIDES)
    project.rows("data/more.jsonl", [{"messages": [{"role": "user", "content": "is it 1"}]}])
    project.write(
        "evals/test_more.py",
        'import pytest\n\npytestmark = pytest.mark.cases("data/more.jsonl")\n\n'
        "def test_says_something(reply):\n    assert reply.text\n",
    )
    project.settings(base="half", cand="right")
    assert project.run().status == 6
    project.write("evals/test_demo.py", DIVIDES.replace("1 / 0", "pass"))
    again = project.run("--lf")
    assert again.status == 6
    assert "gates not evaluated" in again.text
    assert project.run("--lf").status == 0, "nothing failed last time, so everything runs"


def test_an_error_in_a_users_fixture_is_undecidable(project):
    project.write(
        "evals/test_demo.py",
        """
import pytest

pytestmark = pytest.mark.cases("data/demo.jsonl")


@pytest.fixture
def room():
    raise OSError("no room")


def test_exact(room, score):
    score.exact()
""",
    )
    project.settings(base="half", cand="right")
    run = project.run()
    assert run.status == 6
    assert "no room" in run.results["errors"][0]


def test_a_model_that_cannot_be_reached_is_undecidable(project, workers):
    project.settings(base="half", cand="unreachable_at_3")
    run = project.run(*workers)
    assert run.status == 6
    assert run.results["verdict"] == "undecidable"
    assert run.counts["skipped"] == 1
    assert any("no route to the model" in error and "c3" in error for error in run.results["errors"])


def test_undecidable_counts_more_than_failed(project):
    project.write("evals/test_demo.py", DIVIDES)
    project.write("tests/test_unit.py", "def test_unit():\n    assert 1 == 2\n")
    project.settings(EXACT_90, base="half", cand="wrong")
    assert project.run().status == 6


def test_a_failing_unit_test_beside_passing_gates_ends_with_1(project):
    project.write("tests/test_unit.py", "def test_unit():\n    assert 1 == 2\n")
    project.settings(EXACT_90, base="half", cand="right")
    run = project.run()
    assert run.status == 1
    assert run.results["exit_status"] == 1
    assert run.verdicts == {"demo.exact_match[cand]": "passed"}


def test_stopping_at_the_first_failure_evaluates_no_gate(project):
    project.write("evals/test_demo.py", DIVIDES)
    project.write("evals/test_other.py", DIVIDES.replace("1 / 0", "pass"))
    project.settings('[tool.harness.gates]\n"other.exact_match" = { at_least = 0.9 }\n', cand="right")
    run = project.run("-x")
    assert run.status == 6
    assert "gates not evaluated" in run.text


PARTS = {
    "keyword": ("-k", "c1-"),
    "keyword with workers": ("-k", "c1-", "-n", "2"),
    "file": ("evals/test_demo.py",),
    "one item": ("evals/test_demo.py::test_exact[c1-cand]",),
    "deselected": ("--deselect", "evals/test_demo.py::test_exact[c1-cand]"),
}


@pytest.mark.parametrize("arguments", PARTS.values(), ids=PARTS)
def test_a_part_of_the_suites_evaluates_no_gate(project, arguments):
    project.settings(EXACT_90, base="half", cand="wrong")
    run = project.run(*arguments)
    assert run.status == 6
    assert run.results["exit_status"] == 6
    assert "gates not evaluated" in run.text
    assert "demo (cand)" in run.text, "it names what was recorded"
    assert all(metric["verdict"] is None for metric in run.results["metrics"])


def test_a_file_named_from_its_folder_is_a_part(project):
    project.settings(EXACT_90, base="half", cand="right")
    run = project.run("test_demo.py", folder="evals")
    assert run.status == 6
    assert "gates not evaluated" in run.text
    assert project.run(folder="evals").status == 0


def test_test_paths_in_the_settings_are_the_whole(project):
    project.settings(EXACT_90, base="half", cand="right")
    toml = (project.root / "pyproject.toml").read_text()
    project.write("pyproject.toml", f'{toml}testpaths = ["evals/test_demo.py"]\n')
    assert project.run().status == 0


def test_deselecting_unit_tests_leaves_the_gates_alone(project):
    project.write("tests/test_unit.py", "def test_unit():\n    assert 1 == 2\n")
    project.settings(EXACT_90, base="half", cand="right")
    assert project.run("-k", "not unit").status == 0


def test_nothing_selected_stays_5(project, workers):
    project.settings(EXACT_90, base="half", cand="right")
    run = project.run(*workers, "-k", "nothing_at_all")
    assert run.status == 5
    assert project.calls() == []
    assert run.results == {}


def test_looking_decides_nothing(project):
    project.settings(EXACT_90, base="half", cand="wrong")
    for option in ("--collect-only", "--harness-plan"):
        run = project.run(option)
        assert run.status == 0, option
        assert run.results == {}
    assert project.run("--harness-plan", "-p", "no:terminal").status == 0
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
    assert run.counts["passed"] == 24
