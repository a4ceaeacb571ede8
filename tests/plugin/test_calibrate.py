"""`harness judge calibrate`: a judge beside people, and what follows for the gates."""

from __future__ import annotations

import json
import re
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from scripted_judge import Asked, ScriptedJudge
from sklearn.metrics import cohen_kappa_score

from harness import calibration
from harness.records import HarnessError
from harness.report.text import NOTHING
from harness.review.pairs import pairs_of
from harness.store import Store

SUITE = """
import pytest

pytestmark = pytest.mark.cases("data/demo.jsonl")


def test_answer(score):
    score.judge("correctness")
"""
CALIBRATE = ("judge", "calibrate", "strict", "--labels", "labels.jsonl")
GATE = '[tool.harness.gates]\n"demo.correctness" = { at_least = 2 }\n'
PEOPLE = [number % 5 + 1 for number in range(40)]


def labels(project: Any, scores: list[int], **more: Any) -> None:
    """People's scores of forty replies, each named after its row."""
    rows = [
        {"prompt": f"is it {n}", "expected": "yes", "reply": f"reply {n}", "score": score, **more}
        for n, score in enumerate(scores)
    ]
    project.rows("labels.jsonl", rows)


def number(text: str) -> int:
    return int(re.sub(r"\D", "", text))


def lenient(asked: Asked) -> str:
    """Agrees with people but for every third reply, which it gives one more."""
    n = number(asked.texts["answer"])
    return asked.verdict(min(5, PEOPLE[n] + (n % 3 == 0)))


def careless(asked: Asked) -> str:
    """Scores people's replies in an order of its own, and the run's all the same."""
    if "reply" not in asked.texts["answer"]:
        return asked.verdict(4)
    return asked.verdict(number(asked.texts["answer"]) * 7 % 11 % 5 + 1)


def cells(text: str, score: int) -> list[str]:
    """The row of the confusion of what people gave `score`."""
    return next(row for line in text.splitlines() if (row := line.split())[:1] == [str(score)])


def calibrated(project: Any, decide: Any, *arguments: str) -> tuple[int, str, ScriptedJudge]:
    with ScriptedJudge(decide) as judge:
        project.settings(judge.table(), base="right")
        status, text = project.harness(
            "judge", "calibrate", "strict", *(arguments or ("--labels", "labels.jsonl"))
        )
    return status, text, judge


def test_a_judge_is_compared_with_peoples_labels(project: Any) -> None:
    labels(project, PEOPLE)
    with ScriptedJudge(lenient) as judge:
        project.settings(judge.table(), base="right")
        for _ in range(2):
            status, text = project.harness(
                "judge", "calibrate", "strict", "--labels", "labels.jsonl"
            )
    assert status == 0, text
    assert len(judge.asked) == 40  # the second time everything is known
    its = [min(5, score + (n % 3 == 0)) for n, score in enumerate(PEOPLE)]
    kappa = cohen_kappa_score(PEOPLE, its, weights="quadratic")
    bias = (sum(its) - sum(PEOPLE)) / 40
    assert "judge strict on correctness: 40 labels" in text
    assert f"agreement (kappa) {kappa:.2f} [" in text
    assert f"bias +{bias:.2f} [" in text
    assert cells(text, 4) == ["4", NOTHING, NOTHING, NOTHING, "5", "3"]
    assert "it may gate" in text


def test_a_gate_on_a_judge_that_agrees_too_little_is_undecidable(project: Any) -> None:
    project.write("evals/test_demo.py", SUITE)
    labels(project, PEOPLE)
    with ScriptedJudge(
        lambda asked: careless(asked) if "reply" in asked.texts["answer"] else asked.verdict(1)
    ) as judge:
        project.settings(judge.table() + GATE, base="right")
        status, text = project.harness(*CALIBRATE)
        assert status == 0
        assert "it advises and does not gate: the agreement of judge strict with people" in text
        run = project.run()
    assert run.status == 6
    assert "demo.correctness advises and does not gate: the agreement of judge strict" in " ".join(
        run.text.split()
    )


def test_a_calibration_holds_for_its_question_and_its_judge_alone(project: Any) -> None:
    project.write("evals/test_demo.py", SUITE.replace("correctness", "format"))
    labels(project, PEOPLE)
    with ScriptedJudge(
        lambda asked: careless(asked) if "reply" in asked.texts["answer"] else asked.verdict(4)
    ) as judge:
        project.settings(judge.table(), base="right")
        project.harness(*CALIBRATE)
        assert "advises" not in project.run().text
        project.write("evals/test_demo.py", SUITE)
        advised = project.run()
        assert advised.status == 0
        assert "demo.correctness advises and does not gate" in " ".join(advised.text.split())
        project.settings(judge.table(more='system = "Be strict."'), base="right")
        assert "advises" not in project.run().text


