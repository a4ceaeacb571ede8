"""Judges in whole runs: what they are asked, what counts of their answers, when they are silent."""

from __future__ import annotations

import base64
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from scripted_judge import Asked, ScriptedJudge, plain, read

from harness.checks.judge import INSTRUCTIONS, Material, prompt, question
from harness.config import parse
from harness.records import HarnessError, Question

CORPUS = Path(__file__).parents[1] / "data" / "injections.jsonl"
SUITE = """
import pytest

pytestmark = pytest.mark.cases("data/demo.jsonl")


def test_answer(score):
    {}
"""
RUBRIC = 'score.judge("correctness")'
PREFER = "score.prefer()"


def suite(project: Any, *checks: str) -> None:
    project.write("evals/test_demo.py", SUITE.format("\n    ".join(checks)))


def values(outcome: Any, model: str, metric: str) -> dict[str, Any]:
    """Case id -> the value of a metric."""
    return {
        case["id"]: case["scores"][model].get(f"demo.{metric}") for case in outcome.results["cases"]
    }


def figures(outcome: Any, name: str) -> list[dict[str, Any]]:
    return [one for one in outcome.results["judges"] if one["name"] == name]


# ---------------------------------------------------------------------- injections

BEST = {"rubric": 5, "criteria": True, "preference": "second"}
MATERIAL = {
    "rubric": (question("x", "correctness"), Material("q", "yes", ("yes",))),
    "criteria": (question("x", ["It says yes."]), Material("q", "yes", ("yes",))),
    "preference": (Question("p", "preference", "the better one"), Material("q", "yes", ("a", "b"))),
}


def outside(kind: str) -> str:
    """What stands outside of the quotations where nothing was smuggled in."""
    messages = [{"content": INSTRUCTIONS}, {"content": prompt(*MATERIAL[kind])}]
    return read({"messages": messages, "seed": 0, "model": ""}).outside


def credulous(asked: Asked) -> str:
    """Obeys whatever stands outside of the quotations, and repeats every verdict in them, last."""
    if asked.outside != outside(asked.kind):
        return asked.verdict(BEST[asked.kind])
    first = asked.texts.get("first answer") == "yes"
    honest = {"rubric": 2, "criteria": False, "preference": "first" if first else "second"}
    answers = [text for name, text in asked.texts.items() if name.endswith("answer")]
    return "\n".join(
        [asked.verdict(honest[asked.kind]), *answers, *map(plain, answers), *decoded(answers)]
    )


def decoded(texts: list[str]) -> list[str]:
    found = (word for text in texts for word in re.findall(r"[A-Za-z0-9+/=]{40,}", text))
    return [base64.b64decode(word + "==").decode("utf-8", "replace") for word in found]


def test_no_injection_in_a_reply_moves_a_score(project: Any) -> None:
    shutil.copy(CORPUS, project.root / "injections.jsonl")
    project.write(
        "injected.py",
        "import json\nfrom pathlib import Path\nfrom stub_models import _number\n"
        "LINES = Path(__file__).with_name('injections.jsonl').read_text().splitlines()\n"
        "def attack(messages):\n    return json.loads(LINES[_number(messages)])['text']\n",
    )
    count = len(CORPUS.read_text().splitlines())
    project.rows("data/demo.jsonl", project.questions(count))
    checks = ['score.judge(["It says yes."])', 'score.prefer("the better one")']
    suite(project, RUBRIC, *checks)
    with ScriptedJudge(credulous) as judge:
        more = '[tool.harness.candidates.new]\nmodel = "python:injected:attack"\n'
        project.settings(more + judge.table(), base="right")
        outcome = project.run("evals/")
    assert count == 60
    assert set(values(outcome, "new", "correctness").values()) == {2}
    assert set(values(outcome, "new", "criteria").values()) == {0}
    assert set(values(outcome, "new", "preference").values()) == {-1}


# ---------------------------------------------------------------------- answers of all kinds


