"""JSONL files of conversations -> checked rows.

One JSON object a line: `messages` (required), `id`, `tags`, `cluster`, `tools` (or the legacy
`functions`); other keys are left alone. Every mistake is one sentence that begins with `file:line`.
"""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.data.messages import checked_messages, learned_turns, quoted
from harness.files import read_file
from harness.records import HarnessError, Message, canonical_json, digest_of, strict_json

LONGEST_ID = 200
"""Characters."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a file: a conversation, its last assistant message included.

    `line` counts from 1, `source` is `file:line` with the file relative to the project's root.
    A row without an id has the first 12 hex digits of its messages' digest.
    """

    line: int
    id: str
    messages: tuple[Message, ...]
    tags: tuple[str, ...]
    cluster: str | None
    tools: tuple[Mapping[str, Any], ...]
    source: str

    @property
    def learned(self) -> tuple[int, ...]:
        """The positions of the messages that a training learns: the assistant's with weight."""
        return learned_turns(self.messages)


def read_rows(path: Path, root: Path) -> list[Row]:
    """Return the rows of the JSONL file `path`, in its order; blank lines are skipped.

    Raises:
        HarnessError: there is no such file, it is empty, or a line is wrong.

    """
    where = shown_path(path, root)
    rows = [_row(text, number, f"{where}:{number}") for number, text in numbered_lines(path, where)]
    if not rows:
        raise HarnessError(
            f"{where}: the file is empty; write one JSON object with messages a line"
        )
    _refuse_duplicates(rows)
    return rows


def shown_path(path: Path, root: Path) -> str:
    """Return `path` relative to `root`, as people read it; as it is where it lies elsewhere."""
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def numbered_lines(path: Path, where: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of `path` that are not blank with their numbers, from 1; `where` names it.

    Raises:
        HarnessError: there is no such regular file, or it is no UTF-8.

    """
    try:
        content = read_file(path)
    except FileNotFoundError:
        raise HarnessError(
            f"{where}: there is no such file ({path}); correct the path or add it"
        ) from None
    except (OSError, ValueError) as problem:
        raise HarnessError(f"{where}: it cannot be read: {problem}; correct the path") from None
    # Only line feeds end a line: JSON texts may hold U+2028 and its like, which splitlines cuts.
    for number, line in enumerate(content.removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1):
        if line.strip():
            yield number, _decoded(line, f"{where}:{number}")


def _decoded(line: bytes, source: str) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        raise HarnessError(f"{source}: the line is no UTF-8; save the file as UTF-8") from None


def _row(text: str, number: int, source: str) -> Row:
    values = json_object(text, source)
    messages = checked_messages(values.get("messages"), source)
    return Row(
        line=number,
        id=_id(values.get("id"), messages, source),
        messages=messages,
        tags=_tags(values.get("tags"), source),
        cluster=_cluster(values.get("cluster"), source),
        tools=_tools(values, source),
        source=source,
    )


def json_object(text: str, source: str) -> dict[str, Any]:
    """Return the JSON object in the line `text`, or raise HarnessError."""
    try:
        values = strict_json(text)
        canonical_json(values).encode()
    except UnicodeEncodeError:
        raise HarnessError(
            f"{source}: the line holds half of a surrogate pair (such as \\ud83d alone), "
            "which is no text; remove it"
        ) from None
    except ValueError as problem:
        raise HarnessError(
            f"{source}: the line is no valid JSON: {problem}; write one object a line"
        ) from None
    if not isinstance(values, dict):
        raise HarnessError(f'{source}: the line is no JSON object; write {{"messages": [...]}}')
    return values


def _id(value: object, messages: tuple[Message, ...], source: str) -> str:
    if value is None:
        return digest_of(list(messages))[:12]
    if not isinstance(value, str):
        raise HarnessError(f"{source}: the id {quoted(value)} is no text; put it in quotes")
    if not value.strip():
        raise HarnessError(f"{source}: the id is empty; give one or leave the key out")
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in value):
        raise HarnessError(f"{source}: the id {quoted(value)} holds a control character; remove it")
    if len(value) > LONGEST_ID:
        raise HarnessError(
            f"{source}: the id has {len(value)} characters; use at most {LONGEST_ID}"
        )
    return value


def _tags(value: object, source: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(tag, str) for tag in value):
        raise HarnessError(f'{source}: tags is no list of texts; write ["one", "two"]')
    return tuple(value)


def _cluster(value: object, source: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise HarnessError(f"{source}: the cluster {quoted(value)} is no text; put it in quotes")
    return value


def _tools(values: Mapping[str, Any], source: str) -> tuple[Mapping[str, Any], ...]:
    legacy = values.get("functions")
    if values.get("tools") is not None or legacy is None:
        return checked_tools(values.get("tools"), source)
    if not isinstance(legacy, list):
        raise HarnessError(f"{source}: functions is no list of objects; write tools instead")
    return checked_tools([{"type": "function", "function": one} for one in legacy], source)


def key_path(keys: Iterable[object]) -> str:
    """Return where in a line something is; the keys of a file may hold anything, of any length."""
    return ".".join(quoted(key)[1:-1] if isinstance(key, str) else str(key) for key in keys)


def checked_tools(value: object, source: str) -> tuple[Mapping[str, Any], ...]:
    """Return the tools of a row, none where it has no such key, or raise HarnessError."""
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise HarnessError(f"{source}: tools is no list of objects; write what the API takes")
    for position, tool in enumerate(value):
        _refuse_bad_tool(tool, f"{source}: tools[{position}]")
    return tuple(value)


def _refuse_bad_tool(tool: Mapping[str, Any], where: str) -> None:
    function = tool.get("function")
    if function is None:
        return
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise HarnessError(
            f"{where}.function must be an object with a name, not {quoted(function)}"
        )


def _refuse_duplicates(rows: list[Row]) -> None:
    first: dict[str, Row] = {}
    for row in rows:
        if (earlier := first.setdefault(row.id, row)) is not row:
            raise HarnessError(
                f"{row.source}: the id {quoted(row.id)} stands in line {earlier.line} already "
                "(a row without an id is named after its messages); remove one or give it "
                "another id"
            )
