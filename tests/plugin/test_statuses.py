"""What one item shows: a score is no failure, and every check runs."""

from __future__ import annotations

CHECKS = """
import pytest

pytestmark = pytest.mark.cases("data/demo.jsonl")


def test_checks(score, reply):
    score.exact()
    score.contains("yes")
    assert reply.text == "yes", "it said no"


def test_knows_pytests_own_tools(reply, case):
    with pytest.raises(AssertionError, match="no JSON"):
        reply.json()
    assert len(case.text) == pytest.approx(7, abs=1)


@pytest.mark.guard
def test_guarded(score, reply):
    score.exact(name="guarded_exact")
    assert reply.text == "yes"
"""


ASSERTED_FIRST = """
import pytest

pytestmark = pytest.mark.cases("data/demo.jsonl")


def test_answer(score, reply):
    assert reply.text == "yes", "it said no"
    score.exact()
"""


def test_a_check_behind_a_failed_assertion_scores_its_worst(project):
    project.write("evals/test_demo.py", ASSERTED_FIRST)
    project.settings(base="right", cand="half")
    run = project.run()
    assert run.status == 1, "the replies are bad; the evidence is whole"
    exact = run.metric("demo.exact_match")
    assert (exact["missing"], exact["losses"], exact["verdict"]) == (0, 12, "regressed")


def test_the_values_of_headers_stay_out_of_the_report(project):
    table = '[tool.harness.models.far]\nmodel = "openai:x"\nheaders = { X-Key = "s3cret" }\n'
    project.settings(table, cand="right")
    run = project.run()
    assert run.results["environment"]["settings"]["models"]["far"]["headers"] == {
        "X-Key": "(hidden)"
    }
    files = [path for path in project.root.rglob("*") if path.suffix in (".html", ".json", ".md")]
    assert files
    assert not [path for path in files if "s3cret" in path.read_text("utf-8")]
    assert b"s3cret" not in (project.root / ".harness/store.sqlite").read_bytes()


def test_each_status_has_its_letter_and_its_count(project):
    project.rows("data/demo.jsonl", project.questions(4))
    project.settings(base="half", cand="quarter")
    run = project.run()
    assert run.status == 0, "four cases are too few to fail by statistics"
    assert any(line.startswith("evals/test_demo.py ....u.+R") for line in run.lines)
    assert run.counts == {"passed": 5, "held": 1, "improved": 1, "unsolved": 1, "regressed": 1}
    statuses = {case["id"]: case["status"]["cand"] for case in run.results["cases"]}
    assert statuses == {
        "c0": {"demo.exact_match": "unsolved"},
        "c1": {"demo.exact_match": "held"},
        "c2": {"demo.exact_match": "improved"},
        "c3": {"demo.exact_match": "regressed"},
    }


def test_statuses_do_not_depend_on_the_order_of_items(project):
    project.settings(base="half", cand="right")
    run = project.run("-v", "-p", "randomly")
    assert run.status == 0
    assert run.counts == {"passed": 25, "held": 12, "improved": 12}
    assert run.text.count("-cand] IMPROVED") == 12


def test_a_failing_assertion_is_a_score_and_every_check_runs(project):
    project.write("evals/test_demo.py", CHECKS)
    project.settings(base="right", cand="half")
    run = project.run()
    assert run.status == 1
    assert run.counts["failed"] == 5, "only gates fail"
    assert "AssertionError" not in run.text
    means = {m["metric"]: (m["baseline_mean"], m["candidate_mean"]) for m in run.results["metrics"]}
    assert means == {
        "demo.exact_match": (1.0, 0.5),
        "demo.contains": (1.0, 0.5),
        "demo.checks": (1.0, 0.5),
        "demo.knows_pytests_own_tools": (1.0, 1.0),
        "demo.guarded": (1.0, 0.5),
        "demo.guarded_exact": (1.0, 0.5),
    }
    rules = {metric["metric"]: metric["rule"] for metric in run.results["metrics"]}
    assert rules["demo.guarded"] == rules["demo.guarded_exact"] == "max_regressions = 0"
    assert rules["demo.checks"] == "must not regress"


def test_async_tests_are_scored_alike(project):
    project.write(
        "evals/test_demo.py",
        """
import pytest

pytestmark = [pytest.mark.cases("data/demo.jsonl"), pytest.mark.asyncio]


async def test_says_yes(reply):
    assert reply.text == "yes"
""",
    )
    project.settings(base="half", cand="right")
    run = project.run("-p", "asyncio")
    assert run.status == 0
    assert run.verdicts == {"demo.says_yes[cand]": "improved"}
    assert run.metric("demo.says_yes")["baseline_mean"] == 0.5


def test_hostile_replies_reach_neither_terminal_nor_page(project):
    project.settings(base="half", cand="hostile")
    run = project.run()
    assert run.status == 1
    assert not set("\x1b\x00\u202e") & set(run.text)
    page = (project.root / "reports/latest/index.html").read_text("utf-8")
    assert "<script>alert" not in page
