"""Rules in [tool.harness.gates]: for one candidate, for one tag, several at once, on usage."""

from __future__ import annotations

import pytest


def _gates(text: str) -> str:
    return f"[tool.harness.gates]\n{text}\n"


def _tagged(project) -> None:
    rows = project.questions(48)
    for number, row in enumerate(rows):
        row["tags"] = ["odd" if number % 2 else "even"]
    project.rows("data/demo.jsonl", rows)


def test_a_rule_holds_for_the_cases_with_its_tag(project, workers):
    _tagged(project)
    project.settings(
        _gates('exact_match = { at_least = 0.9, tag = "even" }'), base="wrong", cand="half"
    )
    run = project.run(*workers, "--junit-xml=junit.xml")
    assert run.status == 1
    assert project.gates() == {
        "demo.exact_match@even[cand]": "failure",
        "demo.exact_match[cand]": "passed",
    }
    assert "demo.exact_match@even" in run.text
    [even] = [one for one in run.results["metrics"] if one["tag"] == "even"]
    assert (even["n"], even["candidate_mean"], even["verdict"]) == (24, 0.0, "failed")


def test_a_rule_holds_for_one_candidate(project):
    table = 'exact_match = [{ at_least = 0.9 }, { at_least = 0.4, candidate = "small" }]'
    project.settings(_gates(table), base="wrong", small="half", large="right")
    run = project.run()
    assert run.status == 0
    rules = {one["candidate"]: one["rule"] for one in run.results["metrics"]}
    assert rules == {"small": "at_least = 0.4", "large": "at_least = 0.9"}


def test_all_rules_of_one_key_apply(project):
    table = "exact_match = [{ at_least = 0.9 }, { better_by = 0.6 }]"
    project.settings(_gates(table), base="half", cand="right")
    run = project.run("--junit-xml=junit.xml")
    assert run.status == 1
    assert project.gates() == {
        "demo.exact_match[cand at_least = 0.9]": "passed",
        "demo.exact_match[cand better_by = 0.6]": "failure",
    }


@pytest.mark.parametrize(
    ("narrowing", "told"),
    [
        ('tag = "odde"', "no test recorded such a metric of cases with the tag 'odde'"),
        ('candidate = "cnad"', "no test recorded such a metric under a candidate 'cnad'"),
    ],
)
def test_a_rule_of_an_unknown_tag_or_candidate_is_a_mistake(project, narrowing, told):
    _tagged(project)
    project.settings(
        _gates(f"exact_match = {{ at_least = 0.1, {narrowing} }}"), base="half", cand="right"
    )
    run = project.run()
    assert run.status == 4
    assert f"tool.harness.gates.exact_match: {told}" in " ".join(run.text.split())


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("exact_match = []", "tool.harness.gates.exact_match: "),
        (
            "exact_match = [{ at_least = 1 }, { tag = 'x' }]",
            "exact_match.1: a gate is exactly",
        ),
        ("exact_match = { tag = 'x' }", "gates.exact_match: a gate is exactly one of"),
        ("exact_match = [{ at_leest = 1 }]", "gates.exact_match.0.at_leest: there is no such key"),
        ("exact_match = 0.9", "tool.harness.gates.exact_match: "),
    ],
)
def test_rules_that_are_none_are_refused_with_their_place(project, table, told):
    project.settings(_gates(table), base="half", cand="right")
    run = project.run()
    assert run.status == 4
    assert told in run.text
    assert project.calls() == []


def test_latency_cost_and_tokens_have_limits(project):
    project.write(
        "dear.py",
        "def model(messages):\n"
        "    return {'text': 'yes', 'latency_s': 3.0, 'cost_usd': 0.02,\n"
        "            'prompt_tokens': 10, 'completion_tokens': 1}\n",
    )
    limits = (
        '"demo.latency_s" = { at_most = 2.0 }\n'
        "cost_usd = { at_most = 0.05 }\n"
        "prompt_tokens = { at_most = 9 }"
    )
    project.settings(
        _gates(limits) + '[tool.harness.candidates.cand]\nmodel = "python:dear:model"\n',
        base="half",
    )
    run = project.run("--junit-xml=junit.xml")
    assert run.status == 6, "the base reports no cost: the comparison has no evidence"
    project.settings(
        _gates(limits) + '[tool.harness.candidates.cand]\nmodel = "python:dear:model"\n',
        base="python:dear:model",
    )
    run = project.run("--junit-xml=junit.xml")
    assert run.status == 1
    assert project.gates() == {
        "demo.cost_usd[cand]": "passed",
        "demo.exact_match[cand]": "passed",
        "demo.latency_s[cand]": "failure",
        "demo.prompt_tokens[cand]": "failure",
    }
    assert "latency s is 3 s; at most 2 s is asked for" in " ".join(run.text.split())


def test_without_a_rule_usage_is_no_metric(project):
    project.settings(base="half", cand="right")
    run = project.run()
    assert [one["metric"] for one in run.results["metrics"]] == ["demo.exact_match"]
