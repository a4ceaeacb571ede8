"""What is uploaded: the rows of a recipe as the fine-tuning protocol takes them, checked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.data.jsonl import Row
from harness.data.messages import as_protocol
from harness.data.pairs import PREFERRED, REJECTED, read_pairs
from harness.records import HarnessError, Message, digest_of
from trainers.recipe import Mix, load_data

LEAST = 10
"""Examples that a service asks for at least."""

_KEYS = frozenset({"role", "content", "name", "weight", "tool_calls", "tool_call_id"})
"""Keys of a message that services accept; they refuse a file with any other."""


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation that ends in the answer to learn; `rejected`: the answer not preferred."""

    row: Row
    rejected: Message | None = None

    @property
    def line(self) -> dict[str, Any]:
        """What is uploaded; ids, tags and clusters stay at home, and so do paths."""
        rejected = as_protocol([self.rejected]) if self.rejected else ()
        return self._line(as_protocol(self.row.messages), rejected)

    @property
    def written(self) -> dict[str, Any]:
        """The line with its messages as the file has them: what the same training is known by."""
        return self._line(self.row.messages, [self.rejected] if self.rejected else ())

    def _line(self, asked: Sequence[Message], rejected: Sequence[Message]) -> dict[str, Any]:
        tools = {"tools": [dict(tool) for tool in self.row.tools]} if self.row.tools else {}
        messages = [dict(message) for message in asked]
        if not rejected:
            return {"messages": messages, **tools}
        return {
            "input": {"messages": messages[:-1], **tools},
            PREFERRED: messages[-1:],
            REJECTED: [dict(message) for message in rejected],
        }

    @property
    def conversations(self) -> Iterator[tuple[Message, ...]]:
        """Yield what a training on this example reads: one conversation for each answer."""
        messages = as_protocol(self.row.messages)
        yield messages
        if self.rejected is not None:
            yield (*messages[:-1], *as_protocol([self.rejected]))


@dataclass(frozen=True)
class HostedData:
    """The examples of a hosted recipe: its own, those mixed in, those of the validation loss."""

    train: tuple[Example, ...]
    general: tuple[Example, ...] = ()
    validation: tuple[Example, ...] = ()

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of the lines of each kind."""
        return {
            "train": _digest(self.train),
            "general": _digest(self.general),
            "validation": _digest(self.validation),
        }

    @property
    def learned(self) -> tuple[Example, ...]:
        """The examples of the training file."""
        return (*self.train, *self.general)


def content_of(examples: Sequence[Example]) -> bytes:
    """Return `examples` as the JSONL file that is uploaded."""
    return "".join(json.dumps(example.line) + "\n" for example in examples).encode()


def load_examples(
    method: str, train: Path, validation: Path | None, mix: Mix | None, seed: int, root: Path
) -> HostedData:
    """Return the examples in the files of a recipe, fit for a service.

    Raises:
        HarnessError: a file or a row is wrong, or there are too few.

    """
    if method == "dpo":
        data = HostedData(
            train=_pairs(train, root), validation=_pairs(validation, root) if validation else ()
        )
    else:
        rows = load_data(train, validation, mix, seed, root)
        data = HostedData(*map(_examples, (rows.train, rows.general, rows.validation)))
    for example in (*data.learned, *data.validation):
        _refuse_unfit(example)
    if len(data.learned) < LEAST:
        raise HarnessError(
            f"{data.train[0].row.source.rpartition(':')[0]}: a service asks for {LEAST} examples "
            f"at least and there are {len(data.learned)}; add more, 50 to 100 are the least "
            "that helps"
        )
    return data


def _examples(rows: Sequence[Row]) -> tuple[Example, ...]:
    return tuple(Example(row) for row in rows)


def _pairs(path: Path, root: Path) -> tuple[Example, ...]:
    return tuple(Example(pair.row, pair.rejected) for pair in read_pairs(path, root))


def _refuse_unfit(example: Example) -> None:
    messages = [*example.row.messages, *([example.rejected] if example.rejected else [])]
    for position, message in enumerate(messages):
        _refuse_unfit_message(message, f"{example.row.source}: messages[{position}]")


def _refuse_unfit_message(written: Message, where: str) -> None:
    (message,) = as_protocol([written])
    if unknown := sorted(message.keys() - _KEYS):
        raise HarnessError(
            f"{where} has the key {unknown[0]!r}, for which services refuse the file; remove it"
        )
    if message["role"] != "assistant" and "weight" in message:
        raise HarnessError(f"{where} has a weight; only an assistant's message can: remove it")


def _digest(examples: Sequence[Example]) -> str:
    return digest_of([example.written for example in examples])
