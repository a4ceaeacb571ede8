from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.checks.tools import tool_call
from harness.records import Case, HarnessError, Reply


def call(name: Any, arguments: Any) -> dict[str, Any]:
    return {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}


def case(*calls: dict[str, Any]) -> Case:
    user = {"role": "user", "content": "?"}
    return Case("t", "c", (user,), source="x.jsonl:3", expected_tool_calls=calls)


FIND = call("find", '{"order": "A-1", "limit": 1}')


def values(expected: Case, *got: dict[str, Any], **more: Any) -> tuple[float | None, float | None]:
    scores = tool_call(expected, Reply(tool_calls=got), **more)
    assert [score.diagnostic for score in scores] == [False, True]
    return scores[0].value, scores[1].value


@pytest.mark.parametrize(
    ("got", "wanted"),
    [
        ([FIND], (1, 1)),
        ([call("find", '{ "limit": 1.0, "order": " A-1 " }')], (1, 1)),
        ([call("find", {"order": "A-1", "limit": 1})], (1, 1)),
        ([call("find", '{"order": "A-2", "limit": 1}')], (0, 1)),
        ([call("find", '{"order": "A-1", "limit": true}')], (0, 1)),
        ([call("find", '{"order": "A-1", "limit": 1, "more": 1}')], (0, 1)),
        ([call("find", '{"order": "A-1"}')], (0, 1)),
        ([call("find", '{"order": "A-1", "limit": 1')], (0, 1)),
        ([call("find", "[1]")], (0, 1)),
        ([call("find", None)], (0, 1)),
        ([call("lose", '{"order": "A-1", "limit": 1}')], (0, 0)),
        ([call(["find"], "{}")], (0, 0)),
        ([FIND, FIND], (0, 0)),
        ([], (0, 0)),
        ([{"function": "find"}], (0, 0)),
        ([{}], (0, 0)),
    ],
)
def test_the_right_function_with_the_right_arguments(got: Any, wanted: Any) -> None:
    assert values(case(FIND), *got) == wanted


def test_several_calls_count_in_any_order() -> None:
    other = call("refund", "{}")
    assert values(case(FIND, other), other, FIND) == (1, 1)
    assert values(case(FIND, other), other, other) == (0, 0)
    yes, one = call("set", '{"on": true}'), call("set", '{"on": 1}')
    assert values(case(yes, one), one, yes) == (1, 1)
    assert values(case(yes, one), one, one) == (0, 1)


def test_a_function_may_stand_in_for_the_reference() -> None:
    assert values(case(), FIND, function="find") == (1, 1)
    assert values(case(), call("find", "broken"), function="find") == (1, 1)
    assert values(case(), FIND, function="find", arguments={"order": "A-1"}) == (0, 1)
    assert values(case(), FIND, function="find", arguments={"order": "A-1", "limit": 1}) == (1, 1)


def test_the_explanation_names_both() -> None:
    score, _ = tool_call(case(FIND), Reply(tool_calls=(call("lose", "{}"),)))
    assert score.explanation == "lose({}) instead of find({'order': 'A-1', 'limit': 1})"
    silent, _ = tool_call(case(FIND), Reply("I cannot."))
    assert silent.explanation.startswith("no call instead of find")


@pytest.mark.parametrize(
    ("expected", "more", "words"),
    [
        (case(), {}, "has no tool calls"),
        (case(call("find", "{")), {}, "has no calls with a name and JSON arguments"),
        (case(FIND), {"arguments": {}}, "arguments and no function"),
        (case(FIND), {"function": "find", "arguments": '{"order": "A-1"}'}, "arguments as a dict"),
        (case(FIND), {"function": {"name": "find"}}, "the name of a function"),
    ],
)
def test_a_case_without_calls_is_told(expected: Case, more: Any, words: str) -> None:
    with pytest.raises(HarnessError, match=r"^x\.jsonl:3: ") as caught:
        tool_call(expected, Reply(), **more)
    assert words in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
arguments = st.dictionaries(st.text(max_size=5), json_values, max_size=4)


@given(arguments)
def test_arguments_equal_themselves_however_they_are_written(given: dict[str, Any]) -> None:
    written = json.dumps(dict(reversed(given.items())), indent=2)
    assert values(case(call("f", json.dumps(given))), call("f", written)) == (1, 1)
