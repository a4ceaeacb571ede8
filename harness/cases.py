"""JSONL files -> the cases of a suite and its few-shot examples."""

from __future__ import annotations

from pathlib import Path

from harness.data.jsonl import Row, read_rows
from harness.records import Case, HarnessError, Message


def load_cases(path: Path, suite: str, root: Path) -> list[Case]:
    """Return the cases of a file; a last assistant message is taken off as `expected`.

    An assistant message of tool calls alone has no text to expect: `expected` is None.

    Raises:
        HarnessError: the file or a row is wrong, or a conversation does not end with the user.

    """
    return [_case(row, suite) for row in read_rows(path, root)]


def _case(row: Row, suite: str) -> Case:
    messages, expected, calls = row.messages, None, ()
    if messages[-1]["role"] == "assistant":
        expected = messages[-1].get("content")
        calls = tuple(messages[-1].get("tool_calls") or ())
        messages = messages[:-1]
    if messages[-1]["role"] != "user":
        raise HarnessError(
            f"{row.source}: the last message before the expected answer is not the user's; "
            "end the row with a user message and, for a reference, one assistant message"
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


def load_few_shot(path: Path, root: Path) -> tuple[tuple[Message, ...], ...]:
    """Return the turns of each example of a file, without system messages.

    Raises:
        HarnessError: the file or a row is wrong, or an example does not go from a user's to an
            assistant's message.

    """
    return tuple(_example(row) for row in read_rows(path, root))


def _example(row: Row) -> tuple[Message, ...]:
    turns = tuple(message for message in row.messages if message["role"] != "system")
    if turns[0]["role"] != "user" or turns[-1]["role"] != "assistant":
        raise HarnessError(
            f"{row.source}: an example begins with a user message and ends with an assistant "
            "message; add what is missing"
        )
    return turns
