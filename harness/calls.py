"""What a call is: its prompt, what decides its reply, its identity in the cache."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.data.messages import calls_of, instructs
from harness.records import (
    Case,
    HarnessError,
    Message,
    ModelSpec,
    Request,
    as_table,
    canonical_json,
    content_of,
    digest_of,
)

if TYPE_CHECKING:
    from harness.models import Models
    from harness.store import StoredCall

SCHEMA_VERSION = 2
"""Part of every key: raise it when a stored reply can no longer stand for a new one."""

_TEMPLATED = ("bundled", "local")
"""Providers whose prompts once left tools out: a reply from then answers another question."""

_SHORT = 60
"""Characters of a field that the cache keeps as they are; of longer ones it keeps a digest."""


def request_of(
    models: Models,
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
    identity = _identity(models, spec, case, messages)
    key = request_key(spec, identity, messages, trial, _tools(case))
    return Request(
        key=_apart(spec, key),
        model=spec,
        messages=messages,
        length=_characters(case_messages),
        trial=trial,
        label=label,
        case=case,
    )


def _apart(spec: ModelSpec, key: str) -> str:
    """Tell what is asked with thinking kept from the same call without: the replies differ."""
    return digest_of([key, spec.thinking]) if spec.thinking == "keep" else key


def stored_key(models: Models, request: Request) -> str:
    """Return the key under which the reply of `request` is stored: of the call as it is sent.

    It is the same whatever is read out of the reply. What the service was found to refuse since
    the call was planned is not sent.
    """
    spec, case = request.model, request.case
    if spec.thinking != "keep" and not models.refused(spec):
        return request.key
    identity = _identity(models, spec, case, request.messages)
    return request_key(spec, identity, request.messages, request.trial, _tools(case))


def _identity(
    models: Models, spec: ModelSpec, case: Case | None, messages: Sequence[Message]
) -> Mapping[str, Any]:
    identity = models.identity_as_sent(spec)
    if spec.recorded and case:
        return {**identity, "suite": case.suite, "case": case.digest}
    if spec.provider in _TEMPLATED and (_tools(case) or any(map(calls_of, messages))):
        return {**identity, "tools_in_template": 1}
    return identity


def _tools(case: Case | None) -> Sequence[Mapping[str, Any]]:
    return case.tools if case else ()


def outline_of(models: Models, request: Request) -> dict[str, str]:
    """Return the fields of a planned call; see `outline`."""
    spec, case = request.model, request.case
    identity = _identity(models, spec, case, request.messages)
    return outline(call_of(spec, identity, request.messages, request.trial, _tools(case)))


def _characters(messages: Iterable[Message]) -> int:
    return sum(len(content_of(message)) for message in messages)


def prompt(spec: ModelSpec, messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return what `spec` is really asked: its system message, its few-shot turns, the case.

    The system message of the model takes the place of the case's own. The template renders the
    last user message, which it sees as `text`.

    Raises:
        HarnessError: the template is wrong.

    """
    own = [dict(message) for message in messages]
    head = [own.pop(0)] if own and instructs(own[0]) else []
    if spec.system is not None:
        head = [{"role": "system", "content": spec.system}]
    if spec.template is not None:
        for message in [message for message in own if message.get("role") == "user"][-1:]:
            message["content"] = _rendered(spec, spec.template, content_of(message))
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


def call_of(
    spec: ModelSpec,
    identity: Mapping[str, Any],
    messages: Sequence[Message],
    trial: int,
    tools: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return all that decides the reply of a call, as JSON values.

    Names, concurrency, time-outs and keys of services decide nothing. A response format is part of
    the model's `identity`.
    """
    return {
        "schema": SCHEMA_VERSION,
        "provider": spec.provider,
        "identity": dict(identity),
        "sampling": as_table(spec.sampling),
        "trial": trial,
        "tools": [dict(tool) for tool in tools],
        "messages": [dict(message) for message in messages],
    }


def request_key(
    spec: ModelSpec,
    identity: Mapping[str, Any],
    messages: Sequence[Message],
    trial: int,
    tools: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return the identity of a call (see `call_of`): SHA-256, 64 hex digits."""
    return digest_of(call_of(spec, identity, messages, trial, tools))


def outline(call: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields of a call (see `call_of`) one by one, for people who look for a difference.

    What is longer than `_SHORT` characters is a digest.
    """
    fields: dict[str, str] = {}
    for name, value in call.items():
        if isinstance(value, dict):
            fields |= {f"{name}.{key}": _brief(part) for key, part in value.items()}
        elif name == "messages":
            fields |= {f"message {place + 1}": _brief(one) for place, one in enumerate(value)}
        else:
            fields[name] = _brief(value)
    return fields


def _brief(value: object) -> str:
    text = canonical_json(value)
    return text if len(text) <= _SHORT else f"sha256:{digest_of(text)[:16]}"


def first_difference(one: Mapping[str, str], other: Mapping[str, str]) -> str:
    """Return the first field in which two outlined calls differ, with both values; "" if none."""
    for name in dict.fromkeys([*one, *other]):
        if one.get(name) != other.get(name):
            return f"{name} is {one.get(name, 'absent')} and was {other.get(name, 'absent')}"
    return ""


def history_of(label: str, stored: Sequence[StoredCall]) -> list[str]:
    """Return what was stored for the case `label`, the newest first, a line each.

    A line says in which field the call differs from the nearest one that was stored before it:
    that is why it was asked.

    Raises:
        HarnessError: nothing is stored for this case.

    """
    mine = sorted((c for c in stored if c.label == label), key=lambda c: c.created, reverse=True)
    if not mine:
        raise HarnessError(
            f"no reply is stored for {label!r}; write SUITE:CASE, and see what a run would ask "
            "with pytest --harness-offline"
        )
    return [f"{one.created[:19]}  {one.model}  {_why_asked(one, stored)}" for one in mine]


def _why_asked(call: StoredCall, stored: Iterable[StoredCall]) -> str:
    earlier = [one for one in stored if one.created < call.created]
    found = nearest(call.fields, call.label, earlier)
    if found is None:
        return "the first of all"
    difference = first_difference(call.fields, found.fields) or "nothing: it was asked again"
    return f"differs from the nearest before it ({found.label}): {difference}"


def nearest(
    fields: Mapping[str, str], label: str, stored: Iterable[StoredCall]
) -> StoredCall | None:
    """Return which of the `stored` calls differs least from the call with these `fields`.

    Of equals it is one of the same case, then the newest.
    """

    def distance(one: StoredCall) -> tuple[int, bool]:
        names = {*fields, *one.fields}
        differing = sum(fields.get(name) != one.fields.get(name) for name in names)
        return differing, one.label != label

    newest_first = sorted(stored, key=lambda one: one.created, reverse=True)
    return min(newest_first, key=distance, default=None)
