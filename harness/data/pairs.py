"""JSONL files of preferences, as the hosted services take them for DPO -> checked pairs.

One JSON object a line: `input` with `messages` (and `tools`), `preferred_output` and
`non_preferred_output`, each a list of one assistant message.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.data.jsonl import Row, checked_tools, json_object, numbered_lines, shown_path
from harness.data.messages import checked_message, checked_messages
from harness.records import HarnessError, Message, digest_of

PREFERRED, REJECTED = "preferred_output", "non_preferred_output"


@dataclass(frozen=True, slots=True)
class Pair:
    """A conversation that ends in the preferred answer, and the answer that is not preferred."""

    row: Row
    rejected: Message


def read_pairs(path: Path, root: Path) -> list[Pair]:
    """Return the pairs of the JSONL file `path`, in its order; blank lines are skipped.

    Raises:
        HarnessError: there is no such file, it is empty, or a line is wrong.

    """
    where = shown_path(path, root)
    pairs = [
        _pair(text, number, f"{where}:{number}") for number, text in numbered_lines(path, where)
    ]
    if not pairs:
        raise HarnessError(f"{where}: the file is empty; write one preference a line")
    return pairs


def _pair(text: str, line: int, source: str) -> Pair:
    values = json_object(text, source)
    asked = values.get("input")
    if not isinstance(asked, dict):
        raise HarnessError(f'{source}: input is missing; write {{"messages": [...]}} there')
    messages = (
        *checked_messages(asked.get("messages"), f"{source}: input"),
        _answer(values, PREFERRED, source),
    )
    tools = checked_tools(asked.get("tools"), source)
    row = Row(line, digest_of(list(messages))[:12], messages, (), None, tools, source)
    return Pair(row, _answer(values, REJECTED, source))


def _answer(values: Mapping[str, Any], key: str, source: str) -> Message:
    answers = values.get(key)
    if not isinstance(answers, list) or len(answers) != 1:
        raise HarnessError(f"{source}: {key} is no list of one assistant message; write one")
    answer = checked_message(answers[0], f"{source}: {key}[0]")
    if answer["role"] != "assistant":
        raise HarnessError(f"{source}: {key}[0] is no assistant's; write the model's answer")
    return answer
