import json

import pytest

from harness.cases import load_cases
from harness.data.jsonl import read_rows
from harness.data.messages import as_protocol
from harness.data.pairs import read_pairs
from harness.evaluation import conversation
from harness.records import HarnessError, digest_of

ASK = {"role": "user", "content": "Weather in Ulm?"}
TELL = {"role": "assistant", "content": "9 degrees."}
FUNCTION = {"name": "weather", "arguments": '{"city":"Ulm"}'}
CALL = {"id": "t1", "type": "function", "function": FUNCTION}
CALLING = {"role": "assistant", "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "t1", "content": "9 C"}
LEGACY = {"role": "assistant", "content": None, "function_call": FUNCTION}
LEGACY_RESULT = {"role": "function", "name": "weather", "content": "9 C"}


def write(root, *rows):
    path = root / "x.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def read(root, *messages, **more):
    (row,) = read_rows(write(root, {"messages": list(messages), **more}), root)
    return row


def case(root, *messages):
    (found,) = load_cases(write(root, {"id": "a", "messages": list(messages)}), "s", root)
    return found


def called(arguments, **more):
    return {**CALLING, "tool_calls": [{**CALL, "function": {**FUNCTION, **arguments}}], **more}


# ---------------------------------------------------------------------- what is accepted


@pytest.mark.parametrize(
    "turn",
    [
        CALLING,
        {**CALLING, "content": None},
        {**CALLING, "content": ""},
        {**CALLING, "content": "Let me look."},
        {**CALLING, "tool_calls": [CALL, {**CALL, "id": "t2"}]},
        {**CALLING, "tool_calls": [{"function": {"name": "now"}}]},
        {**CALLING, "function_call": None, "refusal": None, "name": None, "weight": None},
        {**TELL, "tool_calls": None},
        {**TELL, "tool_calls": []},
        called({"arguments": ""}),
        called({"arguments": "{}"}),
        called({"arguments": {}}),
        called({"arguments": {"city": "Ulm"}}),
        called({"arguments": "{half"}),
        LEGACY,
        {**LEGACY, "content": "Let me look."},
        {**TELL, "weight": 0, "name": "Ada"},
        {"role": "developer", "content": "Be brief."},
    ],
)
def test_a_message_of_the_protocol_is_kept_as_it_was_written(tmp_path, turn):
    written = [ASK, turn, ASK, TELL]
    row = read(tmp_path, *written)
    assert list(row.messages) == written
    assert row.id == digest_of(written)[:12]


@pytest.mark.parametrize(
    "result",
    [
        RESULT,
        {**RESULT, "content": ""},
        {**RESULT, "content": None},
        {"role": "tool", "tool_call_id": "t1"},
    ],
)
def test_a_result_may_say_nothing(tmp_path, result):
    assert read(tmp_path, ASK, CALLING, result, TELL).messages[2] == result


def test_a_legacy_result_may_say_nothing(tmp_path):
    read(tmp_path, ASK, LEGACY, {**LEGACY_RESULT, "content": None}, TELL)


def test_a_result_needs_no_id_where_the_call_has_none(tmp_path):
    call = {"role": "assistant", "tool_calls": [{"function": FUNCTION}]}
    read(tmp_path, ASK, call, {"role": "tool", "content": "9 C"}, TELL)


def test_parts_of_text_are_joined(tmp_path):
    parts = [{"type": "text", "text": "Weather "}, {"type": "text", "text": "in Ulm?"}]
    row = read(tmp_path, {**ASK, "content": parts}, TELL)
    assert row.messages[0] == ASK
    assert read(tmp_path, ASK, CALLING, {**RESULT, "content": []}).messages[2]["content"] == ""


def test_legacy_functions_are_tools(tmp_path):
    function = {"name": "weather", "parameters": {"type": "object"}}
    assert read(tmp_path, ASK, LEGACY, functions=[function]).tools == (
        {"type": "function", "function": function},
    )


def test_pairs_take_calls_on_both_sides(tmp_path):
    row = {
        "input": {"messages": [ASK, CALLING, RESULT]},
        "preferred_output": [CALLING],
        "non_preferred_output": [{**TELL, "content": [{"type": "text", "text": "No."}]}],
    }
    (pair,) = read_pairs(write(tmp_path, row), tmp_path)
    assert pair.row.messages[-1] == CALLING
    assert pair.rejected == {**TELL, "content": "No."}


def test_the_turns_that_are_learned_are_those_with_weight(tmp_path):
    row = read(tmp_path, ASK, TELL, ASK, {**TELL, "weight": 0}, ASK, {**TELL, "weight": 1})
    assert row.learned == (1, 5)


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("turn", "problem"),
    [
        ({**TELL, "tool_calls": 5}, "messages[1]: tool_calls must be a list of calls, not 5"),
        ({**TELL, "tool_calls": {"0": CALL}}, "messages[1]: tool_calls must be a list"),
        ({**TELL, "tool_calls": "weather()"}, "messages[1]: tool_calls must be a list"),
        ({**CALLING, "tool_calls": [5]}, "messages[1].tool_calls[0] must be an object"),
        ({**CALLING, "tool_calls": [CALL, None]}, "messages[1].tool_calls[1] must be an object"),
        ({**CALLING, "tool_calls": [{}]}, "tool_calls[0].function must be an object with name"),
        ({**CALLING, "tool_calls": [{"function": "f"}]}, "function must be an object"),
        ({**CALLING, "tool_calls": [{**CALL, "id": 1}]}, "tool_calls[0]: id must be a string"),
        ({**CALLING, "tool_calls": [{**CALL, "type": "custom"}]}, "type must be 'function'"),
        (called({"name": None}), "function: name must be the name of a function, not None"),
        (called({"name": " "}), "name must be the name of a function, not ' '"),
        (called({"name": ["f"]}), "name must be the name of a function"),
        (called({"arguments": 1}), "arguments must be a JSON object, as a string or as it is"),
        (called({"arguments": [{}]}), "arguments must be a JSON object"),
        (called({"arguments": True}), "arguments must be a JSON object"),
        ({**LEGACY, "function_call": "auto"}, "messages[1].function_call must be an object"),
        ({**LEGACY, "function_call": {"arguments": "{}"}}, "name must be the name of a function"),
        ({**ASK, "tool_calls": [CALL]}, "messages[1] calls a tool; only an assistant's message"),
        ({**TELL, "content": {"text": "x"}}, "messages[1] has no text"),
        ({**TELL, "content": True}, "messages[1] has no text"),
        ({**CALLING, "content": 5}, "messages[1] has no text"),
        ({**RESULT, "content": {"celsius": 9}}, "messages[1] has no text"),
        ({**TELL, "tool_calls": [], "content": ""}, "messages[1] has empty content"),
        ({"role": "developer", "content": ""}, "messages[1] has empty content"),
        ({**TELL, "content": [{"type": "text", "text": " "}]}, "messages[1] has empty content"),
        (
            {**ASK, "content": [{"type": "text", "text": "x"}, {"type": "image_url"}]},
            "messages[1].content[1] must be a part of text, not 'image_url'",
        ),
        ({**ASK, "content": ["x"]}, "messages[1].content[0] must be a part of text, not 'x'"),
        ({**ASK, "content": [{"type": "text", "text": None}]}, "content[0] must be a part of"),
        ({**ASK, "name": 5}, "messages[1]: name must be a string, not 5"),
        ({**RESULT, "tool_call_id": 1}, "messages[1]: tool_call_id must be a string, not 1"),
        ({**TELL, "weight": 2}, "messages[1]: weight must be 0 or 1, not 2"),
        ({**TELL, "weight": True}, "messages[1]: weight must be 0 or 1, not True"),
        ({**TELL, "weight": "0"}, "messages[1]: weight must be 0 or 1"),
        ({"role": "function", "content": "x"}, "a result of a function needs its name"),
    ],
)
@pytest.mark.parametrize("load", [read_rows, lambda path, root: load_cases(path, "s", root)])
def test_any_other_json_is_refused_with_its_line(tmp_path, load, turn, problem):
    path = write(tmp_path, {"messages": [ASK]}, {"messages": [ASK, turn, ASK, TELL]})
    with pytest.raises(HarnessError) as refused:
        load(path, tmp_path)
    sentence = str(refused.value)
    assert sentence.startswith("x.jsonl:2: messages[1]")
    assert problem in sentence
    assert len(sentence) < 300


