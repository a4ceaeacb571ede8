"""The life of a fine-tuning job at a service that speaks the OpenAI protocol.

Never two jobs for one recipe: the protocol knows no idempotency, so a job carries its recipe's
fingerprint in its metadata, and whoever wants one looks there before creating it, once, without
retries, under a lock. A creation whose answer got lost is looked for until it must have shown up.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.models.failures import CallFailed, Kind
from harness.records import Candidate, LossPoint
from trainers import Event, Progress, TrainingError
from trainers.artefact import DESCRIPTION, candidate_folder, damaged, lock_of, relative
from trainers.curves import losses_of
from trainers.diagnosis import findings
from trainers.hosted_data import content_of
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
FINAL = ("succeeded", *DEAD)
"""The statuses that end a job; any other, known or not, does not."""

REFUSED = "the server answered 4"
"""How a failure begins after which surely nothing was made."""

SETTLED_S = 10.0
"""Seconds after which a job that was asked for shows up in the list, or was never made."""

LOOK_S = 0.5
CREATIONS = 3
FIRST_POLL_S, LAST_POLL_S = 0.2, 10.0
PAGE = 100
LARGEST_RESULT = 1 << 26
"""Bytes of a result file that are read."""


@dataclass(frozen=True)
class Checkpoint:
    """A model that a job made on its way: its name, the step, the losses there."""

    step: int
    model: str
    train: float | None = None
    validation: float | None = None


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
            if problem.kind is Kind.PERMANENT and str(problem).startswith(REFUSED):
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
        if str(problem).startswith("the server answered 404"):
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
        _publish(recipe, home, _description(recipe, home, service, over))
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
    created = _whole(_looked_up(job, service).created_at)
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
        step=_whole(data.get("step")),
        steps=_whole(data.get("total_steps")),
        loss=_loss(data.get("train_loss")),
        message=service.shown(event.message),
    )


def _whole(value: object) -> int:
    return int(value) if isinstance(value, int | float) and 0 <= value < 1e12 else 0


def _loss(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e12 else None


# ---------------------------------------------------------------------- what a job made


def _description(
    recipe: HostedRecipe, home: Path, service: Service, job: FineTuningJob
) -> dict[str, Any]:
    checkpoints = _checkpoints(job, service)
    losses, note = _losses(recipe, job, service)
    entry = Ledger(home).entry(recipe)
    return {
        "fingerprint": recipe.fingerprint,
        "trainer": recipe.trainer,
        "model": _model(recipe, job, checkpoints),
        "job": job.id,
        "endpoint": dict(recipe.endpoint),
        "method": recipe.method,
        "hyperparameters": recipe.hyperparameters,
        "seed": recipe.seed,
        "data": recipe.digests,
        "rows": recipe.rows,
        "general_rows": recipe.general_rows,
        "started": _moment(job.created_at),
        "seconds": max(0, _whole(job.finished_at) - _whole(job.created_at)),
        "steps": max([0, *(point.step for point in losses)]),
        "trained_tokens": job.trained_tokens,
        "estimated_tokens": entry.tokens if entry else 0,
        "losses": [astuple(point) for point in losses],
        "note": note,
        "checkpoints": [asdict(checkpoint) for checkpoint in checkpoints],
    }


def _model(recipe: HostedRecipe, job: FineTuningJob, checkpoints: Sequence[Checkpoint]) -> str:
    if recipe.checkpoint is None:
        return str(job.fine_tuned_model)
    for checkpoint in checkpoints:
        if checkpoint.step == recipe.checkpoint:
            return checkpoint.model
    known = ", ".join(str(checkpoint.step) for checkpoint in checkpoints) or "none"
    raise TrainingError(
        f"training {recipe.name}: the job {job.id} has no checkpoint of step {recipe.checkpoint}; "
        f"there: {known}; name one of them with checkpoint ="
    )


def _checkpoints(job: FineTuningJob, service: Service) -> list[Checkpoint]:
    def checkpoints(client: OpenAI) -> list[Checkpoint]:
        return [
            Checkpoint(
                one.step_number,
                one.fine_tuned_model_checkpoint,
                _loss(one.metrics.train_loss),
                _loss(_either(one.metrics.full_valid_loss, one.metrics.valid_loss)),
            )
            for one in client.fine_tuning.jobs.checkpoints.list(job.id)
        ]

    try:
        return sorted(service.ask(checkpoints), key=lambda one: one.step)
    except CallFailed:
        return []  # not every service keeps them


def _either(first: float | None, second: float | None) -> float | None:
    return second if first is None else first


def _losses(
    recipe: HostedRecipe, job: FineTuningJob, service: Service
) -> tuple[tuple[LossPoint, ...], str]:
    """Return the curves of a job, and why there are none: a model that was paid for stays."""
    note = "the service gave no result file"
    for file in job.result_files or []:
        try:
            content = _content(file, service)
            return losses_of(content, _epochs(recipe, job)), ""
        except (CallFailed, ValueError) as problem:
            note = f"the result file cannot be read: {service.shown(problem)}"
    return (), note


def _content(file: str, service: Service) -> bytes:
    def content(client: OpenAI) -> bytes:
        found = bytearray()
        with client.files.with_streaming_response.content(file) as response:
            for part in response.iter_bytes():
                found += part
                if len(found) > LARGEST_RESULT:
                    break
        return bytes(found)

    found = service.ask(content)
    if len(found) > LARGEST_RESULT:
        raise ValueError("it is too large")
    return found


def _epochs(recipe: HostedRecipe, job: FineTuningJob) -> float | None:
    """Return the epochs that were trained: what was asked for, or what the service chose."""
    method = getattr(job.method, recipe.method, None)
    chosen = [recipe.epochs, getattr(getattr(method, "hyperparameters", None), "n_epochs", None)]
    chosen.append(getattr(job.hyperparameters, "n_epochs", None))
    return next((float(one) for one in chosen if isinstance(one, int | float)), None)


def _moment(seconds: object) -> str:
    return datetime.fromtimestamp(_whole(seconds), UTC).isoformat(timespec="seconds")


def _publish(recipe: HostedRecipe, home: Path, description: dict[str, Any]) -> None:
    """Put the candidate into the store, whole; another process may have been faster."""
    from filelock import FileLock

    folder = candidate_folder(recipe.fingerprint, home)
    lock_of(folder).parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock_of(folder)):
        if folder.exists():
            return
        partial = folder.parent / f".tmp-{folder.name}-{os.getpid()}"
        partial.mkdir(parents=True)
        try:
            text = json.dumps(description, indent=1)
            (partial / DESCRIPTION).write_text(text, encoding="utf-8")
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def find(recipe: HostedRecipe, home: Path) -> Candidate | None:
    """Return the candidate of `recipe` if it is known here.

    Raises:
        EvidenceError: it is there, but damaged.

    """
    folder = candidate_folder(recipe.fingerprint, home)
    return load(recipe, home, cached=True) if folder.exists() else None


def load(recipe: HostedRecipe, home: Path, *, cached: bool) -> Candidate:
    """Return the candidate in the store.

    Raises:
        EvidenceError: it is damaged.

    """
    folder = candidate_folder(recipe.fingerprint, home)
    try:
        made = json.loads((folder / DESCRIPTION).read_text("utf-8"))
        losses = tuple(LossPoint(*point) for point in made["losses"])
        if not isinstance(made["model"], str) or not made["model"]:
            raise ValueError("it names no model")
        return Candidate(
            name=recipe.name,
            fingerprint=recipe.fingerprint,
            path=folder,
            base=recipe.base.spec,
            model=made["model"],
            cached=cached,
            started=made["started"],
            seconds=made["seconds"],
            steps=made["steps"],
            rows=made["rows"],
            losses=losses,
            recipe=_shown(recipe, made),
            findings=(
                *findings(losses, recipe.hyperparameters),
                *([made["note"]] if made["note"] else []),
            ),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise damaged(recipe.name, folder, problem) from None


def _shown(recipe: HostedRecipe, made: dict[str, Any]) -> dict[str, object]:
    steps = [str(one["step"]) for one in made["checkpoints"]]
    return {
        "base": recipe.base.spec,
        "trainer": recipe.trainer,
        "method": recipe.method,
        "model": made["model"],
        "job": made["job"],
        "endpoint": recipe.endpoint["base_url"],
        "train": relative(recipe.train, recipe.root),
        "validation": relative(recipe.validation, recipe.root),
        "mix": relative(recipe.mix.path if recipe.mix else None, recipe.root),
        "behaviour": recipe.behaviour,
        "rows": recipe.rows,
        "general_rows": recipe.general_rows,
        "seed": recipe.seed,
        "trained_tokens": made["trained_tokens"],
        "estimated_tokens": made["estimated_tokens"] or None,
        "checkpoints": ", ".join(steps) or None,
        **recipe.hyperparameters,
    }
