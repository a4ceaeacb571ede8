"""Training rows that are evaluation cases: what was trained on measures nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.data.jsonl import Row
from harness.data.messages import as_protocol, instructs
from harness.records import Case, HarnessError, Message, canonical_json, content_of
from harness.unicode import folded


def refuse_leaks(train: Iterable[Row], cases: Iterable[Case]) -> None:
    """Raise HarnessError if a training row asks what an evaluation case asks.

    Compared are the turns up to the last user message and their calls of tools but for the calls'
    ids, without case, width, format characters and further white space (`harness.unicode.folded`).
    System messages do not count: the same question under another instruction is known to the
    model all the same.
    """
    asked = {_question(case.messages): case for case in cases}
    leaks = [(row, asked[key]) for row in train if (key := _question(row.messages)) in asked]
    if leaks:
        row, case = leaks[0]
        others = f" (and {len(leaks) - 1} more rows)" if len(leaks) > 1 else ""
        raise HarnessError(
            f"{row.source}: this training row is also the evaluation case {case.id!r} at "
            f"{case.source}{others}; remove it from the training file"
        )


def _question(messages: Sequence[Message]) -> tuple[tuple[str, str, str], ...]:
    turns = [message for message in as_protocol(messages) if not instructs(message)]
    while turns and turns[-1]["role"] != "user":
        turns.pop()
    return tuple((turn["role"], folded(content_of(turn)), _called(turn)) for turn in turns)


def _called(turn: Message) -> str:
    return folded(canonical_json([call["function"] for call in turn.get("tool_calls") or ()]))


def conversation_key(messages: Sequence[Message]) -> str:
    """Return what conversations have in common that differ in no more than a leak may differ in."""
    turns = [{**turn, "content": folded(content_of(turn))} for turn in as_protocol(messages)]
    return canonical_json(turns)
