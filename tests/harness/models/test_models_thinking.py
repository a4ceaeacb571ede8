from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.models.thinking import answered, split, thinks
from harness.records import ModelSpec, Reply

SPEC = ModelSpec("m", "python", "a:b")


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("yes", "", "yes"),
        ("<think>\nIs it?\n</think>\n\nyes", "Is it?", "yes"),
        ("\n <think>Is it?</think> yes", "Is it?", "yes"),
        ("Is it? I say so.\n</think>\n\nyes", "Is it? I say so.", "yes"),
        ("</think>yes", "", "yes"),
        ("<think>\n\n</think>\n\nyes", "", "yes"),
        ("<think>a</think>\n<think>b</think>\nyes", "a\n\nb", "yes"),
        ("<think>a</think>\n\n    indented()", "a", "    indented()"),
        ("<think>a</think>The tag </think> ends it.", "a", "The tag </think> ends it."),
        ("<thinking>a</thinking>yes", "a", "yes"),
        ("<thought>a</thought>yes", "a", "yes"),
        ("[THINK]a[/THINK]yes", "a", "yes"),
        ("<seed:think>a</seed:think>yes", "a", "yes"),
        ("<|START_THINKING|>a<|END_THINKING|>yes", "a", "yes"),
        ("<|channel|>analysis<|message|>a<|channel|>final<|message|>yes", "a", "yes"),
        ("Write `</think>` to end it.", "", "Write `</think>` to end it."),
        ("The tag </think> closes it.", "", "The tag </think> closes it."),
        ("Models write </think>, then answer.", "", "Models write </think>, then answer."),
        ("The tag (</think>) closes it.", "", "The tag (</think>) closes it."),
        ('So it is "yes"</think>yes', 'So it is "yes"', "yes"),
        ("I say so. </think>\n\nyes", "I say so.", "yes"),
        ("I say so. </think>yes", "I say so.", "yes"),
        ("<think>`</think>` ends it</think>yes", "`</think>` ends it", "yes"),
        ("Use <think>a</think> tags.", "", "Use <think>a</think> tags."),
        ("<thinker>no tag</thinker>", "", "<thinker>no tag</thinker>"),
        ("", "", ""),
    ],
)
def test_thinking_at_the_beginning_is_no_part_of_the_answer(
    text: str, thought: str, answer: str
) -> None:
    assert split(text) == (thought, answer, True)


@pytest.mark.parametrize("text", ["<think>Let me", "<think>", "<think>a</think><think>b"])
def test_thinking_that_never_ends_leaves_no_answer(text: str) -> None:
    assert split(text).answer == ""
    assert not split(text).complete


PIECES = st.sampled_from(
    [
        "<think>",
        "</think>",
        "<thinking>",
        "</thinking>",
        "[THINK]",
        "\n",
        " ",
        "`",
        "yes",
        "é",
        "\0",
    ]
)


@given(st.lists(PIECES, max_size=12).map("".join))
def test_what_was_taken_apart_once_stays_as_it_is(text: str) -> None:
    once = answered(SPEC, Reply(text=text))
    assert once.text in text
    if once.reasoning:
        assert answered(SPEC, once) == once


def test_the_answer_is_scored_and_the_thinking_stays_in_the_reply() -> None:
    reply = Reply(text="<think>hm</think>\nyes", finish_reason="stop", completion_tokens=9)
    assert answered(SPEC, reply) == replace(reply, text="yes", reasoning="hm")
    assert thinks(answered(SPEC, reply))
    assert not thinks(answered(SPEC, Reply(text="<think></think>yes")))
    kept = replace(SPEC, thinking="keep")
    assert answered(kept, reply) == reply
    assert thinks(reply)
    assert answered(replace(SPEC, thinking="off"), reply).text == "yes"


def test_where_the_service_told_the_reasoning_apart_a_closing_tag_is_text() -> None:
    reply = Reply(text="Close it with </think> here.", reasoning="hm")
    assert answered(SPEC, reply) == reply
    both = answered(SPEC, Reply(text="<think>b</think>yes", reasoning="a"))
    assert (both.text, both.reasoning) == ("yes", "a\n\nb")


@pytest.mark.parametrize(
    ("finish", "shortfall", "failure"),
    [
        ("length", "truncated", "max_tokens cut it off while the model was still thinking"),
        ("stop", "empty", "it holds thinking and no answer"),
        (None, "empty", "it holds thinking and no answer"),
    ],
)
def test_half_a_thought_is_an_empty_reply_that_says_so(
    finish: str | None, shortfall: str, failure: str
) -> None:
    half = answered(SPEC, Reply(text="<think>Let me see", finish_reason=finish))
    assert half.shortfall == shortfall
    assert half.failure == f"the reply is empty: {failure}"