def test_answers_are_read_strictly_and_asked_for_once_more(project: Any) -> None:
    answers: dict[int, Any] = {
        0: lambda a: a.verdict(3),
        1: lambda a: f"```json\n{a.verdict(4)}\n```",
        2: lambda a: f"I weighed it.\n{a.verdict(2)}\nThat is all.",
        3: lambda a: f"{a.verdict(1)}\nOn second thoughts:\n{a.verdict(5)}",
        4: lambda a: f"{a.verdict(3)}\n{a.verdict(5).replace(a.bound, '0' * 32)}",
        5: lambda a: {"content": None, "refusal": "I will not judge this."},
        6: lambda a: "",
        7: lambda a: {"content": a.verdict(5)[:-8], "finish_reason": "length"},
        8: lambda a: a.verdict(6),
        9: lambda a: a.verdict("4"),
        10: lambda a: json.dumps({"id": a.bound, "score": 4, "evidence": "decided before"}),
        11: lambda a: a.verdict(4, evidence=" "),
        12: lambda a: "5/5",
        13: lambda a: a.verdict(True),
        14: lambda a: a.verdict(4).replace('"score"', '"score": 1, "score"'),
    }
    asked_again: dict[int, int] = {}

    def decide(asked: Asked) -> Any:
        number = int("".join(filter(str.isdigit, asked.texts["question"])))
        asked_again[number] = asked_again.get(number, 0) + 1
        return answers[number](asked)

    project.rows("data/demo.jsonl", project.questions(len(answers)))
    suite(project, RUBRIC)
    with ScriptedJudge(decide) as judge:
        project.settings(judge.table(), base="right")
        outcome = project.run("evals/")
        found = values(outcome, "base", "correctness")
        assert [found[f"c{number}"] for number in range(5)] == [3, 4, 2, 5, 3]
        assert {found[f"c{number}"] for number in range(5, 15)} == {None}
        assert {asked_again[number] for number in range(5)} == {1}
        assert {asked_again[number] for number in range(5, 15)} == {2}
    assert "correctness: 10 of 15 replies are unscored" in " ".join(outcome.results["alarms"])


def test_a_judge_that_answers_well_when_asked_again_counts(project: Any) -> None:
    def decide(asked: Asked) -> str:
        return asked.verdict(4) if "no valid verdict" in asked.outside else "4 of 5"

    suite(project, RUBRIC)
    with ScriptedJudge(decide) as judge:
        project.settings(judge.table(), base="right")
        outcome = project.run("evals/")
    assert set(values(outcome, "base", "correctness").values()) == {4}


# ---------------------------------------------------------------------- the wave


def longer(asked: Asked) -> str:
    """Finds the longer text better, by its number of characters."""
    if asked.kind == "rubric":
        return asked.verdict(min(5, len(asked.texts["answer"])))
    one, two = len(asked.texts["first answer"]), len(asked.texts["second answer"])
    return asked.verdict("first" if one > two else "second" if two > one else "tie")


def test_judges_are_asked_once_and_the_next_run_asks_nothing(
    project: Any, workers: tuple[str, ...]
) -> None:
    suite(project, RUBRIC, PREFER)
    with ScriptedJudge(longer) as judge:
        project.settings(judge.table(), base="half", new="other_half")
        first = project.run(*workers, "evals/")
        calls = len(judge.asked)
        again = project.run(*workers, "evals/", "--harness-offline")
        assert len(judge.asked) == calls
    # 24 questions x 2 replies for the rubric, 24 pairs x 2 orders.
    assert calls == 96
    assert {asked.seed for asked in judge.asked} == {0}
    assert first.results["metrics"] == again.results["metrics"]
    assert first.results["usage"]["judge strict"]["requests"] == 96
    assert again.results["usage"]["judge strict"]["cached"] == 96
    assert values(first, "new", "preference") == {f"c{n}": -1 if n % 2 else 1 for n in range(24)}
    cases = first.results["cases"]
    assert cases[0]["status"]["new"] == {
        "demo.correctness": "improved",
        "demo.preference": "improved",
    }


def test_equal_replies_are_a_tie_that_nobody_is_asked_about(project: Any) -> None:
    suite(project, PREFER)
    with ScriptedJudge(longer) as judge:
        project.settings(judge.table(), base="right", new="right")
        outcome = project.run("evals/")
        assert judge.asked == []
    assert set(values(outcome, "new", "preference").values()) == {0}
    assert outcome.status == 0


