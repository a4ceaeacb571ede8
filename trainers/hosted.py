"""The life of a fine-tuning job at a service that speaks the OpenAI protocol.

Never two jobs for one recipe: the protocol knows no idempotency, so a job carries its recipe's
fingerprint in its metadata, and whoever wants one looks there before creating it, once, without
retries, under a lock. A creation whose answer got lost is looked for until it must have shown up.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.models.failures import CallFailed, Kind
from harness.records import Candidate
from trainers import Event, Progress, TrainingError
from trainers.hosted_data import content_of
from trainers.hosted_made import description_of, load, loss, publish, whole
from trainers.hosted_recipe import HostedRecipe
from trainers.ledger import Entry, Ledger
from trainers.preflight import is_refusal, refusal
from trainers.service import PATIENCE_S, Service

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.fine_tuning import FineTuningJob

RECIPE = "pytest_finetune_recipe"
"""The key in a job's metadata under which the recipe's fingerprint stands."""

DEAD = ("failed", "cancelled")
"""The statuses that end a job beside "succeeded"; any other, known or not, does not."""

SETTLED_S = 10.0
"""Seconds after which a job that was asked for shows up in the list, or was never made."""

LOOK_S = 0.5
CREATIONS = 3
FIRST_POLL_S, LAST_POLL_S = 0.2, 10.0
PAGE = 100


# ---------------------------------------------------------------------- one job per recipe


def rejoin(recipe: HostedRecipe, home: Path, service: Service) -> str:
    """Return the id of the job that trains `recipe`, or has trained it; "" if there is none.

    Raises:
        TrainingError: the job that an earlier run waited for has failed; it is forgotten.
        NotTrainable, CallFailed: the service refuses to tell.

    """
    ledger = Ledger(home)
    entry = ledger.entry(recipe)
    if entry and entry.job and (job := _retrieved(entry.job, service)):
        if job.status in DEAD:
            ledger.forget(recipe)
            raise TrainingError(_ending(recipe, job, service))
        return job.id
    found = _listed(recipe, service)
    while not found and entry and not entry.job and entry.age_s < SETTLED_S:
        time.sleep(LOOK_S)
        found = _listed(recipe, service)
    if found:
        ledger.remember(recipe, Entry(time.time(), found, *_rest(entry)))
    return found


def submit(recipe: HostedRecipe, home: Path, service: Service, tokens: int = 0) -> str:
    """Return the id of the job of `recipe`, creating it unless there is one.

    `tokens` is what the training was estimated to take. Several processes may ask at once.

    Raises:
        TrainingError: the job failed, or could not be created.
        NotTrainable: the service does not train this model.

    """
    from filelock import FileLock

    try:
        with FileLock(Ledger(home).lock(recipe)):
            return rejoin(recipe, home, service) or _create(recipe, home, service, tokens)
    except CallFailed as problem:
        if is_refusal(problem):
            raise refusal(recipe, problem) from None
        raise TrainingError(f"training {recipe.name} could not begin: {problem}") from None


def _create(recipe: HostedRecipe, home: Path, service: Service, tokens: int) -> str:
    ledger = Ledger(home)
    body = _body(recipe, ledger, service)
    for creation in range(1, CREATIONS + 1):
        entry = Entry(time.time(), "", body["training_file"], tokens)
        ledger.remember(recipe, entry)
        try:
            made = service.once(lambda client: _id(client.fine_tuning.jobs.create(**body)))
        except CallFailed as problem:
            if problem.kind is Kind.PERMANENT and 400 <= (problem.status or 0) < 500:
                ledger.forget(recipe)
                raise
            if found := _recovered(recipe, service, entry, problem, last=creation == CREATIONS):
                ledger.remember(recipe, Entry(entry.since, found, entry.training_file, tokens))
                return found
        else:
            ledger.remember(recipe, Entry(entry.since, made, entry.training_file, tokens))
            return made
    raise AssertionError("the last creation raises")


def _id(made: Any) -> str:
    if not isinstance(made.id, str) or not made.id:
        raise ValueError("it names no job")
    return made.id


def _recovered(
    recipe: HostedRecipe, service: Service, entry: Entry, problem: CallFailed, *, last: bool
) -> str:
    """Return the job that a creation made although it failed; "" if it surely made none."""
    time.sleep(min(problem.pause_s or 0.0, SETTLED_S))
    while True:
        if found := _listed(recipe, service):
            return found
        _refuse_doubt(recipe, service, entry)
        if problem.kind is Kind.RATE_LIMIT or entry.age_s >= SETTLED_S:
            break
        time.sleep(LOOK_S)
    if last:
        raise problem
    return ""


def _refuse_doubt(recipe: HostedRecipe, service: Service, entry: Entry) -> None:
    """Refuse to go on where a job may be ours and its service keeps no metadata."""
    doubtful = [
        job.id
        for job in _jobs(service)
        if job.training_file == entry.training_file and not job.metadata and job.status not in DEAD
    ]
    if doubtful:
        raise TrainingError(
            f"training {recipe.name}: the service did not say whether it made the job, and keeps "
            f"no metadata to find it by; it may be {service.shown(doubtful[0])}: look there, and "
            "cancel it before you run again"
        )


def _listed(recipe: HostedRecipe, service: Service) -> str:
    """Return the newest job with the recipe's fingerprint that did not fail, else ""."""
    wanted = {RECIPE: recipe.job_fingerprint}
    return next(
        (
            job.id
            for job in _jobs(service, wanted)
            if (job.metadata or {}).get(RECIPE) == recipe.job_fingerprint and job.status not in DEAD
        ),
        "",
    )


