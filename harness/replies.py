"""Plan -> schedule -> cache -> replies."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from harness.models import Models
from harness.records import (
    Case,
    HarnessError,
    Message,
    ModelSpec,
    Reply,
    Request,
    Usage,
    as_table,
    canonical_json,
    digest_of,
)
from harness.store import Store

SCHEMA_VERSION = 1
"""Part of every key: raise it when a stored reply can no longer stand for a new one."""

BATCH_ROWS = 128
BATCH_TOKENS = 48_000
_CHARACTERS_PER_TOKEN = 3


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a wave of requests is: `done` of `total` that the cache did not hold."""

    done: int
    total: int


def prompt(spec: ModelSpec, messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return what `spec` is really asked: its system message, its few-shot turns, the case.

    The system message of the model takes the place of the case's own. The template renders the
    last user message, which it sees as `text`.

    Raises:
        HarnessError: the template is wrong.

    """
    own = [dict(message) for message in messages]
    head = [own.pop(0)] if own and own[0]["role"] == "system" else []
    if spec.system is not None:
        head = [{"role": "system", "content": spec.system}]
    if spec.template is not None:
        for message in [message for message in own if message["role"] == "user"][-1:]:
            message["content"] = _rendered(spec, spec.template, str(message["content"]))
    return (*head, *(dict(message) for message in spec.few_shot), *own)


def _rendered(spec: ModelSpec, template: str, text: str) -> str:
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, keep_trailing_newline=True
    )
    try:
        return environment.from_string(template).render(text=text)
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as problem:
        raise HarnessError(
            f"the template of the model {spec.name!r} fails: {problem}; "
            "it sees the last user message as {{ text }}"
        ) from None


def request_key(
    spec: ModelSpec, identity: Mapping[str, Any], messages: Sequence[Message], trial: int
) -> str:
    """Return the identity of a call: SHA-256 (64 hex digits) of all that decides its reply.

    Names, concurrency, time-outs and keys of services decide nothing.
    """
    return digest_of(
        {
            "schema": SCHEMA_VERSION,
            "provider": spec.provider,
            "identity": dict(identity),
            "messages": [dict(message) for message in messages],
            "sampling": as_table(spec.sampling),
            "trial": trial,
        }
    )


class Replies:
    """Answers requests from the store, and from the models what the store does not hold."""

    def __init__(self, store: Store, models: Models | None = None) -> None:
        self._store = store
        self._models = models or Models()
        self._known: dict[str, Reply] = {}
        self._asked: dict[str, str] = {}

    def plan(
        self,
        spec: ModelSpec,
        case_messages: Sequence[Message],
        trial: int = 0,
        label: str = "",
        case: Case | None = None,
    ) -> Request:
        """Return the call that asks `spec` a case; nothing is loaded, nothing is sent.

        `case` is the case itself; free messages have none.

        Raises:
            HarnessError: the model or its template is wrong.
            EvidenceError: a recording is damaged.

        """
        messages = prompt(spec, case_messages)
        identity = self._models.identity(spec)
        if spec.recorded and case:
            identity = {**identity, "suite": case.suite, "case": case.digest}
        return Request(
            key=request_key(spec, identity, messages, trial),
            model=spec,
            messages=messages,
            length=_characters(case_messages),
            trial=trial,
            label=label,
            case=case,
        )

    def gather(
        self,
        requests: Iterable[Request],
        progress: Callable[[Progress], None] | None = None,
    ) -> dict[str, Reply]:
        """Return key -> reply of all `requests`; what the store does not hold is asked.

        Each batch is stored the moment it arrives. A reply with an `error` is never stored, nor
        what a recording holds.

        Raises:
            HarnessError: a model cannot be asked at all.
            EvidenceError: a trained artefact or the store is damaged.

        """
        distinct = _distinct(requests)
        found = self._store.replies(distinct)
        self._known.update(found)
        total = len(distinct) - len(found)
        for group in _groups(distinct.values()):
            for answers in self._answers(group, found):
                found.update(answers)
                if progress:
                    progress(Progress(total - len(distinct) + len(found), total))
        return found

    def usage(self, requests: Iterable[Request]) -> dict[str, Usage]:
        """Return model name -> what its distinct `requests` took, of those that were gathered."""
        by_model: dict[str, set[str]] = {}
        for request in requests:
            by_model.setdefault(request.model.name, set()).add(request.key)
        return {name: self._usage(name, keys) for name, keys in by_model.items()}

    def close(self) -> None:
        """Let go of the models and the store."""
        self._models.close()
        self._store.close()

    def _answers(
        self, group: Sequence[Request], found: Mapping[str, Reply]
    ) -> Iterator[dict[str, Reply]]:
        # Composed before the cache is looked at: which rows share a batch changes the last
        # digits of local logits, so it must not depend on what is known already.
        missing = [
            [request for request in batch if request.key not in found] for batch in batches(group)
        ]
        names = {request.key: request.model.name for request in group}
        for answers in self._models.ask(missing):
            self._known.update(answers)
            if not group[0].model.recorded:
                self._store.put_replies(
                    {key: reply for key, reply in answers.items() if reply.error is None},
                    group[0].model.spec,
                )
                self._asked.update({key: names[key] for key in answers})
            yield answers

    def _usage(self, name: str, keys: set[str]) -> Usage:
        replies = [self._known[key] for key in sorted(keys & self._known.keys())]
        good = [reply for reply in replies if reply.error is None]
        latencies = sorted(r.latency_s for r in good if r.latency_s is not None)
        costs = [reply.cost_usd for reply in good if reply.cost_usd is not None]
        return Usage(
            requests=len(keys),
            cached=sum(self._asked.get(key) != name for key in keys),
            prompt_tokens_mean=_mean(reply.prompt_tokens for reply in good),
            completion_tokens_mean=_mean(reply.completion_tokens for reply in good),
            latency_p50_s=_percentile(latencies, 0.50),
            latency_p95_s=_percentile(latencies, 0.95),
            cost_usd=math.fsum(costs) if costs else None,
        )


def _distinct(requests: Iterable[Request]) -> dict[str, Request]:
    distinct: dict[str, Request] = {}
    for request in requests:
        distinct.setdefault(request.key, request)
    return distinct


def _groups(requests: Iterable[Request]) -> list[list[Request]]:
    """Split by what can share one loaded model: the base, whatever stands on it."""
    groups: dict[tuple[str, str, str | None], list[Request]] = {}
    for request in requests:
        spec = request.model
        groups.setdefault((spec.provider, spec.target, spec.revision), []).append(request)
    return list(groups.values())


def batches(group: Iterable[Request]) -> list[list[Request]]:
    """Compose batches of cases of similar length, each of one model with one prompt.

    The cuts are the same for all models, so a base and its candidates are asked in the same
    company. At most `BATCH_ROWS` cases and about `BATCH_TOKENS` tokens, room for the replies
    included.
    """
    slots: dict[tuple[int, str, int], list[Request]] = {}
    for request in sorted(group, key=lambda request: request.key):
        slots.setdefault(_slot(request), []).append(request)
    composed: list[list[list[Request]]] = [[]]
    tokens = 0
    for _, slot in sorted(slots.items()):
        size = max(map(_tokens, slot))
        if composed[-1] and (len(composed[-1]) == BATCH_ROWS or tokens + size > BATCH_TOKENS):
            composed.append([])
            tokens = 0
        composed[-1].append(slot)
        tokens += size
    return [batch for slots_of_one in composed for batch in _by_prompt(slots_of_one)]


def _by_prompt(slots: Iterable[Iterable[Request]]) -> list[list[Request]]:
    batches: dict[str, list[Request]] = {}
    for request in (request for slot in slots for request in slot):
        spec = request.model
        prompted = [str(spec.adapter), dict(spec.options), spec.system, spec.template]
        known = canonical_json([*prompted, list(spec.few_shot)])
        batches.setdefault(known, []).append(request)
    return list(batches.values())


def _slot(request: Request) -> tuple[int, str, int]:
    return request.length, str(request.messages[-1].get("content")), request.trial


def _characters(messages: Iterable[Message]) -> int:
    return sum(len(str(message.get("content") or "")) for message in messages)


def _tokens(request: Request) -> int:
    """Estimate what a request takes, generously."""
    prompted = _characters(request.messages) // _CHARACTERS_PER_TOKEN
    return prompted + request.model.sampling.max_tokens


def _mean(values: Iterable[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _percentile(ordered: Sequence[float], share: float) -> float | None:
    """Return the smallest value that `share` of the values do not exceed (nearest rank)."""
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else None
