import json

import pytest

from harness.cases import load_cases, load_few_shot
from harness.records import HarnessError

RULES = {"role": "system", "content": "Be brief."}
ASK = {"role": "user", "content": "Where is it?"}
TELL = {"role": "assistant", "content": ' {"city": "Lyon"}\n'}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}


def write(root, *conversations, **more):
    path = root / "x.jsonl"
    rows = [
        {"id": f"c{number}", "messages": messages, **more}
        for number, messages in enumerate(conversations)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def cases(root, *conversations, **more):
    return load_cases(write(root, *conversations, **more), "tickets", root)


def test_the_last_assistant_message_is_the_expected_answer_as_it_stands(tmp_path):
    (case,) = cases(tmp_path, [RULES, ASK, TELL, ASK, TELL], tags=["eu"], cluster="k", tools=[{}])
    assert case.messages == (RULES, ASK, TELL, ASK)
    assert case.expected == TELL["content"]
    assert (case.suite, case.id, case.source) == ("tickets", "c0", "x.jsonl:1")
    assert (case.tags, case.cluster, case.tools) == (("eu",), "k", ({},))
    assert case.text == "Where is it?"


def test_a_case_may_expect_nothing(tmp_path):
    plain, call = cases(tmp_path, [ASK], [RULES, ASK, CALL])
    assert plain.expected is None
    assert plain.messages == (ASK,)
    assert call.expected is None
    assert call.messages == (RULES, ASK)


@pytest.mark.parametrize("end", [[TELL, TELL], [RULES], [RULES, TELL]])
def test_a_case_that_does_not_end_with_the_user_is_refused(tmp_path, end):
    with pytest.raises(HarnessError, match=r"^x\.jsonl:2: .* is not the user's"):
        cases(tmp_path, [ASK, TELL], [ASK, *end])


def test_a_bad_row_is_refused_with_its_place(tmp_path):
    with pytest.raises(HarnessError, match=r"^x\.jsonl:2: messages is missing"):
        cases(tmp_path, [ASK], [])


def test_examples_are_their_turns_without_system_messages(tmp_path):
    path = write(tmp_path, [RULES, ASK, TELL], [ASK, TELL, ASK, TELL])
    assert load_few_shot(path, tmp_path) == ((ASK, TELL), (ASK, TELL, ASK, TELL))


@pytest.mark.parametrize("turns", [[RULES, ASK], [TELL, ASK, TELL], [ASK, TELL, ASK]])
def test_an_example_that_is_no_whole_exchange_is_refused(tmp_path, turns):
    with pytest.raises(HarnessError, match=r"^x\.jsonl:2: an example begins with a user message"):
        load_few_shot(write(tmp_path, [ASK, TELL], turns), tmp_path)