def _jobs(service: Service, metadata: dict[str, str] | None = None) -> list[FineTuningJob]:
    """Return the jobs of the account; a service that cannot filter returns all of them."""

    def jobs(client: OpenAI) -> list[FineTuningJob]:
        wanted = {"metadata": metadata} if metadata else {}
        return list(client.fine_tuning.jobs.list(limit=PAGE, **wanted))  # type: ignore[arg-type]

    return service.ask(jobs)


def _looked_up(job: str, service: Service, patience_s: float = PATIENCE_S) -> FineTuningJob:
    def look(client: OpenAI) -> FineTuningJob:
        found = client.fine_tuning.jobs.retrieve(job)
        if not isinstance(found.status, str):
            raise ValueError("it is no job")
        return found

    return service.ask(look, patience_s)


def _retrieved(job: str, service: Service) -> FineTuningJob | None:
    """Return the job with this id; None if the service does not know it (any more)."""
    try:
        return _looked_up(job, service)
    except CallFailed as problem:
        if problem.status == 404:
            return None
        raise


def _rest(entry: Entry | None) -> tuple[str, int]:
    return (entry.training_file, entry.tokens) if entry else ("", 0)


# ---------------------------------------------------------------------- what is sent


def _body(recipe: HostedRecipe, ledger: Ledger, service: Service) -> dict[str, Any]:
    data = recipe.data()
    training = _uploaded(content_of(data.learned), ledger, service)
    validation = _uploaded(content_of(data.validation), ledger, service) if data.validation else ""
    return {
        "model": recipe.base.target,
        "training_file": training,
        **({"validation_file": validation} if validation else {}),
        "method": {
            "type": recipe.method,
            recipe.method: {"hyperparameters": recipe.hyperparameters},
        },
        "seed": recipe.seed,
        "suffix": recipe.suffix,
        "metadata": {RECIPE: recipe.job_fingerprint},
    }


def _uploaded(content: bytes, ledger: Ledger, service: Service) -> str:
    """Return the id of a file with this content at the service, uploading it unless it is there."""
    digest = hashlib.sha256(content).hexdigest()
    known = ledger.upload(service.url, digest)
    if known and _is_there(known, len(content), service):
        return known
    name = f"{digest[:16]}.jsonl"
    made = service.ask(
        lambda client: client.files.create(file=(name, content), purpose="fine-tune")
    )
    ledger.remember_upload(service.url, digest, made.id)
    return made.id


def _is_there(file: str, size: int, service: Service) -> bool:
    try:
        found = service.ask(lambda client: client.files.retrieve(file))
    except CallFailed as problem:
        if problem.kind is Kind.PERMANENT:
            return False
        raise
    return found.bytes in (size, None) and found.status != "error"


# ---------------------------------------------------------------------- waiting


