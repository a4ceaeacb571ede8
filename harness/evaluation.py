"""One case item while it runs: what its fixtures hand out and what it scored."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from harness.data.messages import as_protocol, instructs
from harness.records import (
    Case,
    HarnessError,
    Message,
    Question,
    Reply,
    Score,
    as_table,
    content_of,
    with_calls,
)
from harness.scoring import first_line
from harness.suites import Suite


@dataclass(frozen=True, slots=True)
class CaseItem:
    """The parameter of a pytest item: one case under one model."""

    suite: Suite
    case: Case
    arm: str
    trial: int = 0


class Talker:
    """The `model` fixture: the item's model, for tests that talk in several turns.

    `name` is the model's name in the run.
    """

    def __init__(self, name: str, ask: Callable[[Sequence[Message]], Reply]) -> None:
        self.name = name
        self._ask = ask

    def ask(self, messages: Sequence[Message] | str) -> Reply:
        """Return the model's reply to `messages` (or to one user message), through the cache."""
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        return self._ask(messages)


@dataclass(slots=True)
class Evaluation:
    """What one item scored. `asserted` is None until its function ended."""

    item: CaseItem
    test: str
    reply: Reply
    guard: bool
    plain: bool
    scores: list[Score] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    asserted: bool | None = None
    explanation: str = ""
    mistake: str = ""

    @contextmanager
    def scoring(self) -> Iterator[None]:
        """Turn a failed assertion into a score of 0, and keep a user's mistake for the end.

        A test that breaks on a reply with nothing in it is no error: the model failed.
        """
        try:
            yield
            self.asserted = True
        except AssertionError as problem:
            self.asserted = False
            self.explanation = first_line(str(problem))
        except HarnessError as problem:
            self.mistake = str(problem)
        except Exception:
            if not self.reply.failure:
                raise
            self.asserted = False
            self.explanation = self.reply.failure


@dataclass(frozen=True, slots=True)
class ItemResult:
    """An `Evaluation` as it travels from a worker to the controller.

    `questions` are for judges, who are asked when all items ran.
    """

    suite: str
    id: str
    test: str
    arm: str
    guard: bool
    plain: bool
    prompt: str
    expected: str | None
    tags: tuple[str, ...]
    cluster: str | None
    digest: str
    reply: Reply
    error: str
    trial: int
    asserted: bool | None
    explanation: str
    mistake: str
    scores: tuple[Score, ...]
    questions: tuple[Question, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the test's own assertions hold; never where the model gave nothing to score."""
        return bool(self.asserted) and not self.reply.failure

    def to_json(self) -> str:
        """Return the result as ASCII JSON, which survives every transport."""
        values = {**as_table(self), "reply": as_table(self.reply)}
        values["scores"] = [as_table(score) for score in self.scores]
        values["questions"] = [as_table(question) for question in self.questions]
        return json.dumps(values)

    @staticmethod
    def from_json(text: str) -> ItemResult:
        """Return the result that `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        for name in ("suite", "test", "arm"):  # the same few texts in thousands of results
            values[name] = sys.intern(values[name])
        values["tags"] = tuple(values["tags"])
        reply = values["reply"]
        values["reply"] = Reply(**{**reply, "tool_calls": tuple(reply["tool_calls"])})
        values["scores"] = tuple(_score(score) for score in values["scores"])
        values["questions"] = tuple(_question(question) for question in values["questions"])
        return ItemResult(**values)


def _score(values: Mapping[str, Any]) -> Score:
    labels = values["labels"]
    metric, check = sys.intern(values["metric"]), sys.intern(values["check"])
    labels = tuple(labels) if labels else None
    return Score(**{**values, "metric": metric, "check": check, "labels": labels})


def _question(values: Mapping[str, Any]) -> Question:
    metric = sys.intern(values["metric"])
    lists = {name: tuple(values[name]) for name in ("levels", "judges")}
    return Question(**{**values, "metric": metric, **lists})


def result_of(evaluation: Evaluation, error: str) -> ItemResult:
    """Return what `evaluation` found; `error` says why it found nothing, if it did not."""
    case = evaluation.item.case
    return ItemResult(
        suite=case.suite,
        id=case.id,
        test=evaluation.test,
        arm=evaluation.item.arm,
        guard=evaluation.guard,
        plain=evaluation.plain,
        prompt=conversation(case.messages),
        expected=case.reference,
        tags=case.tags,
        cluster=case.cluster,
        digest=case.digest,
        reply=evaluation.reply,
        error=error,
        trial=evaluation.item.trial,
        asserted=evaluation.asserted,
        explanation=evaluation.explanation,
        mistake=evaluation.mistake,
        scores=tuple(evaluation.scores),
        questions=tuple(evaluation.questions),
    )


def conversation(messages: Sequence[Message]) -> str:
    """Return `messages` as a text for people; a single user message stands alone."""
    turns = [message for message in messages if not instructs(message)]
    if len(turns) == 1:
        return content_of(turns[0])
    return "\n".join(f"{turn['role']}: {_said(turn)}" for turn in turns)


def _said(turn: Message) -> str:
    calls = as_protocol([turn])[0].get("tool_calls") or ()
    return with_calls(content_of(turn), calls)
