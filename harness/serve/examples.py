"""A training file as the protocol has it -> rows that `trainers` can train on."""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness.records import strict_json

FEWEST = 10
"""Examples of a training file."""

Conversation = list[dict[str, Any]]
"""The messages of one example: `role`, `content` and, on answers, `weight`."""

_KEYS = {"messages", "parallel_tool_calls"}
_OWN_KEYS = {"id", "tags", "cluster"}
"""What rows of this project have beside the protocol's keys: nothing that is learnt."""

_MESSAGE_KEYS = {"role", "content", "name", "weight", "refusal"}
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class BadFile(Exception):
    """A training file is not what it must be; `code` is the protocol's."""

    def __init__(self, message: str, code: str = "invalid_file_format") -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Examples:
    """What a training file holds; `ignored` counts the keys that are not learnt from."""

    conversations: list[Conversation]
    ignored: Counter[str]


def read(content: bytes, fewest: int) -> Examples:
    """Return the examples of a JSONL file, of which there must be at least `fewest`.

    Raises:
        BadFile: a line is wrong, or there are too few.

    """
    conversations, ignored = [], Counter[str]()
    for number, line in _lines(content):
        values = _row(line, number)
        ignored.update(values.keys() & _OWN_KEYS)
        conversations.append(_conversation(values, number))
    if len(conversations) < fewest:
        raise BadFile(
            f"It has {len(conversations)} example(s), but must have at least {fewest} examples",
            "invalid_n_examples",
        )
    return Examples(conversations, ignored)


def _lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(content.removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1):
        if line.strip():
            yield number, line


def _row(line: bytes, number: int) -> dict[str, Any]:
    """Return the keys of a line that have a value."""
    try:
        values = strict_json(line.decode("utf-8"))
        json.dumps(values, ensure_ascii=False).encode()
    except ValueError as problem:
        raise BadFile(
            "Expected file to have JSONL format, where every line is a valid JSON dictionary. "
            f"Line {number} is not a dictionary: {problem}"
        ) from None
    if not isinstance(values, dict):
        raise BadFile(
            "Expected file to have JSONL format, where every line is a valid JSON dictionary. "
            f"Line {number} is not a dictionary."
        )
    return _without_nulls(values)


def _without_nulls(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _conversation(values: dict[str, Any], number: int) -> Conversation:
    try:
        return _checked(values)
    except ValueError as problem:
        raise BadFile(f"Line {number}: {problem}") from None


def _checked(values: dict[str, Any]) -> Conversation:
    for key in ("tools", "functions"):
        if values.get(key):
            raise ValueError(f"it has {key!r}, and this server does not train calls of tools")
    if unknown := sorted(values.keys() - _KEYS - _OWN_KEYS - {"tools", "functions"}):
        raise ValueError(f"it has the unknown key {unknown[0][:60]!r}")
    messages = values.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError("'messages' is missing or no list")
    conversation = [
        _message(message, f"messages[{position}]") for position, message in enumerate(messages)
    ]
    if conversation[-1]["role"] != "assistant":
        raise ValueError("the last message must be from the assistant")
    if not any(message["role"] == "user" for message in conversation):
        raise ValueError("it has no message with the role user")
    if not list(_trained(conversation)):
        raise ValueError("no message of the assistant has a weight of 1: nothing to learn")
    return conversation


def _message(message: object, where: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise ValueError(f"{where} is no object")
    message = _without_nulls(message)
    role = _role(message.get("role"), where)
    for key in ("tool_calls", "function_call"):
        if message.get(key):
            raise ValueError(f"{where} has {key!r}, and this server does not train calls of tools")
    if unknown := sorted(message.keys() - _MESSAGE_KEYS - {"tool_calls", "function_call"}):
        raise ValueError(f"{where} has the unknown key {unknown[0][:60]!r}")
    return {
        "role": role,
        "content": _text(message.get("content"), where),
        "weight": _weight(message, where),
    }


def _role(role: object, where: str) -> str:
    if role in ("tool", "function"):
        raise ValueError(
            f"{where} has the role {role!r}, and this server does not train calls of tools"
        )
    if not isinstance(role, str) or role not in _ROLES:
        raise ValueError(f"{where} has the unknown role {str(role)[:40]!r}")
    return _ROLES[role]


def _weight(message: dict[str, Any], where: str) -> int:
    weight = message.get("weight", 1)
    if isinstance(weight, bool) or weight not in (0, 1):
        raise ValueError(f"{where} has a weight that is neither 0 nor 1")
    if weight == 0 and message["role"] != "assistant":
        raise ValueError(f"{where} has a weight of 0, but is no message of the assistant")
    return int(weight)


def _text(content: object, where: str) -> str:
    if isinstance(content, list):
        content = "".join(_part(part, where) for part in content)
    if not isinstance(content, str) or not content.strip():
        raise ValueError(f"{where} has no text as its content")
    return content


def _part(part: object, where: str) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise ValueError(f"{where} has a part that is no text, and this server trains on text alone")


def rows(examples: Sequence[Conversation]) -> Iterator[dict[str, Any]]:
    """Yield a row for each answer that is learnt: `trainers` learns the last message of a row.

    `cluster` numbers the example; the last row of one is the longest. Equal examples count as
    often as they stand there, so every row has an id of its own.
    """
    for number, example in enumerate(examples, start=1):
        messages = [{key: message[key] for key in ("role", "content")} for message in example]
        for end in _trained(example):
            yield {"id": f"{number}.{end}", "cluster": f"{number}", "messages": messages[:end]}


def _trained(conversation: Conversation) -> Iterator[int]:
    """Yield where the answers end that are learnt: those with weight 1, after a question."""
    asked = False
    for end, message in enumerate(conversation, start=1):
        asked = asked or message["role"] == "user"
        if asked and message["role"] == "assistant" and message["weight"] == 1:
            yield end


def jsonl(values: Iterator[dict[str, Any]]) -> bytes:
    """Return `values` as the content of a JSONL file."""
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode()
