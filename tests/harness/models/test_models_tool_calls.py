from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.models.tool_calls import read

TOOLS: tuple[dict[str, Any], ...] = (
    {
        "type": "function",
        "function": {
            "name": "track",
            "parameters": {
                "type": "object",
                "properties": {"number": {"type": "string"}, "days": {"type": "integer"}},
            },
        },
    },
)
ARGUMENTS = {"number": "7"}


def called(text: str) -> tuple[str, list[tuple[str, object]]]:
    said, calls = read(text, TOOLS)
    for number, call in enumerate(calls):
        assert (call["id"], call["type"]) == (f"call_{number}", "function")
    functions = [call["function"] for call in calls]
    return said, [(one["name"], json.loads(one["arguments"])) for one in functions]


HERMES = '<tool_call>\n{"name": "track", "arguments": {"number": "7"}}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HERMES, ""),
        (f"One moment.\n{HERMES}", "One moment."),
        (HERMES.removesuffix("\n</tool_call>"), ""),
        (HERMES.replace('{"number": "7"}', '"{\\"number\\": \\"7\\"}"'), ""),
        (
            "<tool_call>\n<function=track>\n<parameter=number>\n7\n</parameter>\n</function>\n"
            "</tool_call>",
            "",
        ),
        ('[TOOL_CALLS] [{"name": "track", "arguments": {"number": "7"}, "id": "a"}]', ""),
        ('Wait. [TOOL_CALLS][{"name": "track", "arguments": {"number": "7"}}]', "Wait."),
        ('[TOOL_CALLS]track[ARGS]{"number": "7"}', ""),
        ('[TOOL_CALLS]track[CALL_ID]a1[ARGS]{"number": "7"}', ""),
        ('{"name": "track", "parameters": {"number": "7"}}', ""),
        ('\n{"type": "function", "name": "track", "parameters": {"number": "7"}}', ""),
        ('<|python_tag|>{"name": "track", "parameters": {"number": "7"}}', ""),
        (f"<think>\nIt is {HERMES[:11]}.\n</think>\n\n{HERMES}", "<think>\nIt is <tool_call>."),
    ],
)
def test_a_call_is_read_as_its_family_writes_it(text: str, said: str) -> None:
    rest, calls = called(text)
    assert calls == [("track", ARGUMENTS)]
    assert rest.removesuffix("</think>").strip() == said


@pytest.mark.parametrize(
    "text",
    [
        f"{HERMES}\n{HERMES}",
        '[TOOL_CALLS]track[ARGS]{"number": "7"}[TOOL_CALLS]track[ARGS]{"number": "7"}',
        '{"name": "track", "parameters": {"number": "7"}}; '
        '{"name": "track", "parameters": {"number": "7"}}',
    ],
)
def test_several_calls_are_read_in_their_order(text: str) -> None:
    assert called(text) == ("", [("track", ARGUMENTS)] * 2)


@pytest.mark.parametrize(
    "text",
    [
        "On its way.",
        '{"name": "Ann", "parameters": {"number": "7"}}',
        '{"name": "track", "status": "done"}',
        '{"name": "track", "parameters": {"number": "7"}} is what I would call',
        '[{"name": "track"}]',
        "<tool_call>\nnot JSON\n</tool_call>",
        f'{HERMES}\n<tool_call>{{"name": "tr',
        '<tool_call>{"arguments": {}}</tool_call>',
        '<tool_call>{"name": "track", "arguments": {"a": NaN}}</tool_call>',
        '<tool_call>{"name": "track", "arguments": {"a": "\\ud83d"}}</tool_call>',
        f'<tool_call>{{"name": "track", "arguments": {"[" * 5000}</tool_call>',
        "[TOOL_CALLS] 5",
        "<|python_tag|>print(1)",
        f"<think>I could say {HERMES}",
    ],
)
def test_what_is_no_whole_call_stays_text(text: str) -> None:
    assert read(text, TOOLS) == (text, ())


def test_a_text_written_without_quotes_stays_one_where_the_tool_wants_it() -> None:
    body = "<parameter=number>7</parameter><parameter=days>2</parameter>"
    text = f"<tool_call><function=track>{body}</function></tool_call>"
    assert called(text) == ("", [("track", {"number": "7", "days": 2})])


@pytest.mark.parametrize(
    ("schema", "written", "value"),
    [
        ({"type": ["string", "null"]}, "0123", "0123"),
        ({"type": ["string", "null"]}, "123", "123"),
        ({"type": ["string", "null"]}, "null", None),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "true", "true"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "null", None),
        ({"oneOf": [{"type": "string", "format": "date"}, {"type": "string"}]}, "2026", "2026"),
        ({"type": "string"}, "null", "null"),
        ({"type": ["string", "integer"]}, "7", 7),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "7", 7),
        ({"anyOf": 5, "type": [{}]}, "7", 7),
        (True, "7", 7),
    ],
)
def test_a_text_stays_one_where_the_schema_wants_nothing_else(
    schema: object, written: str, value: object
) -> None:
    function = {"name": "track", "parameters": {"properties": {"number": schema}}}
    body = f"<function=track><parameter=number>{written}</parameter></function>"
    _, (call,) = read(f"<tool_call>{body}</tool_call>", ({"function": function},))
    assert json.loads(call["function"]["arguments"]) == {"number": value}


_PIECES = ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "track", "{"]
_PIECES += [
    '"name"',
    ":",
    '"track"',
    ",",
    "}",
    "[",
    "]",
    '"arguments"',
    "\\ud800",
    "<function=",
    ">",
]


@given(st.lists(st.sampled_from(_PIECES) | st.text(max_size=3), max_size=12).map("".join))
def test_no_text_is_an_error(text: str) -> None:
    said, calls = read(text, TOOLS)
    assert calls or said == text
    json.dumps([dict(call) for call in calls], ensure_ascii=False).encode()