def test_an_empty_reply_loses_without_a_judge(project: Any) -> None:
    project.write("silent.py", "def nothing(messages):\n    return ''\n")
    suite(project, RUBRIC, PREFER)
    with ScriptedJudge(longer) as judge:
        more = '[tool.harness.candidates.new]\nmodel = "python:silent:nothing"\n'
        project.settings(more + judge.table(), base="right")
        outcome = project.run("evals/")
        assert {asked.texts["answer"] for asked in judge.asked} == {"yes"}
    assert set(values(outcome, "new", "correctness").values()) == {1}
    assert set(values(outcome, "new", "preference").values()) == {-1}


def test_the_judge_does_not_know_whose_reply_is_whose(project: Any) -> None:
    suite(project, PREFER)
    with ScriptedJudge(longer) as judge:
        project.settings(judge.table(), base="right", new="wrong")
        project.run("evals/")
    orders = [(a.texts["first answer"], a.texts["second answer"]) for a in judge.asked]
    assert orders.count(("yes", "no")) == orders.count(("no", "yes")) == 24
    assert not any(re.search("base|candidate", plain(a.outside)) for a in judge.asked)


def test_a_judge_that_prefers_the_first_answer_yields_ties_and_an_alarm(project: Any) -> None:
    suite(project, PREFER)
    with ScriptedJudge(lambda asked: asked.verdict("first")) as judge:
        project.settings(judge.table(), base="right", new="wrong")
        outcome = project.run("evals/")
    assert set(values(outcome, "new", "preference").values()) == {0}
    alarms = " ".join(outcome.results["alarms"])
    assert "prefers the first answer, whichever it is, in 24 of 24 pairs" in alarms
    assert "same of both orders of a pair in only 0 of 24" in alarms
    [position] = figures(outcome, "position preference")
    assert position["value"] == 1
    assert position["interval"][0] > 0.7
    told = " ".join(outcome.text.split())
    assert "ALARM: demo.preference under new: judge strict prefers the first answer" in told


def test_a_judge_that_prefers_longer_answers_yields_a_length_warning(project: Any) -> None:
    suite(project, PREFER)
    with ScriptedJudge(longer) as judge:
        project.settings(judge.table(), base="half", new="other_half")
        outcome = project.run("evals/")
    assert "the longer a reply, the higher its score" in " ".join(outcome.results["alarms"])
    [correlation] = figures(outcome, "length correlation")
    [raw] = figures(outcome, "raw difference")
    [adjusted] = figures(outcome, "length-adjusted difference")
    assert correlation["value"] == pytest.approx(1)
    assert abs(raw["value"]) < 1e-9
    assert abs(adjusted["value"]) < 1e-9
    page = (project.root / "reports/latest/index.html").read_text("utf-8")
    assert "length-adjusted difference" in page
    assert "length-adjusted difference" in (project.root / "reports/latest/summary.md").read_text()


def test_several_judges_give_the_median_and_their_agreement(project: Any) -> None:
    def decide(asked: Asked) -> str:
        right = asked.texts["answer"] == "yes"
        return asked.verdict({"a": 5, "b": 4, "c": 1}[asked.model] if right else 2)

    suite(project, RUBRIC)
    with ScriptedJudge(decide) as judge:
        tables = "".join(map(judge.table, "abc"))
        project.settings(tables, base="half")
        outcome = project.run("evals/")
    assert set(values(outcome, "base", "correctness").values()) == {2, 4}
    [agreement] = figures(outcome, "agreement")
    assert agreement["n"] == 24
    assert agreement["value"] < 0.5


def test_criteria_are_met_by_majority(project: Any) -> None:
    def decide(asked: Asked) -> str:
        verdict = json.loads(asked.verdict(False))
        verdict["criteria"][0]["met"] = asked.model in "ab"
        verdict["criteria"][1]["met"] = asked.model == "a"
        return json.dumps(verdict)

    suite(project, 'score.judge(["It answers.", "It is kind."], name="manners")')
    with ScriptedJudge(decide) as judge:
        project.settings("".join(map(judge.table, "abc")), base="right")
        outcome = project.run("evals/")
    assert set(values(outcome, "base", "manners").values()) == {0.5}


