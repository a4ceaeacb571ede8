"""Which number of few-shot examples serves a model best, measured on validation cases."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from harness.checks import structured, text, tools
from harness.progress import Update
from harness.records import Case, Message, Reply, canonical_json

if TYPE_CHECKING:
    from harness.replies import Progress
    from trainers import Event


def text_of(messages: Sequence[Message]) -> str:
    """Return the identity of a prompt."""
    return canonical_json(list(messages))


def reference_score(case: Case, reply: Reply) -> float:
    """Return in [0, 1] how near a reply is to the case's expected answer.

    Calls of tools are right or wrong. A JSON object is scored field by field (a reply that is no
    JSON earns nothing), other text by ROUGE-L on the words of every script; equal texts score 1.
    """
    if reply.error or reply.failure:
        return 0.0
    if case.expected_tool_calls:
        return float(tools.tool_call(case, reply)[0].value or 0)
    if case.expected is None:
        return 0.0
    try:
        is_object = isinstance(json.loads(case.expected), dict)
    except (ValueError, RecursionError):
        is_object = False
    if is_object:
        return structured.field_accuracy(case.expected, reply.text)
    return text.rouge_l(case.expected, reply.text)


def mean_score(answered: Iterable[tuple[Case, Reply]]) -> float:
    """Return the mean reference score in [0, 1]."""
    return fmean(reference_score(case, reply) for case, reply in answered)


def best(means: Mapping[int, float]) -> int:
    """Return the number of shots with the highest mean; of equals the smallest."""
    return min(means, key=lambda shots: (-means[shots], shots))


def choice_note(suite: str, model: str, means: Mapping[int, float]) -> str:
    """Return one sentence that says what was chosen and why."""
    tried = ", ".join(f"{shots}: {mean:.2f}" for shots, mean in sorted(means.items()))
    told = f"{suite}: {model} is prompted with {best(means)} examples"
    if len(set(means.values())) == 1:
        return f"{told}, the fewest: every number of them scored the same (by shots: {tried})"
    return f"{told}, its best (by shots: {tried})"


def counted(update: Update) -> Callable[[Progress], None]:
    """Show the progress of `Replies.gather` through `update`."""

    def show(progress: Progress) -> None:
        cost = f"${progress.cost_usd:.4g}" if progress.cost_usd else ""
        flying = f"{progress.in_flight} in flight" if progress.in_flight else ""
        update(progress.done, progress.total, ", ".join(filter(None, [flying, cost])))

    return show


def shown(update: Update) -> Callable[[Event], None]:
    """Show the events of a training through `update`."""

    def show(event: Event) -> None:
        told = event.message or event.kind
        detail = f"loss {event.loss:.3f}" if event.loss is not None else told
        update(event.step, event.steps, detail)

    return show
