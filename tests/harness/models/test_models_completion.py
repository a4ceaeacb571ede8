from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.models.completion import reply_of, unreadable
from harness.models.failures import CallFailed, Kind
from harness.records import Reply

UPSTREAM = {"code": 502, "message": "Upstream died"}


def body(content: Any = "yes", finish: Any = "stop", **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"content": content}, "finish_reason": finish}
    choice |= more.pop("choice", {})
    choice["message"] |= more.pop("message", {})
    return {"model": "m", "choices": [choice], **more}


def failure(answer: Any) -> CallFailed:
    with pytest.raises(CallFailed) as caught:
        reply_of(answer, 0.1)
    return caught.value


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (body(None, "error"), Kind.TRANSIENT, "broke the reply off (error)"),
        (body("half an ans", "network_error"), Kind.TRANSIENT, "(network_error)"),
        (body("half", "insufficient_system_resource"), Kind.TRANSIENT, "broke the reply off"),
        (body("half", "ABORT"), Kind.TRANSIENT, "broke the reply off"),
        *(
            (body("half", reason), Kind.TRANSIENT, f"broke the reply off ({reason})")
            for reason in ("server_error", "engine-error", "FAILED", "timeout", "interrupted")
        ),
        (body(None, "error", choice={"error": UPSTREAM}), Kind.TRANSIENT, "502: Upstream died"),
        (body("half", "stop", choice={"error": UPSTREAM}), Kind.TRANSIENT, "Upstream died"),
        (body("half", "error", choice={"error": {"message": "hm"}}), Kind.TRANSIENT, "hm"),
        (body("yes", error=UPSTREAM), Kind.TRANSIENT, "502: Upstream died"),
        (body("yes", error={"code": 403, "message": "no"}), Kind.PERMANENT, "403: no"),
        ({"error": {"code": "429", "message": "slow"}}, Kind.RATE_LIMIT, "429: slow"),
        ({"error": {"code": 429, "type": "insufficient_quota"}}, Kind.PERMANENT, "429"),
        ({"error": {"type": "overloaded_error", "message": "x"}}, Kind.TRANSIENT, "an error: x"),
        ({"error": {"code": "rate_limit_exceeded"}}, Kind.RATE_LIMIT, "gave no reason"),
        ({"error": {"status": "UNAVAILABLE", "message": "x"}}, Kind.TRANSIENT, "x"),
        ([{"error": {"code": 503, "message": "x"}}], Kind.TRANSIENT, "503: x"),
        ({"error": {"message": "no such model"}}, Kind.PERMANENT, "no such model"),
        ({"error": "no such model"}, Kind.PERMANENT, "an error: no such model"),
        ({"error": {"message": "x"}, "status": 503}, Kind.TRANSIENT, "503: x"),
        ({"error": {"code": "content_filter"}}, Kind.CONTENT_FILTER, ""),
        ({"errors": [{"code": 500, "message": "x"}], "success": False}, Kind.TRANSIENT, "500: x"),
        ({"object": "error", "message": "bad", "code": 400}, Kind.PERMANENT, "400: bad"),
        ({"base_resp": {"status_code": 1002, "status_msg": "slow"}}, Kind.PERMANENT, "slow"),
        ({"detail": "Not authenticated"}, Kind.PERMANENT, "Not authenticated"),
        ({"choices": []}, Kind.PERMANENT, 'no chat completion: {"choices":[]}'),
        ({"message": {"content": "native"}}, Kind.PERMANENT, "no chat completion"),
        ([], Kind.PERMANENT, "no chat completion: []"),
        (body(3), Kind.PERMANENT, "holds no text"),
        (body([{"type": "image_url", "image_url": {}}]), Kind.PERMANENT, "holds no text"),
        (body(message={"tool_calls": "f()"}), Kind.PERMANENT, "tool calls that are no objects"),
        ("", Kind.TRANSIENT, "is empty"),
        ("<html><title>502 Bad\nGateway</title>", Kind.TRANSIENT, "page instead of a completion"),
        ("<html><title>502 Bad\nGateway</title>", Kind.TRANSIENT, ": 502 Bad Gateway"),
        ('{"half": ', Kind.TRANSIENT, "it is no JSON"),
        ('data: {"choices": [{"delta": {"content": "y"}}]}\n\n', Kind.PERMANENT, "event stream"),
        (': hold on\n\ndata: {"error": {"code": 503, "message": "x"}}', Kind.TRANSIENT, "503: x"),
    ],
)
def test_a_failure_with_status_200_is_no_reply(answer: Any, kind: Kind, words: str) -> None:
    found = failure(answer)
    assert found.kind is kind
    assert words in str(found)