def finish(
    recipe: HostedRecipe, home: Path, service: Service, job: str, progress: Progress | None = None
) -> Candidate:
    """Wait for the job and return the candidate that it made.

    Raises:
        TrainingError: the job failed, was cancelled, is not over by the deadline, or its
            checkpoint is not there.

    """
    try:
        over = _wait(recipe, home, service, job, progress)
        publish(recipe, home, description_of(recipe, home, service, over))
    except CallFailed as problem:
        raise TrainingError(
            f"training {recipe.name}: the job {job} cannot be followed: {problem}; it may go on: "
            "run again to rejoin it"
        ) from None
    return load(recipe, home, cached=False)


def follow(service: Service, job: str, progress: Progress, deadline: float) -> FineTuningJob | None:
    """Return the job when it is over; None if it is not by `deadline` (seconds since 1970).

    Raises:
        CallFailed: the service does not tell.

    """
    news, pause = _News(job, service), FIRST_POLL_S
    while True:
        patience = max(1.0, deadline - time.time())
        found = _looked_up(job, service, patience)
        for event in news.since_last(found.status):
            progress(event)
        if found.status in DEAD or (found.status == "succeeded" and found.fine_tuned_model):
            return found
        if time.time() >= deadline:
            return None
        time.sleep(min(pause, max(0.0, deadline - time.time())))
        pause = min(1.3 * pause, LAST_POLL_S)


def _wait(
    recipe: HostedRecipe, home: Path, service: Service, job: str, progress: Progress | None
) -> FineTuningJob:
    created = whole(_looked_up(job, service).created_at)
    deadline = (created or time.time()) + recipe.deadline_s
    over = follow(service, job, progress or (lambda _: None), deadline)
    if over is None:
        status = service.shown(status_of(job, service))
        raise TrainingError(
            f"training {recipe.name}: the job {job} is {status} and not over "
            f"{recipe.deadline_s / 3600:g} h after it was created; it goes on at the service: "
            "raise deadline_h and run again to rejoin it, or `harness jobs cancel "
            f"{recipe.name}`"
        )
    if over.status in DEAD:
        Ledger(home).forget(recipe)
        raise TrainingError(_ending(recipe, over, service))
    return over


def status_of(job: str, service: Service) -> str:
    """Return the status of a job as the service calls it."""
    found = _retrieved(job, service)
    return found.status if found else "gone"


def _ending(recipe: HostedRecipe, job: FineTuningJob, service: Service) -> str:
    """Say how a job failed, in the service's own words."""
    return (
        f"training {recipe.name}: the job {service.shown(job.id)} {_ended(job, service)}; "
        "run again to start another"
    )


def _ended(job: FineTuningJob, service: Service) -> str:
    error = job.error
    words = [getattr(error, key, None) for key in ("code", "message", "param")]
    told = ": ".join(service.shown(word) for word in words if word)
    how = "was cancelled" if job.status == "cancelled" else "failed"
    return f"{how}: {told}" if told else f"{how}, and the service gives no reason"


class _News:
    """The events of a job, each told once."""

    def __init__(self, job: str, service: Service) -> None:
        self._job = job
        self._service = service
        self._seen: set[str] = set()
        self._status = ""

    def since_last(self, status: str) -> list[Event]:
        """Return what happened since the last call, the oldest first."""
        told = [_event(one, self._service) for one in reversed(self._fresh())]
        if status != self._status:
            self._status = status
            told.insert(0, Event(self._service.shown(status)))
        return told

    def _fresh(self) -> list[Any]:
        try:
            page = self._service.once(
                lambda client: client.fine_tuning.jobs.list_events(self._job, limit=20)
            )
        except CallFailed:
            return []  # the job is what counts
        fresh = [event for event in page.data or [] if event.id not in self._seen]
        self._seen.update(event.id for event in fresh)
        return fresh


def _event(event: Any, service: Service) -> Event:
    data = event.data if isinstance(event.data, dict) else {}
    return Event(
        "step" if event.type == "metrics" else "message",
        step=whole(data.get("step")),
        steps=whole(data.get("total_steps")),
        loss=loss(data.get("train_loss")),
        message=service.shown(event.message),
    )
