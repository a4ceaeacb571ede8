"""Messages of the chat protocol as files hold them: checked, and as services take them.

A message stays as it was written, so that ids and digests stay the same; only a content in parts
of text is joined. What is sent, or compared with another message, goes through `as_protocol`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.records import HarnessError, Message, canonical_json

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
INSTRUCTING = ("system", "developer")
"""Roles of messages that instruct the model; `developer` is OpenAI's newer name of `system`."""

RESULTS = ("tool", "function")
"""Roles of messages that hold what a call returned; `function` answers a legacy call."""


def instructs(message: Message) -> bool:
    """Whether `message` instructs the model, rather than being a turn of the conversation."""
    return message.get("role") in INSTRUCTING


def learned_turns(messages: Sequence[Message]) -> tuple[int, ...]:
    """Return the positions of the assistant's messages that a training learns.

    They are all of those whose `weight` is not 0, as the fine-tuning protocol has it.
    """
    return tuple(
        position
        for position, message in enumerate(messages)
        if message["role"] == "assistant" and message.get("weight") != 0
    )


def calls_of(message: Message) -> tuple[Mapping[str, Any], ...]:
    """Return the calls of tools in a checked message, as they were written; a legacy one too."""
    if not message.get("tool_calls") and message.get("function_call"):
        return ({"type": "function", "function": message["function_call"]},)
    return tuple(message.get("tool_calls") or ())


# ---------------------------------------------------------------------- checking


def checked_messages(messages: object, source: str) -> tuple[Message, ...]:
    """Return `messages` as a conversation with a question in it, or raise HarnessError."""
    if not isinstance(messages, list) or not messages:
        raise HarnessError(f"{source}: messages is missing or no list; add the conversation")
    checked = tuple(
        checked_message(message, f"{source}: messages[{position}]")
        for position, message in enumerate(messages)
    )
    if not any(message["role"] == "user" for message in checked):
        raise HarnessError(f"{source}: no message has the role user; add what the model is asked")
    _refuse_unnamed_results(checked, source)
    return checked


def checked_message(message: object, where: str) -> Message:
    """Return `message`, its parts of text joined; `where` names it in sentences.

    A key whose value is null counts as absent.

    Raises:
        HarnessError: its role is unknown, it says nothing and calls nothing, or a key of the
            protocol has a value that the protocol does not know.

    """
    if not isinstance(message, dict):
        raise HarnessError(f'{where} is no object; write {{"role": ..., "content": ...}}')
    if message.get("role") not in ROLES:
        raise HarnessError(
            f"{where} has the role {quoted(message.get('role'))}; use one of {', '.join(ROLES)}"
        )
    _refuse_bad_values(message, where)
    _refuse_bad_calls(message, where)
    return _with_text(message, where)


def _refuse_bad_values(message: Mapping[str, Any], where: str) -> None:
    for key in ("name", "tool_call_id"):
        if not isinstance(message.get(key), str | None):
            raise HarnessError(f"{where}: {key} must be a string, not {quoted(message[key])}")
    weight = message.get("weight")
    if weight is not None and (type(weight) is not int or weight not in (0, 1)):
        raise HarnessError(f"{where}: weight must be 0 or 1, not {quoted(weight)}")
    if message["role"] == "function" and not message.get("name"):
        raise HarnessError(f"{where}: a result of a function needs its name; add name")


def _refuse_bad_calls(message: Mapping[str, Any], where: str) -> None:
    calls, legacy = message.get("tool_calls"), message.get("function_call")
    if not isinstance(calls, list | None):
        raise HarnessError(f"{where}: tool_calls must be a list of calls, not {quoted(calls)}")
    for position, call in enumerate(calls or ()):
        _refuse_bad_call(call, f"{where}.tool_calls[{position}]")
    if legacy is not None:
        _refuse_bad_function(legacy, f"{where}.function_call")
    if calls_of(message) and message["role"] != "assistant":
        raise HarnessError(f"{where} calls a tool; only an assistant's message can: correct it")


def _refuse_bad_call(call: object, where: str) -> None:
    if not isinstance(call, dict):
        raise HarnessError(f"{where} must be an object with a function, not {quoted(call)}")
    if not isinstance(call.get("id"), str | None):
        raise HarnessError(f"{where}: id must be a string, not {quoted(call['id'])}")
    if call.get("type") not in ("function", None):
        raise HarnessError(f"{where}: type must be 'function', not {quoted(call['type'])}")
    _refuse_bad_function(call.get("function"), f"{where}.function")


