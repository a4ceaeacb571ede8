"""What a service answered with status 200 -> a reply, or the failure that it really is. Pure.

Routers and compatible servers report failures with status 200 too: in the choice, beside the
choices, in their place, as a page or as an event stream. None of these is the model's work.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from harness.models.failures import CallFailed, Kind, error_failure, page_text
from harness.records import Reply, broken_off, canonical_json, is_count

_EVENT = re.compile(r"(?:data|event|id|retry)?:")
_TEXTS = ("text", "output_text", None)
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
_FINE = ("0", "200", "ok", "success")
"""Codes of error objects that report no error."""


def reply_of(answer: object, latency_s: float) -> Reply:
    """Return the reply in `answer`: parsed JSON, or a text where it was not declared as JSON.

    Raises:
        CallFailed: it holds none, or only what a failing service had got to.

    """
    body = _body(answer)
    choice = _first_choice(body)
    if failure := _failure(body, choice):
        raise failure
    if choice is None:
        raise _no_completion(body)
    return _reply(body, choice, latency_s)


def unreadable(text: str) -> CallFailed:
    """Return what an answer means that is no JSON."""
    text = text.strip()
    if not text:
        return CallFailed(Kind.TRANSIENT, "the server's answer is empty")
    if _EVENT.match(text):
        return _stream_failure(text)
    if text.startswith("<"):
        return CallFailed(
            Kind.TRANSIENT,
            "the server answered with an HTML page instead of a completion (is base_url right?): "
            + page_text(text),
        )
    return CallFailed(Kind.TRANSIENT, f"the server's answer cannot be read: it is no JSON: {text}")


def _stream_failure(text: str) -> CallFailed:
    for event in _events(text):
        if failure := _failure(event, _first_choice(event)):
            return failure
    return CallFailed(
        Kind.PERMANENT,
        "the server answered with an event stream, which the request did not ask for: "
        "take `stream` out of extra_body, or name another base_url",
    )


def _events(text: str) -> Iterator[Mapping[str, Any]]:
    for line in text.splitlines():
        name, _, value = line.partition(":")
        with suppress(ValueError, RecursionError):
            if name == "data" and isinstance(event := json.loads(value), dict):
                yield event


def _body(answer: object) -> Mapping[str, Any]:
    if isinstance(answer, str):
        try:
            answer = json.loads(answer)
        except (ValueError, RecursionError):
            raise unreadable(str(answer)) from None
    listed = answer[0] if isinstance(answer, list) and answer else None
    if isinstance(listed, dict) and "error" in listed:
        return listed
    return answer if isinstance(answer, dict) else {"answer": answer}


def _first_choice(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else None


# ---------------------------------------------------------------------- failures


def _failure(body: Mapping[str, Any], choice: Mapping[str, Any] | None) -> CallFailed | None:
    reason = choice.get("finish_reason") if choice else None
    broken = isinstance(reason, str) and broken_off(reason)
    error = _told(body.get("error")) or (choice and _told(choice.get("error")))
    if error:
        return error_failure(error, body, Kind.TRANSIENT if broken else Kind.PERMANENT)
    if broken:
        return CallFailed(Kind.TRANSIENT, f"the server broke the reply off ({reason})")
    return _error_alone(body) if choice is None else None


def _told(error: object) -> object:
    """Return an error that says something: null, {}, a table of nulls and a code 0 are none."""
    if isinstance(error, list):
        error = error[0] if error else None
    if isinstance(error, dict):
        fine = str(error.get("code", "")).lower() in _FINE
        return None if fine or not any(error.values()) else error
    return error


def _error_alone(body: Mapping[str, Any]) -> CallFailed | None:
    """Read a body without choices as an error, where it names one."""
    if error := _told(body.get("errors")) or _told(body.get("base_resp")):
        return error_failure(error, body)
    said = any(isinstance(body.get(name), str | list) for name in ("message", "msg", "detail"))
    return error_failure(body, body) if said or body.get("object") == "error" else None


def _no_completion(body: Mapping[str, Any]) -> CallFailed:
    shown = "JSON that cannot be shown"
    with suppress(ValueError, RecursionError):
        shown = canonical_json(body.get("answer", body))
    return CallFailed(Kind.PERMANENT, f"the server's answer is no chat completion: {shown}")


# ---------------------------------------------------------------------- replies


def _reply(body: Mapping[str, Any], choice: Mapping[str, Any], latency_s: float) -> Reply:
    message, used = choice.get("message"), body.get("usage")
    if not isinstance(message, dict):
        raise _no_completion(body)
    text, thought, refused = _content(message.get("content"))
    calls, refused = _calls(message), refused or bool(message.get("refusal"))
    if text is None and not (thought or calls or refused):
        raise CallFailed(Kind.PERMANENT, "the server's answer holds no text")
    return Reply(
        text=text or "",
        prompt_tokens=_count(used, "prompt_tokens"),
        completion_tokens=_count(used, "completion_tokens"),
        cached_tokens=_count(_inner(used, "prompt_tokens_details"), "cached_tokens"),
        latency_s=latency_s,
        finish_reason="content_filter" if refused else _text(choice.get("finish_reason")),
        served_model=_text(body.get("model")),
        tool_calls=calls,
        reasoning=_thought(message) or thought,
        reasoning_tokens=_count(_inner(used, "completion_tokens_details"), "reasoning_tokens"),
    )


def _content(content: object) -> tuple[str | None, str, bool]:
    """Return the text of a message's content, its thinking, and whether it refuses.

    The text is None where the content is neither a text nor parts with one.
    """
    if content is None or isinstance(content, str):
        return content or "", "", False
    parts = content if isinstance(content, list) else [content]
    texts = [text for part in parts if (text := _part(part, _TEXTS)) is not None]
    thoughts = [text for part in parts if (text := _part(part, _THOUGHTS)) is not None]
    refused = any(isinstance(part, dict) and part.get("type") == "refusal" for part in parts)
    joined = "".join(texts) if texts or refused or not parts else None
    return joined, "".join(thoughts), refused


def _part(part: object, kinds: tuple[str | None, ...]) -> str | None:
    """Return the text of a content part of one of these `kinds`; a bare string is a text."""
    if isinstance(part, str):
        return part if "text" in kinds else None
    if not isinstance(part, dict) or part.get("type") not in kinds:
        return None
    value = next((part[key] for key in ("text", *_THOUGHTS) if key in part), None)
    return _joined(value)


def _joined(value: object) -> str | None:
    """Return a text, or the texts of parts put together."""
    if isinstance(value, list):
        texts = [text for part in value if (text := _part(part, (*_TEXTS, *_THOUGHTS)))]
        return "".join(texts)
    return _text(value)


def _thought(message: Mapping[str, Any]) -> str:
    found = (_joined(message.get(name)) for name in _THOUGHTS)
    return next((text for text in found if text), "")


def _calls(message: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    calls = message.get("tool_calls") or _legacy_call(message.get("function_call"))
    if not _are_calls(calls):
        raise CallFailed(Kind.PERMANENT, "the server's answer holds tool calls that are no objects")
    return tuple(calls)


def _legacy_call(call: object) -> list[dict[str, Any]]:
    return [{"type": "function", "function": call}] if isinstance(call, dict) and call else []


def _are_calls(calls: object) -> bool:
    """Whether `calls` are objects that JSON can hold: parsers let NaN pass."""
    try:
        canonical_json(calls)
    except ValueError:
        return False
    return isinstance(calls, list) and all(isinstance(call, dict) for call in calls)


def _inner(table: object, name: str) -> object:
    return table.get(name) if isinstance(table, dict) else None


def _count(table: object, name: str) -> int | None:
    value = _inner(table, name)
    return value if is_count(value) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