@pytest.mark.parametrize("before", [TELL, CALLING, {**CALLING, "function_call": FUNCTION}])
def test_a_legacy_result_without_its_call_is_refused(tmp_path, before):
    with pytest.raises(HarnessError, match=r"^x\.jsonl:1: messages\[2\] is the result of a func"):
        read(tmp_path, ASK, before, LEGACY_RESULT, TELL)


def test_a_result_that_does_not_say_whose_it_is_is_refused(tmp_path):
    nameless = {"role": "tool", "content": "9 C"}
    with pytest.raises(HarnessError, match=r"^x\.jsonl:1: messages\[2\] does not say whose"):
        read(tmp_path, ASK, CALLING, nameless, TELL)


@pytest.mark.parametrize("tool", [{"function": 5}, {"function": {}}, {"function": {"name": 1}}])
def test_a_tool_without_a_name_is_refused(tmp_path, tool):
    with pytest.raises(HarnessError, match=r"^x\.jsonl:1: tools\[1\]\.function must be"):
        read(tmp_path, ASK, tools=[{"type": "web_search"}, tool])


@pytest.mark.parametrize("arguments", ["{half", "[]", '{"a": 1, "a": 2}'])
def test_expected_calls_that_no_reply_can_equal_are_refused(tmp_path, arguments):
    with pytest.raises(HarnessError, match=r"^x\.jsonl:1: .*expected tool_calls\[0\] are no JSON"):
        case(tmp_path, ASK, called({"arguments": arguments}))


