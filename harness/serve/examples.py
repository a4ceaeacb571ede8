"""A training file as the protocol has it -> rows that `trainers` can train on."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Sequence
from typing import Any

from harness.records import strict_json

FEWEST = 10
"""Examples of a training file."""

Conversation = list[dict[str, Any]]
"""The messages of one example: `role`, `content` and, on answers, `weight`."""

_KEYS = {"messages", "parallel_tool_calls"}
_MESSAGE_KEYS = {"role", "content", "name", "weight", "refusal"}
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class BadFile(Exception):
    """A training file is not what it must be; `code` is the protocol's."""

    def __init__(self, message: str, code: str = "invalid_file_format") -> None:
        super().__init__(message)
        self.code = code


def read(content: bytes, fewest: int) -> list[Conversation]:
    """Return the examples of a JSONL file, of which there must be at least `fewest`.

    Raises:
        BadFile: a line is wrong, or there are too few.

    """
    examples = [_example(line, number) for number, line in _lines(content)]
    if len(examples) < fewest:
        raise BadFile(
            f"It has {len(examples)} example(s), but must have at least {fewest} examples",
            "invalid_n_examples",
        )
    return examples


def _lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(content.removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1):
        if line.strip():
            yield number, line


def _example(line: bytes, number: int) -> Conversation:
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
    try:
        return _conversation(values)
    except ValueError as problem:
        raise BadFile(f"Line {number}: {problem}") from None


def _conversation(values: dict[str, Any]) -> Conversation:
    if values.get("tools") or values.get("functions"):
        raise ValueError("it has tools, and this server does not train calls of tools")
    if unknown := sorted(values.keys() - _KEYS - {"tools", "functions"}):
        raise ValueError(f"it has the unknown key {unknown[0][:60]!r}")
    messages = values.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError("'messages' is missing or no list")
    conversation = [_message(message) for message in messages]
    if conversation[-1]["role"] != "assistant":
        raise ValueError("the last message must be from the assistant")
    if not any(message["role"] == "user" for message in conversation):
        raise ValueError("it has no message with the role user")
    if not list(_trained(conversation)):
        raise ValueError("no message of the assistant has a weight of 1: nothing to learn")
    return conversation


def _message(message: object) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise ValueError("a message is no object")
    if message.get("tool_calls") or message.get("function_call"):
        raise ValueError("a message calls a tool, and this server does not train that")
    if unknown := sorted(message.keys() - _MESSAGE_KEYS - {"tool_calls", "function_call"}):
        raise ValueError(f"a message has the unknown key {unknown[0][:60]!r}")
    role = _ROLES.get(str(message.get("role")))
    if role is None:
        raise ValueError(f"a message has the unknown role {str(message.get('role'))[:40]!r}")
    weight = message.get("weight", 1)
    if weight not in (0, 1) or (weight != 1 and role != "assistant"):
        raise ValueError("a weight must be 0 or 1, on a message of the assistant")
    return {"role": role, "content": _text(message.get("content")), "weight": weight}


def _text(content: object) -> str:
    if isinstance(content, list):
        content = "".join(map(_part, content))
    if not isinstance(content, str) or not content.strip():
        raise ValueError("a message has no text as its content")
    return content


def _part(part: object) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise ValueError("a part of a message is no text, and this server trains on text alone")


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
