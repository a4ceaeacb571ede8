"""Rows as agents and services write them: calls of tools, their results, parts, developer."""

from __future__ import annotations

import html
import re

import pytest

from harness.data.jsonl import read_rows

ASK = {"role": "user", "content": "Weather in Ulm?"}
CALL = {"id": "t1", "type": "function", "function": {"name": "weather", "arguments": '{"a": 1}'}}
CALLING = {"role": "assistant", "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "t1", "content": ""}
YES = {"role": "assistant", "content": "yes"}
AGENT = """
def answers(messages):
    assert all("content" in message for message in messages)
    return "yes"


def calls(messages):
    return {"tool_calls": (CALL,)} if messages[-1]["role"] == "user" else "yes"


CALL = {"id": "x", "type": "function", "function": {"name": "weather", "arguments": '{"a":1}'}}
"""
TEMPLATED = """
[tool.harness.candidates.templated]
model = "templated"
[tool.harness.models.templated]
model = "python:agent:answers"
template = "Q: {{ text }}"
system = "Short."
"""
BOTH = """
import pytest

pytestmark = pytest.mark.cases(
    "data/demo.jsonl", few_shot="data/few.jsonl", shots=[0, 1], validation="data/few.jsonl"
)


def test_exact(score):
    score.exact()
"""
REPLAYED = """
import pytest

pytestmark = pytest.mark.cases("data/demo.jsonl")


def test_replayed(case, reply):
    assert bool(reply.tool_calls) == (case.messages[-1]["role"] == "user")
"""
TOOLS = """
import pytest

pytestmark = pytest.mark.cases("data/demo.jsonl")


def test_calls(score):
    score.tool_call()
"""
CONVERSATIONS = {
    "without-content": [ASK, CALLING, RESULT, YES, ASK, YES],
    "null": [ASK, {**CALLING, "content": None}, RESULT, YES],
    "empty": [ASK, {**CALLING, "content": ""}, RESULT, YES],
    "text-beside": [ASK, {**CALLING, "content": "Let me look."}, RESULT, YES],
    "several": [ASK, {**CALLING, "tool_calls": [CALL, {**CALL, "id": "t2"}]}, RESULT, YES],
    "legacy": [
        ASK,
        {"role": "assistant", "content": None, "function_call": CALL["function"]},
        {"role": "function", "name": "weather", "content": None},
        YES,
    ],
    "developer": [{"role": "developer", "content": "Be brief."}, ASK, YES],
    "parts": [{**ASK, "content": [{"type": "text", "text": "Weather?"}]}, YES],
    "weighted": [ASK, {**YES, "weight": 0}, ASK, {**YES, "weight": 1}],
}
ROWS = [{"id": name, "messages": turns} for name, turns in CONVERSATIONS.items()]


@pytest.fixture
def agent(project):
    project.write("agent.py", AGENT)
    return project


def page(project):
    """The text of the report."""
    written = (project.root / "reports/latest/index.html").read_text("utf-8")
    return html.unescape(re.sub(r"<[^>]*>", "", written))


def test_conversations_with_calls_are_cases_examples_and_in_the_report(agent):
    agent.rows("data/demo.jsonl", ROWS)
    agent.rows("data/few.jsonl", [{**row, "id": f"few-{row['id']}"} for row in ROWS])
    agent.write("evals/test_demo.py", BOTH)
    agent.settings(TEMPLATED, base="python:agent:answers", mute="wrong")
    run = agent.run()
    assert run.counts == {"passed": 11, "regressed": 9, "held": 9}
    shown = page(agent)
    assert shown.count('"name":"weather"') == 7
    assert "assistant: None" not in shown


def test_expected_and_replied_calls_are_in_the_report(agent):
    agent.rows("data/demo.jsonl", [{"id": "a", "messages": [ASK, CALLING]}])
    agent.write("evals/test_demo.py", TOOLS)
    agent.settings(base="python:agent:calls", cand="right")
    run = agent.run()
    assert run.metric("demo.tool_call")["baseline_mean"] == 1
    shown = page(agent)
    assert '"id":"t1"' in shown, "the reference"
    assert '"id":"x"' in shown, "the reply"


def test_recorded_calls_are_training_rows_with_calls(agent):
    agent.rows("data/demo.jsonl", [{"id": "a", "messages": [ASK]}, ROWS[1]])
    agent.pyproject('[tool.harness]\nbase = "replay:old.jsonl"\n')
    more = ("-o", "old.jsonl", "--training", "t.jsonl")
    status, said = agent.harness("record", "python:agent:calls", "data/demo.jsonl", *more)
    assert status == 0, said
    first, second = read_rows(agent.root / "t.jsonl", agent.root)
    assert first.messages[-1]["tool_calls"][0]["function"] == {
        "name": "weather",
        "arguments": '{"a":1}',
    }
    assert second.messages[-1]["content"] == "yes"
    agent.write("evals/test_demo.py", REPLAYED)
    run = agent.run()
    assert run.status == 0, run.text
