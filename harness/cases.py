"""JSONL files -> the cases of a suite and its few-shot examples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.data.jsonl import Row, read_rows
from harness.data.messages import RESULTS, as_protocol, calls_of, instructs
from harness.records import Case, HarnessError, Message, content_of, strict_json


def load_cases(path: Path, suite: str, root: Path) -> list[Case]:
    """Return the cases of a file; a last assistant message is taken off as `expected`.

    An assistant message of tool calls alone has no text to expect: `expected` is None.

    Raises:
        HarnessError: the file or a row is wrong, or a conversation does not end with the user or
            with a tool's result.

    """
    return [_case(row, suite) for row in read_rows(path, root)]


def _case(row: Row, suite: str) -> Case:
    messages, expected = row.messages, None
    calls: tuple[Mapping[str, Any], ...] = ()
    if messages[-1]["role"] == "assistant":
        text = content_of(messages[-1])
        expected = text if text.strip() else None
        calls = calls_of(messages[-1])
        _refuse_broken_calls(messages[-1], row.source)
        messages = messages[:-1]
    if not messages or messages[-1]["role"] not in ("user", *RESULTS):
        raise HarnessError(
            f"{row.source}: the last message before the expected answer is not the user's, nor a "
            "tool's result; end the row with one of them and, for a reference, one assistant "
            "message"
        )
    return Case(
        suite=suite,
        id=row.id,
        messages=messages,
        expected=expected,
        tags=row.tags,
        cluster=row.cluster,
        tools=row.tools,
        source=row.source,
        expected_tool_calls=calls,
    )


def _refuse_broken_calls(reference: Message, source: str) -> None:
    """What no reply can ever equal is refused before a model is asked."""
    for position, call in enumerate(as_protocol([reference])[0].get("tool_calls") or ()):
        try:
            right = isinstance(strict_json(call["function"]["arguments"]), dict)
        except ValueError:
            right = False
        if not right:
            raise HarnessError(
                f"{source}: the arguments of the expected tool_calls[{position}] are no JSON "
                "object; correct them"
            )


def load_few_shot(path: Path, root: Path) -> tuple[tuple[Message, ...], ...]:
    """Return the turns of each example of a file, without system messages.

    Raises:
        HarnessError: the file or a row is wrong, or an example does not go from a user's to an
            assistant's message.

    """
    return tuple(_example(row) for row in read_rows(path, root))


def _example(row: Row) -> tuple[Message, ...]:
    turns = tuple(message for message in row.messages if not instructs(message))
    if turns[0]["role"] != "user" or turns[-1]["role"] != "assistant":
        raise HarnessError(
            f"{row.source}: an example begins with a user message and ends with an assistant "
            "message; add what is missing"
        )
    return turns
