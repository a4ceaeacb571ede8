"""A reply's text -> what the model thought aloud, and its answer. Pure.

Servers without a parser for thinking leave it in the text. Where the chat template put the opening
tag into the prompt, the text holds the closing one alone.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import NamedTuple

from harness.records import ModelSpec, Reply

_BLOCKS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
"""What opens and what closes a block of thinking; each is a token of some family of models."""

_OPENED = re.compile(r"\s*(" + "|".join(re.escape(opening) for opening, _ in _BLOCKS) + ")")
# Between quotes, or inside a sentence, a tag is what the text is about.
_UNQUOTED = r"(?!(?<=[`'\"]){tag}[`'\"]){tag}"
_CLOSINGS = {
    opening: re.compile(_UNQUOTED.format(tag=re.escape(closing))) for opening, closing in _BLOCKS
}
_CLOSED = re.compile(
    r"(?!(?<=\S[ (])</think>[^\S\n]+\S)" + _UNQUOTED.format(tag="</think>") + "(?![,.;:!?)])"
)
_GAP = re.compile(r"(?:[^\S\n]*\n)+|[^\S\n]+")
"""Between a block and the answer: blank lines, else spaces. An indented first line keeps both."""


class Thinking(NamedTuple):
    """A text taken apart; `complete`: every block of thinking is closed."""

    thought: str
    answer: str
    complete: bool = True


def split(text: str, *, opened: bool = True) -> Thinking:
    """Return the thinking that `text` begins with, without its tags, and the rest as the answer.

    A text that begins with no thinking is the answer as it stands; one whose thinking never ends
    has an empty answer. `opened`: a closing tag alone ends thinking that began in the prompt.
    """
    thoughts = []
    if opened and (closing := _closing_alone(text)):
        thoughts.append(text[: closing.start()].strip())
        text = _without_gap(text[closing.end() :])
    while opening := _OPENED.match(text):
        closing = _CLOSINGS[opening[1]].search(text, opening.end())
        thoughts.append(text[opening.end() : closing.start() if closing else None].strip())
        if not closing:
            return Thinking(_joined(thoughts), "", complete=False)
        text = _without_gap(text[closing.end() :])
    return Thinking(_joined(thoughts), text)


def _closing_alone(text: str) -> re.Match[str] | None:
    closing = None if _OPENED.match(text) else _CLOSED.search(text)
    return closing if closing and "<think>" not in text[: closing.start()] else None


def _without_gap(text: str) -> str:
    gap = _GAP.match(text)
    return text[gap.end() :] if gap else text


def _joined(thoughts: list[str]) -> str:
    return "\n\n".join(filter(None, thoughts))


def answered(spec: ModelSpec, reply: Reply) -> Reply:
    """Return `reply` as it is scored: what `spec` thought in its text moves to `reasoning`.

    Where the service told the reasoning apart, a closing tag alone is part of the answer.
    """
    if spec.thinking == "keep" or reply.error is not None:
        return reply
    found = split(reply.text, opened=not reply.reasoning)
    if found.answer == reply.text:
        return reply
    return replace(reply, text=found.answer, reasoning=_joined([reply.reasoning, found.thought]))


def thinks(reply: Reply) -> bool:
    """Whether `reply` holds thinking: apart from its text, or in its beginning where it is kept."""
    return bool(reply.reasoning or _OPENED.match(reply.text))
