"""The user's own plugins beside ours: the suite decides the same, and exit 6 survives."""

from __future__ import annotations

import pytest

NEIGHBOURS = {
    "pytest_asyncio": ["-p", "pytest_asyncio.plugin", "-o", "asyncio_mode=auto"],
    "pytest_cov": ["-p", "pytest_cov.plugin", "--cov=evals", "--cov-report="],
    "xdist": ["-n", "2"],
    "pytest_rerunfailures": ["-p", "pytest_rerunfailures", "--reruns=2"],
    "pytest_randomly": ["-p", "pytest_randomly"],
}
SUITE = """
import pytest

pytestmark = pytest.mark.cases("data/demo.jsonl")


def test_exact(score):
    score.exact()


def test_says_something(reply):
    assert reply.text
"""


@pytest.fixture(params=["xdist", "together"])
def neighbours(request):
    """The options that load one of them, or all at once."""
    names = NEIGHBOURS if request.param == "together" else (request.param,)
    for name in names:
        pytest.importorskip(name)
    return [option for name in names for option in NEIGHBOURS[name]]


def _decided(run):
    metrics = run.results["metrics"]
    return [(m["metric"], m["candidate"], m["verdict"], m["losses"], m["wins"]) for m in metrics]


def test_a_failed_gate_stays_a_failed_gate(project, neighbours):
    project.write("evals/test_demo.py", SUITE)
    project.settings(base="half", cand="wrong", better="right")
    alone = project.run()
    beside = project.run(*neighbours)
    assert alone.status == beside.status == 1
    assert _decided(beside) == _decided(alone)


def test_an_undecidable_run_stays_undecidable(project, neighbours):
    project.write("evals/test_demo.py", SUITE)
    project.settings(base="half", cand="unreachable_at_3")
    run = project.run(*neighbours)
    assert run.status == 6
    assert run.results["verdict"] == "undecidable"


BROKEN = """
from pathlib import Path

import pytest

pytestmark = pytest.mark.cases("data/demo.jsonl")


def test_exact(score):
    score.exact()


def test_breaks(case, reply, request, score):
    score.record("length", 1.0)
    tried = Path(f"tried-{request.node.callspec.id}")
    times = len(tried.read_text()) if tried.exists() else 0
    tried.write_text("x" * (times + 1))
    if case.id == "c3" and times < FAILS:
        raise RuntimeError("no connection")
    assert reply.text == "yes"
"""


@pytest.mark.parametrize(("fails", "status"), [(1, 0), (9, 6)])
def test_a_test_that_breaks_is_run_again_and_its_last_word_counts(project, workers, fails, status):
    """With --reruns: a case is scored once, and one that breaks to the end stays undecidable."""
    project.write("evals/test_demo.py", BROKEN.replace("FAILS", str(fails)))
    project.settings(base="half", cand="right")
    run = project.run(*NEIGHBOURS["pytest_rerunfailures"], *workers)
    assert run.status == status
    assert (project.root / "tried-c3-cand").read_text() == "x" * min(fails + 1, 3)
    assert (project.root / "tried-c2-cand").read_text() == "x"
    assert [run.metric(f"demo.{name}")["n"] for name in ("exact_match", "length")] == [24, 24]
    assert len(run.results["cases"]) == 48


def test_async_unit_tests_run_beside_the_suites(project):
    pytest.importorskip("pytest_asyncio")
    project.write("evals/test_demo.py", SUITE)
    project.write(
        "evals/test_own.py",
        "import asyncio\n\n\nasync def test_it():\n    await asyncio.sleep(0)\n",
    )
    project.settings(base="half", cand="right")
    run = project.run(*NEIGHBOURS["pytest_asyncio"])
    assert run.status == 0
    assert run.counts["passed"] >= 1