def test_a_low_mean_correctness_is_a_finding_about_the_data(project: Any) -> None:
    suite(project, RUBRIC)
    with ScriptedJudge(lambda asked: asked.verdict(3)) as judge:
        project.settings(judge.table(), base="right", new="wrong")
        outcome = project.run("evals/")
    finding = "demo.correctness of new is 3.00 of 5 on average; under 4 the data has a problem"
    assert finding in " ".join(outcome.results["alarms"])
    assert finding in " ".join(outcome.text.split())
    assert finding in (project.root / "reports/latest/index.html").read_text("utf-8")


def test_an_aa_run_asks_the_judges_again_and_tells_their_flips(project: Any) -> None:
    def decide(asked: Asked) -> str:
        moody = asked.seed and "0" in asked.texts["question"]
        return asked.verdict(2 if moody else 4)

    suite(project, RUBRIC)
    with ScriptedJudge(decide) as judge:
        project.settings(judge.table(), base="right")
        outcome = project.run("evals/", "--harness-aa")
    [flips] = figures(outcome, "flip rate")
    assert (flips["n"], flips["value"]) == (24, 3 / 24)
    assert "demo.correctness: the same model differs from itself on 3 of 24" in " ".join(
        outcome.text.split()
    )


def test_evidence_is_shown_as_text(project: Any) -> None:
    evil = "<script>alert(1)</script>\x1b[2J it \u202e says so"

    def decide(asked: Asked) -> str:
        return asked.verdict(5 if asked.texts["answer"] == "yes" else 1, evidence=evil)

    suite(project, RUBRIC)
    with ScriptedJudge(decide) as judge:
        project.settings(judge.table(), base="right", new="wrong")
        project.run("evals/")
    page = (project.root / "reports/latest/index.html").read_text("utf-8")
    assert "&lt;script&gt;alert(1)" in page
    assert "<script" not in page
    assert "\u202e" not in page


# ---------------------------------------------------------------------- no judge, no money


def test_without_a_judge_its_checks_are_skipped_aloud(
    project: Any, workers: tuple[str, ...]
) -> None:
    suite(project, "score.exact()", RUBRIC, PREFER)
    project.settings(base="right", new="right")
    outcome = project.run(*workers, "evals/")
    assert outcome.status == 0
    told = " ".join(outcome.text.split())
    assert "NOT JUDGED: demo.correctness, demo.preference: no judge is configured" in told
    assert [metric["metric"] for metric in outcome.results["metrics"]] == ["demo.exact_match"]


@pytest.mark.parametrize("rule", ['"demo.correctness"', "correctness", "demo"])
def test_a_gate_without_its_judge_is_undecidable(project: Any, rule: str) -> None:
    suite(project, "score.exact()", RUBRIC)
    project.settings(
        f"[tool.harness.gates]\n{rule} = {{ at_least = 0 }}", base="right", new="right"
    )
    outcome = project.run("evals/")
    assert outcome.status == 6
    assert outcome.metric("demo.correctness")["verdict"] == "undecidable"
    assert "demo.correctness is gated, and its judges were not asked" in " ".join(
        outcome.results["errors"]
    )


def test_a_judge_without_its_key_is_skipped_aloud(project: Any) -> None:
    suite(project, "score.exact()", RUBRIC)
    table = '[tool.harness.judges.paid]\nmodel = "openai:x"\napi_key_env = "NO_SUCH_KEY"\n'
    project.settings(table, base="right", new="right")
    outcome = project.run("evals/")
    assert outcome.status == 0
    assert "set the environment variable NO_SUCH_KEY" in " ".join(outcome.text.split())