# ---------------------------------------------------------------------- cases


def test_a_case_may_end_in_the_result_of_a_tool(tmp_path):
    second_step = case(tmp_path, ASK, CALLING, RESULT, TELL)
    assert second_step.messages == (ASK, CALLING, RESULT)
    assert (second_step.text, second_step.expected) == (ASK["content"], TELL["content"])
    assert case(tmp_path, ASK, LEGACY, LEGACY_RESULT).expected is None


@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": ""}, {"content": " "}])
def test_expected_calls_without_text_are_the_reference(tmp_path, content):
    found = case(tmp_path, ASK, {**CALLING, **content})
    assert (found.expected, found.expected_tool_calls) == (None, (CALL,))
    assert found.reference == (
        '{"function":{"arguments":"{\\"city\\":\\"Ulm\\"}","name":"weather"},'
        '"id":"t1","type":"function"}'
    )


def test_a_legacy_call_is_expected_like_any_other(tmp_path):
    assert case(tmp_path, ASK, LEGACY).expected_tool_calls == (
        {"type": "function", "function": FUNCTION},
    )


def test_the_reference_of_a_case_with_a_text_is_its_text_first(tmp_path):
    assert case(tmp_path, ASK, TELL).reference == TELL["content"]
    both = case(tmp_path, ASK, {**CALLING, "content": "Let me look."})
    assert both.reference.startswith('Let me look.\n{"function"')


def test_the_digests_of_rows_that_worked_stay_the_same(tmp_path):
    written = [ASK, called({"arguments": {"city": "Ulm"}}), RESULT, ASK]
    found = case(tmp_path, *written, called({"arguments": {"city": "Ulm"}}, content=None))
    expected = called({"arguments": {"city": "Ulm"}})["tool_calls"]
    assert found.digest == digest_of([written, None, None, [], expected])


# ---------------------------------------------------------------------- what is sent and shown


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        ('{"b": 1,  "a": 2}', '{"b": 1,  "a": 2}'),
        ({"b": 1, "a": "ß"}, '{"a":"ß","b":1}'),
        ({}, "{}"),
        ("", "{}"),
        (None, "{}"),
    ],
)
def test_arguments_are_sent_as_json_text(arguments, sent):
    (message,) = as_protocol([called({"arguments": arguments})])
    assert message["tool_calls"] == [{**CALL, "function": {**FUNCTION, "arguments": sent}}]
    assert message["content"] is None


def test_what_the_protocol_has_already_is_sent_as_it_stands():
    messages = [ASK, {**CALLING, "content": "Let me look."}, RESULT, {**TELL, "weight": 0}]
    assert list(as_protocol(messages)) == messages


def test_keys_without_a_value_and_legacy_calls_are_sent_as_today():
    sent = as_protocol([ASK, {**LEGACY, "refusal": None}, LEGACY_RESULT])
    call = {"id": "call_1", "type": "function", "function": FUNCTION}
    assert sent == (
        ASK,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "9 C"},
    )


def test_a_result_of_a_legacy_call_may_be_one_of_a_tool():
    sent = as_protocol([ASK, LEGACY, {"role": "tool", "content": "9 C"}])
    assert sent[2] == {"role": "tool", "tool_call_id": "call_1", "content": "9 C"}


def test_a_result_without_content_is_sent_empty():
    assert as_protocol([{"role": "tool", "tool_call_id": "t1"}])[0]["content"] == ""


def test_a_conversation_shows_calls_and_no_instructions():
    brief = {"role": "developer", "content": "Be brief."}
    assert conversation([brief, ASK]) == ASK["content"]
    assert conversation([brief, ASK, CALLING, {**RESULT, "content": None}, TELL]).split("\n") == [
        "user: Weather in Ulm?",
        'assistant: {"function":{"arguments":"{\\"city\\":\\"Ulm\\"}","name":"weather"},'
        '"id":"t1","type":"function"}',
        "tool: ",
        "assistant: 9 degrees.",
    ]
