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
    """What one item scored.

    `asserted` is None until its function ended or something failed. `lost` says why there is no
    reply to score, `broken` what went wrong apart from the reply, `mistake` what the user has to
    correct. `decided`: a fixture raised an assertion, so its function is not called;
    `revised`: one that ended after it changed what was said before. `talked`: its `model` was
    asked.
    """

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
    lost: str = ""
    broken: str = ""
    decided: bool = False
    revised: bool = False
    talked: bool = False

    @property
    def uses_of_the_model(self) -> frozenset[str]:
        """The fixtures that handed out what the model answered."""
        return frozenset({"reply", "score", *(["model"] if self.talked else [])})

    @contextmanager
    def scoring(self, function: Callable[..., object]) -> Iterator[None]:
        """Turn a failed assertion of the test `function` into a score of 0.

        A user's mistake is kept for the end.
        """
        from harness.asserting import is_said_by

        try:
            yield
            self.asserted = self.asserted is not False
        except BaseException as problem:
            if not self.account_for(problem, assertion=is_said_by(function, problem)):
                raise

    def account_for(self, problem: BaseException, *, assertion: bool) -> bool:
        """Take over what `problem` says of the reply; False where it says nothing of it.

        A test that breaks on a reply with nothing in it is no error: the model failed.
        """
        if isinstance(problem, HarnessError):
            self.mistake = str(problem)
        elif assertion:
            self.fail(first_line(str(problem)))
        elif isinstance(problem, Exception) and self.reply.failure:
            self.fail(self.reply.failure)
        else:
            return False
        return True

    def fail(self, explanation: str) -> None:
        """Note that an assertion failed; the first one explains it."""
        self.explanation = explanation if self.asserted is not False else self.explanation
        self.asserted = False


@dataclass(frozen=True, slots=True)
class ItemResult:
    """An `Evaluation` as it travels from a worker to the controller.

    `questions` are for judges, who are asked when all items ran. `skipped` says why the test did
    not apply to the case, as its author decided.
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
    skipped: str = ""

    @property
    def of(self) -> tuple[str, str, str, str, int]:
        """What it is the result of: suite, test, case id, model and trial."""
        return self.suite, self.test, self.id, self.arm, self.trial

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


def result_of(evaluation: Evaluation, error: str, skipped: str = "") -> ItemResult:
    """Return what `evaluation` found; `error` or `skipped` say why it did not, if it did not."""
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
        skipped=skipped,
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