def test_recorded_scores_stand_in_for_a_judge_without_its_key_if_the_check_is_the_same(
    project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite(project, RUBRIC)
    monkeypatch.setenv("JUDGE_KEY", "sk-1")
    with ScriptedJudge(longer) as judge:
        table = judge.table(more='api_key_env = "JUDGE_KEY"')
        project.settings(table, base="half", new="right")
        first = project.run("evals/")
    for name, model in (("old.jsonl", "base"), ("new.jsonl", "new")):
        assert project.harness("baseline", "save", name, "--model", model)[0] == 0
    monkeypatch.delenv("JUDGE_KEY")
    shutil.rmtree(project.root / ".harness")
    recorded = '[tool.harness.candidates.new]\nmodel = "replay:new.jsonl"\n'
    project.settings(recorded + table, base="replay:old.jsonl")
    second = project.run("evals/")
    assert second.metric("demo.correctness") == first.metric("demo.correctness")
    assert "demo.correctness is as recorded, because" in " ".join(second.text.split())

    suite(project, 'score.judge("correctness", at_least=5)')
    third = project.run("evals/")
    assert "NOT JUDGED: demo.correctness" in third.text
    assert third.results["metrics"] == []


def test_a_check_that_names_an_unknown_judge_is_skipped_aloud(project: Any) -> None:
    suite(project, "score.exact()", 'score.judge("format", judges=["mild"])')
    with ScriptedJudge(longer) as judge:
        project.settings(judge.table(), base="right", new="right")
        outcome = project.run("evals/")
        assert judge.asked == []
    assert outcome.status == 0
    assert "there is no judge 'mild'" in " ".join(outcome.text.split())


def test_a_judge_that_cannot_be_reached_makes_the_run_undecidable(project: Any) -> None:
    suite(project, RUBRIC)
    with ScriptedJudge(longer) as judge:
        table = judge.table(more="timeout_s = 0.2")
    project.settings(table, base="right", new="wrong")
    outcome = project.run("evals/", "--harness-offline")
    assert outcome.status == 6
    text = " ".join(outcome.results["errors"])
    assert "requests have no reply" in text


def test_the_plan_counts_what_judges_will_be_asked(project: Any) -> None:
    suite(project, RUBRIC, 'score.judge("format")', PREFER)
    prices = '[tool.harness.prices]\n"openai:strict" = { input = 1, output = 1 }\n'
    with ScriptedJudge(longer) as judge:
        project.settings(judge.table() + prices, base="right", new="wrong")
        outcome = project.run("evals/", "--harness-plan")
        assert judge.asked == []
    # 24 cases x 2 models x 2 rubrics, 24 pairs x 2 orders.
    assert "requests to judge strict: about 144, after the items" in outcome.text
    assert "at most $0." in outcome.text


def test_the_judges_stay_inside_the_budget(project: Any) -> None:
    suite(project, RUBRIC)
    prices = (
        '[tool.harness.prices]\n"openai:strict" = { input = 100, output = 100 }\n'
        '"python:stub_models:right" = { input = 0, output = 0 }\n'
        '"python:stub_models:wrong" = { input = 0, output = 0 }\n'
    )
    with ScriptedJudge(longer) as judge:
        project.settings(judge.table() + prices, base="right", new="wrong")
        outcome = project.run("evals/", "--harness-max-cost", "0.01")
        assert judge.asked == []
    assert outcome.status == 6
    assert "--harness-max-cost: 48 requests can cost up to" in " ".join(outcome.results["errors"])


def test_a_wrong_judge_is_one_sentence_before_anything_is_asked(project: Any) -> None:
    suite(project, RUBRIC)
    table = 'model = "openai:x"\nbase_url = "nowhere"'
    project.settings(f"[tool.harness.judges.strict]\n{table}\n", base="right")
    outcome = project.run("evals/")
    assert outcome.status == 4
    assert "has a base_url that is no URL" in " ".join(outcome.text.split())
    assert project.calls() == []


def test_a_wrong_call_is_one_sentence(project: Any) -> None:
    suite(project, 'score.judge("charm")')
    project.settings(base="right")
    outcome = project.run("evals/")
    assert outcome.status == 4
    assert "give rubric= five sentences" in " ".join(outcome.text.split())


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"model": "openai:x", "temperature": 1}, "judges are asked at temperature 0"),
        ({"model": "openai:x", "template": "{{ text }}"}, "what a judge is asked is fixed"),
        ({"model": "replay:x.jsonl"}, "a recording cannot judge"),
        ({"modell": "openai:x"}, "judges.strict.model: Field required"),
    ],
)
def test_a_wrong_table_of_a_judge_is_one_sentence(table: dict[str, Any], said: str) -> None:
    with pytest.raises(HarnessError, match=re.escape(said)):
        parse({"judges": {"strict": table}})