def test_peoples_votes_calibrate_the_preferences_of_a_judge(project: Any) -> None:
    project.settings(base="wrong", new="right")
    project.run()
    with closing(Store(project.root / ".harness/store.sqlite")) as store:
        votes = []
        for n, pair in enumerate(pairs_of(store, store.run_ids()[-1], "new")):
            mine = "left" if pair.left.digest == pair.sides.after else "right"
            votes.append(pair.vote("anna", "tie" if n % 4 == 0 else mine))
        store.put_votes(votes)

    def contrary(asked: Asked) -> str:
        first = asked.texts["first answer"] == "no"
        return asked.verdict("first" if first else "second")

    with ScriptedJudge(contrary) as judge:
        project.settings(judge.table(), base="wrong", new="right")
        status, text = project.harness("judge", "calibrate", "strict", "--votes", "latest")
        asked = len(judge.asked)
        project.write("evals/test_demo.py", SUITE.replace('judge("correctness")', "prefer()"))
        run = project.run()
    assert status == 0, text
    assert asked == len(judge.asked) == 48  # 24 pairs in both orders, and the run knows them
    assert "judge strict on preference: 24 labels" in text
    (_, never, _, left), tie, (_, right, _, none) = (cells(text, side) for side in (-1, 0, 1))
    assert (none, never) == (NOTHING, NOTHING)
    assert int(left) + int(right) == 18
    assert sum(int(count) for count in (tie[1], tie[3]) if count != NOTHING) == 6
    assert "it advises and does not gate" in text
    assert "demo.preference advises and does not gate" in " ".join(run.text.split())


def test_labels_without_a_verdict_are_counted_and_too_few_are_no_evidence(project: Any) -> None:
    labels(project, PEOPLE)

    def shy(asked: Asked) -> str:
        return lenient(asked) if number(asked.texts["answer"]) < 25 else "I would rather not."

    status, text, _ = calibrated(project, shy)
    assert status == 0
    assert "25 labels, 15 without verdict" in text
    labels(project, PEOPLE[:30])
    status, text, _ = calibrated(project, lambda asked: "No.")
    assert status == 6
    assert re.search(r"gave a verdict on 0 of 30 labels on correctness; it takes 20", text)


@pytest.mark.parametrize("count", [0, 19])
def test_nobody_is_asked_about_too_few_labels(project: Any, count: int) -> None:
    labels(project, PEOPLE[:count])
    status, text, judge = calibrated(project, lenient)
    assert (status, judge.asked) == (6, [])
    assert f"only {count} labels" in text


def test_only_a_line_feed_ends_a_label(tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    row = {"prompt": "one\u2028two\x85", "reply": "r", "score": 3}
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(row, ensure_ascii=False).encode() + b"\r\n")
    (label,) = calibration.labels(file)
    assert label.material.prompt == row["prompt"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "p", "reply": "r", "score": 6}, "labels.jsonl:1: score: Input should be less"),
        ({"prompt": "p", "reply": "r"}, "a label is `reply` with `score`, or `replies` with"),
        ({"prompt": "p", "replies": ["a"], "better": "tie"}, "labels.jsonl:1: replies: "),
        ({"prompt": "p", "reply": "r", "score": 3, "criterion": "charm"}, "give rubric= five"),
        ({"prompt": "p", "reply": "r", "score": 3, "judge": "x"}, "labels.jsonl:1: judge: "),
        ({"prompt": "p", "reply": "r", "score": 3, "a\n\x1b": "x"}, "labels.jsonl:1: a\\n\\x1b: "),
    ],
)
def test_a_wrong_label_is_one_sentence(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    file = tmp_path / "labels.jsonl"
    file.write_text(json.dumps(row) + "\n")
    with pytest.raises(HarnessError, match=re.escape(said)):
        calibration.labels(file)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["strict", "--labels", "labels.jsonl", "--votes", "latest"], "say what people said"),
        (["strict", "--labels", "no.jsonl"], "no.jsonl"),
        (["other", "--labels", "labels.jsonl"], "no judge 'other'; there: strict"),
    ],
)
def test_a_wrong_command_is_one_sentence(project: Any, arguments: list[str], said: str) -> None:
    labels(project, PEOPLE)
    project.settings('[tool.harness.judges.strict]\nmodel = "openai:x"\n', base="right")
    status, text = project.harness("judge", "calibrate", *arguments)
    assert status == 4
    assert said in " ".join(text.split())
