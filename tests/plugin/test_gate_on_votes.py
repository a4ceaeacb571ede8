"""`max_would_not_ship`: people read replies, and their votes decide."""

from __future__ import annotations

from contextlib import closing

import pytest

from harness.config import parse
from harness.records import HarnessError
from harness.review.pairs import pairs_of
from harness.store import Store

GATE = '[tool.harness.gates]\n"demo.would_ship" = { max_would_not_ship = 2 }\n'


def read(project, bad, count=20, rater="anna", candidate="cand"):
    """Read `count` pairs of the last run; the candidate's first `bad` replies would not ship."""
    with closing(Store(project.root / ".harness/store.sqlite")) as store:
        # Each run shuffles them anew: all raters read the same.
        found = pairs_of(store, store.run_ids()[-1], candidate)
        pairs = sorted(found, key=lambda pair: pair.name)[:count]
        votes = []
        for number, pair in enumerate(pairs):
            side = "left" if pair.left.digest == pair.sides.after else "right"
            votes.append(pair.vote(rater, "tie", **{f"{side}_ships": number >= bad}))
        store.put_votes(votes)


def verdict(run):
    return run.metric("demo.would_ship")["verdict"], run.metric("demo.would_ship")["reason"]


@pytest.fixture
def voted(project):
    project.settings(GATE, base="wrong", cand="right")
    return project


def test_without_votes_the_gate_is_undecidable_and_names_the_command(voted):
    run = voted.run("-n", "2")
    assert run.status == 6
    assert verdict(run)[1] == (
        "people have read 0 of 20 replies; read them with `harness review --suite demo "
        "--candidate cand`, then run again"
    )
    status, text = voted.harness("review", "--suite", "demo", "--candidate", "cand")
    assert status == 0
    assert "/review-" in text


@pytest.mark.parametrize(
    ("bad", "status", "word"), [(0, 0, "passed"), (2, 0, "passed"), (3, 1, "failed")]
)
def test_the_votes_decide_and_hold_for_the_same_replies_in_a_later_run(voted, bad, status, word):
    voted.run()
    read(voted, bad)
    run = voted.run("--junitxml=junit.xml")
    assert run.status == status
    assert verdict(run) == (word, f"people would not ship {bad} of 20 replies; at most 2 may be so")
    entry = {"passed": "passed", "failed": "failure"}[word]
    assert voted.gates()["demo.would_ship[cand]"] == entry
    assert run.metric("demo.would_ship")["candidate_mean"] == (20 - bad) / 20
    assert "would_ship" in (voted.root / "reports/latest/index.html").read_text("utf-8")


def test_too_few_votes_prove_nothing_but_too_many_that_say_no(voted):
    voted.run()
    read(voted, 2, count=19)
    run = voted.run()
    assert run.status == 6
    assert "people have read 19 of 20 replies" in verdict(run)[1]
    read(voted, 3, count=3)
    run = voted.run()
    assert run.status == 1
    assert verdict(run)[0] == "failed"


def test_of_several_raters_most_must_say_no(voted):
    voted.run()
    read(voted, 9, rater="anna")
    read(voted, 0, rater="bo")
    assert voted.run().status == 1  # one of two is not most
    read(voted, 0, rater="cleo")
    assert voted.run().status == 0


def test_votes_on_other_replies_do_not_count(voted):
    voted.run()
    read(voted, 0)
    voted.settings(GATE, base="wrong", cand="hostile")
    run = voted.run()
    assert run.status == 6
    assert "have read" in verdict(run)[1]


def test_a_small_suite_is_read_whole(project):
    project.rows("data/demo.jsonl", project.questions(3))
    project.settings(GATE.replace("demo.would_ship", "would_ship"), base="right", cand="half")
    assert project.run().status == 6
    read(project, 2, count=3)
    run = project.run()
    assert verdict(run) == ("passed", "people would not ship 2 of 3 replies; at most 2 may be so")
    project.settings(GATE.replace("= 2", '= 0, candidate = "other"'), base="right", cand="half")
    run = project.run()
    assert run.status == 4
    assert "no test recorded such a metric under a candidate 'other'" in " ".join(run.errors)


@pytest.mark.parametrize(
    ("key", "rule", "problem"),
    [
        ("demo", {}, "counts people's votes and not demo; write it under would_ship"),
        ("would_ship", {"max_would_not_ship": -1}, "greater than or equal to 0"),
        ("would_ship", {"tag": "x"}, "drop `tag`"),
        ("would_ship", {"margin": 0.1}, "a gate is exactly one of"),
    ],
)
def test_a_wrong_rule_is_one_sentence(key, rule, problem):
    with pytest.raises(HarnessError, match=problem):
        parse({"gates": {key: {"max_would_not_ship": 2, **rule}}})


def test_a_test_that_records_the_same_metric_is_a_mistake(project):
    project.write(
        "evals/test_demo.py",
        "import pytest\npytestmark = pytest.mark.cases('data/demo.jsonl')\n"
        "def test_would_ship(reply):\n    assert reply.text\n",
    )
    project.settings(GATE, base="right", cand="half")
    run = project.run()
    assert run.status == 4
    assert "recorded by a test and by people's votes" in " ".join(run.errors)
