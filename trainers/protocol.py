"""The calls of the fine-tuning protocol, their answers read whatever a service writes there.

An answer that cannot be read (HTML, half a body) counts as a passing failure: its `CallFailed` is
transient. What a service has no route for is no failure where one can do without.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.models.failures import CallFailed, Kind
from trainers.hosted_job import Job, error_of, job_of, loss, name_of, whole
from trainers.service import Service

if TYPE_CHECKING:
    from openai import OpenAI

PAGE = 100
MOST_PAGES = 100
"""Pages of a list that are read, in case it never ends."""

EXTRAS_S = 20.0
"""Seconds for which is tried what a model can do without: its curves, its checkpoints, news."""

_ABSENT = (404, 405, 501)
_UNREADY = frozenset({"pending", "processing", "queued", "running", "uploaded", "validating"})
_UNFIT = frozenset({"deleted", "deleting", "error", "failed"})


@dataclass(frozen=True)
class File:
    """An uploaded file; `size` is None where the service does not say it, `reason` why it is bad.

    Only a service that says so has a file that is not `ready` or not `fit`.
    """

    id: str
    size: int | None = None
    ready: bool = True
    fit: bool = True
    reason: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """A model that a job made on its way: its name, the step, the losses there."""

    step: int
    model: str
    train: float | None = None
    validation: float | None = None


def is_absent(problem: CallFailed) -> bool:
    """Whether a service has no such route, or nothing there."""
    return problem.status in _ABSENT


# ---------------------------------------------------------------------- jobs


def create(service: Service, body: Mapping[str, Any]) -> str:
    """Ask once for a job and return its id.

    Raises:
        NeverSent: the service was not reached.
        CallFailed: it refused, or may have made the job without saying so.

    """

    def call(client: OpenAI) -> str:
        return job_of(_table(client.fine_tuning.jobs.with_raw_response.create(**body))).id

    return service.once(call)


def job(service: Service, name: str, patience_s: float | None = None) -> Job:
    """Return the job with this id.

    Raises:
        CallFailed: the service does not tell.

    """

    def call(client: OpenAI) -> Job:
        found = job_of(_table(client.fine_tuning.jobs.with_raw_response.retrieve(name)))
        if not found.status:
            raise ValueError("it has no status")
        return found

    return service.ask(call, patience_s)


def known_job(service: Service, name: str) -> Job | None:
    """Return the job with this id; None if the service does not know it (any more).

    Raises:
        CallFailed: the service does not tell.

    """
    try:
        return job(service, name)
    except CallFailed as problem:
        if is_absent(problem):
            return None
        raise


def cancel(service: Service, name: str) -> Job:
    """Cancel a job and return what it is then.

    Raises:
        CallFailed: the service refuses.

    """

    def call(client: OpenAI) -> Job:
        return job_of(_table(client.fine_tuning.jobs.with_raw_response.cancel(name)))

    return service.ask(call)


def jobs(service: Service, metadata: Mapping[str, str] | None = None) -> list[Job] | None:
    """Return the jobs of the account, those with this `metadata` if the service can filter.

    None: it does not list jobs.

    Raises:
        CallFailed: the service does not tell.

    """
    try:
        return _all_jobs(service, {"metadata": dict(metadata)} if metadata else {})
    except CallFailed as problem:
        if is_absent(problem):
            return None
        if metadata and problem.status in (400, 422):
            return jobs(service)
        raise


def _all_jobs(service: Service, wanted: Mapping[str, Any]) -> list[Job]:
    known: dict[str, Job] = {}
    after: dict[str, str] = {}
    for _ in range(MOST_PAGES):
        page, more = service.ask(_Page({**wanted, **after}))
        fresh = [job for job in page if job.id not in known]
        known |= {job.id: job for job in fresh}
        if not fresh or not more:
            break
        after = {"after": fresh[-1].id}
    return list(known.values())


class _Page:
    """Asks for one page of the jobs; returns it and whether there are more."""

    def __init__(self, wanted: Mapping[str, Any]) -> None:
        self._wanted = wanted

    def __call__(self, client: OpenAI) -> tuple[list[Job], bool]:
        raw = client.fine_tuning.jobs.with_raw_response.list(limit=PAGE, **self._wanted)
        answer = _value(raw)
        entries = list(_entries(answer))
        more = isinstance(answer, dict) and answer.get("has_more") is True
        return [job_of(entry) for entry in entries if name_of(entry.get("id"))], more


# ---------------------------------------------------------------------- what belongs to a job


def events(service: Service, name: str) -> list[dict[str, Any]]:
    """Return the latest events of a job, the newest first; none where it cannot be told."""

    def call(client: OpenAI) -> list[dict[str, Any]]:
        listed = client.fine_tuning.jobs.with_raw_response.list_events
        return list(_entries(_value(listed(name, limit=20, timeout=EXTRAS_S))))

    try:
        return service.once(call)
    except CallFailed:
        return []  # the job is what counts


def checkpoints(service: Service, name: str) -> list[Checkpoint]:
    """Return the checkpoints of a job by their steps; none where it cannot be told."""

    def call(client: OpenAI) -> list[Checkpoint]:
        listed = client.fine_tuning.jobs.checkpoints.with_raw_response.list
        return [*filter(None, map(_checkpoint, _entries(_value(listed(name, limit=PAGE)))))]

    try:
        return sorted(service.ask(call, EXTRAS_S), key=lambda checkpoint: checkpoint.step)
    except CallFailed:
        return []  # not every service keeps them


def _checkpoint(entry: Mapping[str, Any]) -> Checkpoint | None:
    model, step = name_of(entry.get("fine_tuned_model_checkpoint")), whole(entry.get("step_number"))
    metrics = entry.get("metrics")
    metrics = metrics if isinstance(metrics, dict) else {}
    if not model or not step:
        return None
    validation = loss(metrics.get("full_valid_loss"))
    return Checkpoint(
        step,
        model,
        loss(metrics.get("train_loss")),
        loss(metrics.get("valid_loss")) if validation is None else validation,
    )


# ---------------------------------------------------------------------- files, models


def upload(service: Service, name: str, content: bytes) -> File:
    """Upload a file to train on.

    Raises:
        CallFailed: the service did not take it.

    """

    def call(client: OpenAI) -> File:
        raw = client.files.with_raw_response.create(file=(name, content), purpose="fine-tune")
        return _file(_table(raw))

    return service.ask(call)


def file(service: Service, name: str) -> File | None:
    """Return an uploaded file; None if the service does not know it, or does not tell.

    Raises:
        CallFailed: the service is away.

    """
    try:
        return service.ask(
            lambda client: _file(_table(client.files.with_raw_response.retrieve(name)))
        )
    except CallFailed as problem:
        if problem.kind is Kind.PERMANENT:
            return None
        raise


def _file(answer: Mapping[str, Any]) -> File:
    if not (name := name_of(answer.get("id"))):
        raise ValueError("it names no file")
    size, status = answer.get("bytes"), str(answer.get("status")).lower()
    return File(
        name,
        size if type(size) is int else None,
        ready=status not in _UNREADY,
        fit=status not in _UNFIT,
        reason=error_of(answer.get("status_details")) or error_of(answer.get("error")),
    )


def content(service: Service, name: str, most: int) -> bytes:
    """Return what is in a file.

    Raises:
        CallFailed: the service does not give it.
        ValueError: it has more than `most` bytes.

    """

    def call(client: OpenAI) -> bytes:
        found = bytearray()
        with client.files.with_streaming_response.content(name) as response:
            for part in response.iter_bytes():
                found += part
                if len(found) > most:
                    break
        return bytes(found)

    found = service.ask(call, EXTRAS_S)
    if len(found) > most:
        raise ValueError("it is too large")
    return found


def model(service: Service, name: str) -> dict[str, Any]:
    """Return what a service tells of a model.

    Raises:
        CallFailed: it refuses, or does not tell.

    """
    return service.ask(
        lambda client: _table(client.models.with_raw_response.retrieve(name)), EXTRAS_S
    )


def model_names(service: Service) -> list[str] | None:
    """Return the names of the models that a service has; None where it does not list them."""
    try:
        answer = service.ask(
            lambda client: _value(client.models.with_raw_response.list()), EXTRAS_S
        )
    except CallFailed:
        return None
    return [str(entry.get("id")) for entry in _entries(answer)]


# ---------------------------------------------------------------------- answers


def _value(raw: Any) -> Any:
    """Return the JSON of an answer; ValueError if it is none."""
    try:
        return json.loads(raw.text)
    except (ValueError, RecursionError):
        raise ValueError("it is no JSON") from None


def _table(raw: Any) -> dict[str, Any]:
    if not isinstance(answer := _value(raw), dict):
        raise ValueError("it is no JSON object")
    return answer


def _entries(answer: Any) -> Iterator[dict[str, Any]]:
    """Yield the objects in a list, bare or under `data`."""
    listed = answer.get("data", answer) if isinstance(answer, dict) else answer
    if not isinstance(listed, list | None):
        raise ValueError("it is no list")
    yield from (entry for entry in listed or () if isinstance(entry, dict))