def _refuse_bad_function(function: object, where: str) -> None:
    if not isinstance(function, dict):
        raise HarnessError(
            f"{where} must be an object with name and arguments, not {quoted(function)}; "
            'write {"name": "...", "arguments": "{...}"}'
        )
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str) or not name.strip():
        raise HarnessError(f"{where}: name must be the name of a function, not {quoted(name)}")
    if not isinstance(arguments, str | dict | None):
        raise HarnessError(
            f"{where}: arguments must be a JSON object, as a string or as it is, not "
            f"{quoted(arguments)}"
        )


def _with_text(message: dict[str, Any], where: str) -> Message:
    content = message.get("content")
    text = _joined(content, where) if isinstance(content, list) else content
    if not isinstance(text, str | None):
        raise HarnessError(f"{where} has no text; write its content as a text, or remove the row")
    if not (text or "").strip() and not calls_of(message) and message["role"] not in RESULTS:
        raise HarnessError(
            f"{where} has empty content; write its content as a text, or remove the row"
        )
    return {**message, "content": text} if isinstance(content, list) else dict(message)


def _joined(parts: list[object], where: str) -> str:
    return "".join(
        _text_of(part, f"{where}.content[{position}]") for position, part in enumerate(parts)
    )


def _text_of(part: object, where: str) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, dict) else part
    raise HarnessError(
        f"{where} must be a part of text, not {quoted(kind)}; "
        'write {"type": "text", "text": "..."}, or remove the row'
    )


def _refuse_unnamed_results(messages: Sequence[Message], source: str) -> None:
    """A result may leave out whose result it is only where the calls have no ids."""
    named = legacy = False
    for position, message in enumerate(messages):
        if message["role"] == "assistant":
            named = any(call.get("id") for call in message.get("tool_calls") or ())
            legacy = _calls_legacy(message)
        elif message["role"] == "tool" and named and message.get("tool_call_id") is None:
            raise HarnessError(
                f"{source}: messages[{position}] does not say whose result it is; "
                "add tool_call_id, the id of the call"
            )
        elif message["role"] == "function" and not legacy:
            raise HarnessError(
                f"{source}: messages[{position}] is the result of a function_call, and none stands "
                "before it; use the role tool with tool_calls"
            )


def _calls_legacy(message: Message) -> bool:
    """Whether `message` calls a function as the protocol once had it, and in no other way."""
    return isinstance(message.get("function_call"), Mapping) and not message.get("tool_calls")


def quoted(value: object) -> str:
    """Return `value` for a sentence, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# ---------------------------------------------------------------------- as services take them


def as_protocol(messages: Iterable[Message]) -> tuple[Message, ...]:
    """Return `messages` as today's protocol has them: what is sent, and what is compared.

    Arguments of calls are JSON texts; results have a content, and calls one that may be None;
    other keys with the value null are left out; a legacy `function_call` and its result are a call
    of a tool and its result. What is no message of the protocol stays as it is.
    """
    found: list[Message] = []
    legacy = ""
    for position, message in enumerate(messages):
        if message.get("role") == "assistant":
            legacy = f"call_{position}" if _calls_legacy(message) else ""
        found.append(_modern(message, legacy))
    return tuple(found)


def _modern(message: Message, legacy: str) -> Message:
    """Return one message; `legacy` is the id of the legacy call that it makes or answers."""
    kept = {key: v for key, v in message.items() if v is not None or key == "content"}
    function = kept.pop("function_call", None)
    if legacy and kept.get("role") == "assistant":
        kept["tool_calls"] = [{"id": legacy, "type": "function", "function": function}]
    if isinstance(kept.get("tool_calls"), list):
        kept["tool_calls"] = [_call(call) for call in kept["tool_calls"]]
    if legacy and kept.get("role") == "function":
        del kept["name"]
    if legacy and kept.get("role") in RESULTS:
        kept = {"tool_call_id": legacy, **kept, "role": "tool"}
    if kept.get("content") is None and kept.get("role") in ("assistant", "tool"):
        kept["content"] = "" if kept["role"] == "tool" else None
    return kept


def _call(call: object) -> object:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        return call
    kept = {key: value for key, value in call.items() if value is not None}
    return {**kept, "type": "function", "function": {**function, "arguments": _text(function)}}


def _text(function: Mapping[str, Any]) -> str:
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        return arguments if arguments.strip() else "{}"
    return canonical_json(arguments or {})
