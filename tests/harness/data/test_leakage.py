# ruff: noqa: RUF001
import pytest

from harness.data.jsonl import Row
from harness.data.leakage import refuse_leaks
from harness.records import Case, HarnessError


def turn(role, content):
    return {"role": role, "content": content}


def row(line, *messages):
    return Row(line, str(line), messages, (), None, (), f"datasets/train.jsonl:{line}")


def case(*messages):
    return Case("tickets", "late parcel", messages, source="datasets/test.jsonl:7")


ASKED = turn("user", "My parcel is late.\nWhere is it?")
TOLD = turn("assistant", "On its way.")


@pytest.mark.parametrize(
    "messages",
    [
        (ASKED, TOLD),
        (ASKED, turn("assistant", "Another answer.")),
        (turn("user", "  MY parcel is late. where\tis  it?"), TOLD),
        (turn("user", "My pa\u00adrcel is\u00a0late.\u200b Where is it?\ufeff"), TOLD),
        (turn("user", "Ｍｙ parcel is late. Where is it？"), TOLD),
        (turn("system", "Another instruction."), ASKED, TOLD),
        (ASKED,),
        (
            ASKED,
            {"role": "assistant", "content": None, "tool_calls": [{}]},
            turn("tool", "x"),
            TOLD,
        ),
    ],
)
def test_a_training_row_that_asks_a_case_is_refused_naming_both(messages):
    with pytest.raises(HarnessError) as refused:
        refuse_leaks([row(3, turn("user", "hi")), row(4, *messages)], [case(ASKED)])
    sentence = str(refused.value)
    assert sentence.startswith("datasets/train.jsonl:4: ")
    assert "'late parcel' at datasets/test.jsonl:7" in sentence
    assert "more rows" not in sentence


@pytest.mark.parametrize(
    ("asked", "trained"),
    [
        ("Wo ist mein Päckchen?", "Wo ist mein Pa\u0308ckchen?"),
        ("한국어", "\u1112\u1161\u11ab국어"),
        ("می\u200cخواهم", "میخواهم"),
        ("ﬁne Straße", "FINE STRASSE"),
        ("データ", "ﾃﾞｰﾀ"),
    ],
)
def test_a_question_in_another_normal_form_is_a_leak(asked, trained):
    for one, other in ((asked, trained), (trained, asked)):
        with pytest.raises(HarnessError, match="also the evaluation case"):
            refuse_leaks([row(1, turn("user", one))], [case(turn("user", other))])


def test_the_number_of_further_leaks_is_told():
    rows = [row(line, ASKED, TOLD) for line in (2, 5, 9)]
    with pytest.raises(HarnessError, match=r"^datasets/train\.jsonl:2: .*and 2 more rows"):
        refuse_leaks(rows, [case(ASKED)])


@pytest.mark.parametrize(
    "messages",
    [
        (turn("user", "My parcel is late. Where is he?"), TOLD),
        (turn("user", "hi"), turn("assistant", "hello"), ASKED, TOLD),
        (ASKED, TOLD, turn("user", "thanks"), TOLD),
    ],
)
def test_another_text_or_another_conversation_is_no_leak(messages):
    refuse_leaks([row(1, *messages)], [case(ASKED)])


def test_a_conversation_leaks_only_as_a_whole():
    conversation = (turn("user", "hi"), turn("assistant", "hello"), ASKED)
    refuse_leaks([row(1, ASKED, TOLD)], [case(*conversation)])
    with pytest.raises(HarnessError):
        refuse_leaks([row(1, *conversation, TOLD)], [case(turn("system", "s"), *conversation)])
