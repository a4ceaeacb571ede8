"""A report that cannot be written takes nothing from the verdict, and the run is not green."""

from __future__ import annotations

import pytest

FULL = """
import errno
import pathlib

write_bytes = pathlib.Path.write_bytes


def no_room(path, content):
    if "reports" in path.parts:
        raise OSError(errno.ENOSPC, "No space left on device")
    return write_bytes(path, content)


pathlib.Path.write_bytes = no_room
"""
FOLDERS = {
    "a file": "data/demo.jsonl",
    "too long": "x" * 300,
    "a full disk": "reports",
}


@pytest.mark.parametrize(
    ("folder", "stub"),
    [*((folder, "wrong") for folder in FOLDERS.values()), ("data/demo.jsonl", "right")],
    ids=[*FOLDERS, "gates that pass"],
)
def test_the_verdict_and_junit_stand_without_a_report(project, folder, stub):
    if folder == "reports":
        project.write("conftest.py", FULL)
    project.rows("data/demo.jsonl", project.questions(4))
    project.pyproject(
        f'[tool.harness]\nbase = "python:stub_models:{stub}"\nreports = "{folder}"\n'
        "[tool.harness.gates]\nexact_match = { at_least = 0.9 }\n"
    )
    workers = ("-n", "2") if folder == "reports" else ()
    run = project.run(*workers, "--junit-xml=junit.xml")
    assert run.status == 6, run.text
    [error] = run.errors
    assert error.startswith(f"{folder}: the report cannot be written: ")
    passes = stub == "right"
    assert project.gates() == {"demo.exact_match[base]": "passed" if passes else "failure"}
    assert f"{'PASS' if passes else 'FAIL'}: base " in run.text
    assert "report: " not in run.text.replace(error, "")
    if folder == "reports":
        assert project.harness("runs", "show", "latest")[0] == 0


def test_a_lock_that_cannot_be_made_is_a_mistake(project):
    project.settings(base="half")
    project.write(".harness/locks", "")
    run = project.run()
    assert run.status == 4, run.text
    assert "no lock can be made there" in " ".join(run.text.split())


def test_a_store_that_is_full_at_the_end_leaves_the_report(project):
    project.settings("[tool.harness.gates]\nexact_match = { at_least = 0.1 }\n", base="half")
    project.write("evals/conftest.py", "import harness.store\n\n\n" + NO_ROOM)
    run = project.run("--junit-xml=junit.xml")
    assert run.status == 6, run.text
    assert run.results["verdict"] == "undecidable"
    assert "the store cannot be used" in " ".join(run.results["errors"])
    assert project.gates() == {"demo.exact_match[base]": "passed"}


NO_ROOM = """
def add_run(self, *_):
    import sqlite3

    problem = sqlite3.OperationalError("database or disk is full")
    problem.sqlite_errorname = "SQLITE_FULL"
    raise self._sentence(problem)


harness.store.Store.add_run = add_run
"""