@pytest.mark.parametrize(
    ("reason", "shortfall"),
    [
        ("RECITATION", "refused"),
        ("PROHIBITED_CONTENT", "refused"),
        ("guardrail_intervened", "refused"),
        ("ERROR_TOXIC", "refused"),
        ("ERROR_LIMIT", "truncated"),
        ("end_turn", ""),
        ("eos_token", ""),
        ("malformed_function_call", ""),
    ],
)
def test_other_reasons_are_the_models_own(reason: str, shortfall: str) -> None:
    assert reply_of(body("yes", reason), 0.1).shortfall == shortfall


def test_what_the_service_behind_a_router_said_is_told_too() -> None:
    error = {"message": "Provider returned error", "code": 502, "metadata": {"raw": "overloaded"}}
    assert str(failure({"error": error})) == (
        "the server answered 502: Provider returned error: overloaded"
    )


@pytest.mark.parametrize(
    "answer",
    [
        body(error=None),
        body(error={}),
        body(error={"code": None, "message": ""}),
        body(error={"code": 0, "message": "success"}),
        body(choice={"error": None}),
        body(base_resp={"status_code": 0, "status_msg": "success"}),
        json.dumps(body()),
    ],
)
def test_an_error_that_says_nothing_is_none(answer: Any) -> None:
    assert reply_of(answer, 0.1).text == "yes"


def part(kind: str, text: Any, name: str = "text") -> dict[str, Any]:
    return {"type": kind, name: text}


@pytest.mark.parametrize(
    ("answer", "text", "reasoning"),
    [
        (body([part("text", "y"), part("text", "es")]), "yes", ""),
        (body([part("output_text", "yes"), {"type": "image_url"}]), "yes", ""),
        (body(["yes"]), "yes", ""),
        (body(part("text", "yes")), "yes", ""),
        (
            body([part("thinking", [part("text", "hm")], "thinking"), part("text", "yes")]),
            "yes",
            "hm",
        ),
        (body([part("reasoning", "hm"), part("text", "yes")]), "yes", "hm"),
        (body([]), "", ""),
        (body(message={"reasoning_content": "hm"}), "yes", "hm"),
        (body(message={"reasoning": "hm", "reasoning_content": None}), "yes", "hm"),
        (body(message={"reasoning": "hm", "reasoning_content": "hm"}), "yes", "hm"),
        (body(message={"reasoning": {"effort": "low"}}), "yes", ""),
        (body(None, message={"reasoning_content": "hm"}), "", "hm"),
    ],
)
def test_answers_are_read_as_services_write_them(answer: Any, text: str, reasoning: str) -> None:
    reply = reply_of(answer, 0.1)
    assert (reply.text, reply.reasoning) == (text, reasoning)


@pytest.mark.parametrize(
    "answer",
    [
        body(None, message={"refusal": "I will not"}),
        body([part("refusal", "I will not", "refusal")]),
        body(None, "content_filter"),
        body("I will not", "sensitive"),
        body("I will not", "SAFETY"),
    ],
)
def test_a_refusal_is_refused(answer: Any) -> None:
    assert reply_of(answer, 0.1).shortfall == "refused"


def test_a_call_of_the_old_kind_is_a_call_of_a_tool() -> None:
    called = {"name": "f", "arguments": "{}"}
    old = reply_of(body(None, "function_call", message={"function_call": called}), 0.1)
    assert old.tool_calls == ({"type": "function", "function": called},)
    assert reply_of(body(message={"function_call": None, "tool_calls": []}), 0.1).tool_calls == ()


def test_the_tokens_of_thinking_are_counted() -> None:
    used = {"completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 7}}
    reply = reply_of(body(usage=used), 0.1)
    assert (reply.completion_tokens, reply.reasoning_tokens) == (9, 7)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
KEYS = st.sampled_from(
    [
        *("choices", "message", "content", "error", "code", "type", "text", "finish_reason"),
        *("tool_calls", "refusal", "detail", "reasoning", "function_call", "metadata", "raw"),
        *("base_resp", "errors", "innererror", "thinking", "status", "usage"),
    ]
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4)
)
COMPLETIONS = st.builds(
    lambda message, choice, more: more | {"choices": [choice | {"message": message}]},
    st.dictionaries(KEYS, VALUES, max_size=4),
    st.dictionaries(KEYS, VALUES, max_size=4),
    st.dictionaries(KEYS, VALUES, max_size=4),
)


@given(VALUES | COMPLETIONS)
def test_any_json_is_a_reply_or_a_failure(answer: Any) -> None:
    with suppress(CallFailed):
        assert isinstance(reply_of(answer, 0.1), Reply)


@given(
    st.text() | st.lists(st.sampled_from(["data:", "<", ">", "title", "{", "\n", ":"])).map("".join)
)
def test_any_text_is_a_failure_in_words(text: str) -> None:
    assert str(unreadable(text))
