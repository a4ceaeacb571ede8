"""The life of a fine-tuning job at a service that speaks the OpenAI protocol.

Never two jobs for one recipe: the protocol knows no idempotency, so a job carries its recipe's
fingerprint in its metadata, and whoever wants one looks there before creating it, once, without
retries, under a lock. That it was asked for is written down before. Where nobody can tell whether
a service made it, nothing is created until a person has looked: see `InDoubt`.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.models.failures import CallFailed, Kind
from harness.records import Candidate, HarnessError
from trainers import Event, Progress, TrainingError, protocol
from trainers.hosted_data import content_of
from trainers.hosted_job import Job, State, loss, whole
from trainers.hosted_made import description_of, load, publish
from trainers.hosted_recipe import HostedRecipe
from trainers.ledger import Entry, Ledger
from trainers.preflight import is_refusal, refusal
from trainers.service import LONGEST_WAIT_S, NeverSent, Service

RECIPE = "pytest_finetune_recipe"
"""The key in a job's metadata under which the recipe's fingerprint stands."""

SETTLED_S = 30.0
"""Seconds after which a job that was asked for shows up in the list, or was never made."""

NAMED_S = 30.0
"""Seconds after which a job that succeeded names its model, or never will."""

FILE_S = 300.0
"""Seconds for which a service may process an upload before a job is asked for all the same."""

SKEW_S = 300.0
"""Seconds by which a service's clock may be behind."""

LOOK_S = 0.5
CREATIONS = 3
FIRST_POLL_S, LAST_POLL_S = 0.2, 10.0
_OLDEST = 1.5e9
"""No job is older (2017): a smaller time is none."""

_UNDONE = (409, 425)
"""Statuses of a service that did nothing and may be asked again, beside those for haste."""


class InDoubt(TrainingError):
    """Nobody can tell whether a service made the job of a recipe: a person has to look."""


# ---------------------------------------------------------------------- one job per recipe


def rejoin(recipe: HostedRecipe, home: Path, service: Service) -> str:
    """Return the id of the job that trains `recipe`, or has trained it; "" if there is none.

    Raises:
        TrainingError: the job that an earlier run waited for has failed; it is forgotten.
        InDoubt: a job was asked for, and nobody can tell whether it was made.
        NotTrainable, CallFailed: the service refuses to tell.

    """
    with _alone(recipe, home) as ledger:
        return _rejoined(recipe, ledger, service)


def submit(recipe: HostedRecipe, home: Path, service: Service, tokens: int = 0) -> str:
    """Return the id of the job of `recipe`, creating it unless there is one.

    `tokens` is what the training was estimated to take. Several processes may ask at once.

    Raises:
        TrainingError: the job failed, or could not be created.
        InDoubt: nobody can tell whether it was created.
        NotTrainable: the service does not train this model.

    """
    try:
        with _alone(recipe, home) as ledger:
            found = _rejoined(recipe, ledger, service)
            return found or _create(recipe, ledger, service, tokens)
    except CallFailed as problem:
        if is_refusal(problem):
            raise refusal(recipe, problem) from None
        raise TrainingError(f"training {recipe.name} could not begin: {problem}") from None


@contextmanager
def _alone(recipe: HostedRecipe, home: Path) -> Iterator[Ledger]:
    """Keep everybody else away from the job of `recipe`."""
    from filelock import FileLock

    ledger = Ledger(home)
    with FileLock(ledger.lock(recipe)):
        yield ledger


def _rejoined(recipe: HostedRecipe, ledger: Ledger, service: Service) -> str:
    entry = ledger.entry(recipe)
    if entry and entry.job:
        return _known(recipe, ledger, service, entry)
    if entry:
        return _clear_up(recipe, ledger, service, entry)
    if found := _listed(recipe, service):
        ledger.remember(recipe, Entry(time.time(), found))
    return found


def _known(recipe: HostedRecipe, ledger: Ledger, service: Service, entry: Entry) -> str:
    """Return the job of an earlier run, if it lives."""
    job = protocol.known_job(service, entry.job)
    if job is None:
        if found := _listed(recipe, service):
            ledger.remember(recipe, replace(entry, job=found))
            return found
        raise InDoubt(_gone(recipe, service.shown(entry.job)))
    if job.state.is_dead:
        ledger.forget(recipe)
        raise TrainingError(_ending(recipe, job, service))
    return job.id


def _create(recipe: HostedRecipe, ledger: Ledger, service: Service, tokens: int) -> str:
    body = _body(recipe, ledger, service)
    for creation in range(1, CREATIONS + 1):
        entry = Entry(time.time(), "", body["training_file"], tokens, recipe.suffix)
        ledger.remember(recipe, entry)
        try:
            made = protocol.create(service, body)
        except CallFailed as problem:
            if _is_final(problem):
                ledger.forget(recipe)
                raise
            made = _made_nevertheless(recipe, ledger, service, entry, problem)
            if not made and creation == CREATIONS:
                raise
        if made:
            ledger.remember(recipe, replace(entry, job=made))
            return made
    raise AssertionError("the last creation raises")


def _is_final(problem: CallFailed) -> bool:
    """Whether a service refused to make a job, for a reason that stays."""
    refused = problem.kind in (Kind.PERMANENT, Kind.CONTENT_FILTER)
    return refused and 400 <= (problem.status or 0) < 500


def _made_nevertheless(
    recipe: HostedRecipe, ledger: Ledger, service: Service, entry: Entry, problem: CallFailed
) -> str:
    """Return the job that a creation made although it failed; "" if it surely made none."""
    entry = replace(entry, reason=str(problem))
    ledger.remember(recipe, entry)
    time.sleep(min(problem.pause_s or 0.0, LONGEST_WAIT_S))
    if isinstance(problem, NeverSent):
        ledger.forget(recipe)
    elif problem.kind is not Kind.RATE_LIMIT and problem.status not in _UNDONE:
        return _clear_up(recipe, ledger, service, entry)
    sight = _look(recipe, ledger, service, entry)
    if sight.doubtful and not sight.job:
        raise InDoubt(_doubt(recipe, service, entry, sight))
    if not sight.job:
        ledger.forget(recipe)
    return sight.job


# ---------------------------------------------------------------------- in doubt


@dataclass(frozen=True)
class _Sight:
    """What the list of a service shows of a job that was asked for.

    `job` is the one that is ours, `doubtful` may be; `complete`: ours would be among them, as the
    service lists jobs with their metadata; `listed`: it lists jobs at all.
    """

    job: str = ""
    doubtful: tuple[Job, ...] = ()
    complete: bool = False
    listed: bool = True


def _clear_up(recipe: HostedRecipe, ledger: Ledger, service: Service, entry: Entry) -> str:
    """Return the job that was asked for, waiting until it must have shown up; "": there is none.

    Raises:
        InDoubt: the service does not show whether it made the job.

    """
    patience = time.monotonic() + SETTLED_S - min(entry.age_s, SETTLED_S)
    while not (sight := _look(recipe, ledger, service, entry)).job:
        if time.monotonic() >= patience or sight.doubtful or not sight.listed:
            break
        time.sleep(LOOK_S)
    if sight.job:
        ledger.remember(recipe, replace(entry, job=sight.job))
    elif sight.complete:
        ledger.forget(recipe)
    else:
        raise InDoubt(_doubt(recipe, service, entry, sight))
    return sight.job


def _look(recipe: HostedRecipe, ledger: Ledger, service: Service, entry: Entry) -> _Sight:
    if found := _listed(recipe, service):
        return _Sight(found)
    if (jobs := protocol.jobs(service)) is None:
        return _Sight(listed=False)
    others = ledger.others(recipe)
    possible = tuple(j for j in jobs if j.id not in others and _may_be(j, recipe, entry))
    if len(possible) == 1 and _is_surely(possible[0], entry):
        return _Sight(possible[0].id)
    return _Sight("", possible, complete=not possible and any(job.metadata for job in jobs))


def _may_be(job: Job, recipe: HostedRecipe, entry: Entry) -> bool:
    """Whether nothing that a service tells of a job speaks against its being the one asked for."""
    wanted = {**recipe.hyperparameters, "seed": recipe.seed}
    numbers = (int, float)
    return (
        not job.metadata
        and (job.created < _OLDEST or job.created >= entry.since - SKEW_S)
        and (not (job.training_file and entry.training_file) or _is_same_file(job, entry))
        and (not (job.suffix and entry.suffix) or _is_same_suffix(job, entry))
        and (not job.model or _is_model(job.model, recipe))
        and all(
            job.settings[key] == value
            for key, value in wanted.items()
            if isinstance(value, numbers) and isinstance(job.settings.get(key), numbers)
        )
    )


def _is_same_file(job: Job, entry: Entry) -> bool:
    return bool(job.training_file) and job.training_file == entry.training_file


def _is_same_suffix(job: Job, entry: Entry) -> bool:
    """Whether the suffixes are alike; services change cases and signs, and cut."""
    theirs, ours = (re.sub("[^a-z0-9]", "", one.lower()) for one in (job.suffix, entry.suffix))
    return bool(theirs and ours) and ours.startswith(theirs)


def _is_surely(job: Job, entry: Entry) -> bool:
    """Whether a job that may be ours is: it trains on our file, with our suffix, since then."""
    return _is_same_file(job, entry) and _is_same_suffix(job, entry) and job.created > _OLDEST


def _is_model(name: str, recipe: HostedRecipe) -> bool:
    """Whether a job's model is the recipe's: some services show the dated name of an alias."""
    base, name = recipe.base.target.lower(), name.lower()
    return name == base or (name.startswith(f"{base}-") and name[len(base) + 1 :][:4].isdigit())


def _listed(recipe: HostedRecipe, service: Service) -> str:
    """Return the newest job with the recipe's fingerprint that did not fail, else ""."""
    return next(
        (
            job.id
            for job in protocol.jobs(service, {RECIPE: recipe.job_fingerprint}) or ()
            if job.metadata.get(RECIPE) == recipe.job_fingerprint and not job.state.is_dead
        ),
        "",
    )


def _doubt(recipe: HostedRecipe, service: Service, entry: Entry, sight: _Sight) -> str:
    when = datetime.fromtimestamp(entry.since, UTC).strftime("%Y-%m-%d %H:%M UTC")
    why = f" ({entry.reason})" if entry.reason else ""
    jobs = " or ".join(f"{service.shown(j.id)} ({service.shown(j.status)})" for j in sight.doubtful)
    return (
        f"training {recipe.name}: a job was asked for at {when}, and it is not known whether "
        f"{service.url} made it{why}"
        f"{f'; it may be {jobs}' if jobs else ''}; nothing more is paid for until you have looked "
        f"there: {_way_out(recipe)}"
    )


def _gone(recipe: HostedRecipe, job: str) -> str:
    return (
        f"training {recipe.name}: the service does not know its job {job} any more; nothing more "
        f"is paid for until you have looked there: {_way_out(recipe)}"
    )


def _way_out(recipe: HostedRecipe) -> str:
    return (
        f"`harness jobs adopt ID {recipe.name}` takes a job over, `harness jobs forget "
        f"{recipe.name}` says that there is none"
    )


def adopt(recipe: HostedRecipe, home: Path, service: Service, job: str) -> Job:
    """Take over the job with the id `job` as that of `recipe`, and return it.

    Raises:
        HarnessError: there is no such job, it is another recipe's, or `recipe` has one.
        CallFailed: the service does not tell.

    """
    with _alone(recipe, home) as ledger:
        entry = ledger.entry(recipe) or Entry(time.time())
        found = protocol.known_job(service, job) if job else None
        if found is None:
            raise HarnessError(f"{service.url} knows no job {job!r}; look up its id there")
        if why := _foreign(found, recipe, ledger, entry):
            raise HarnessError(f"the job {service.shown(job)} is not that of {recipe.name}: {why}")
        if entry.job not in ("", found.id) and _lives(service, entry.job):
            raise HarnessError(
                f"{recipe.name} has the job {service.shown(entry.job)}; end it first: "
                f"harness jobs cancel {recipe.name}"
            )
        ledger.remember(recipe, replace(entry, job=found.id))
        return found


def _foreign(job: Job, recipe: HostedRecipe, ledger: Ledger, entry: Entry) -> str:
    """Say why a job is not the recipe's; "" if nothing speaks against it."""
    if not _is_model(job.model, recipe):
        return f"it trains {job.model or 'an unknown model'} and not {recipe.base.target}"
    if job.metadata.get(RECIPE, recipe.job_fingerprint) != recipe.job_fingerprint:
        return "its metadata name another recipe"
    if job.id in ledger.others(recipe):
        return "it is another recipe's"
    if entry.training_file and job.training_file and not _is_same_file(job, entry):
        return f"it trains on {job.training_file} and not on {entry.training_file}"
    return ""


def forget(recipe: HostedRecipe, home: Path, service: Service | None) -> bool:
    """Forget that a job was asked for; return whether one was. The next run asks for another.

    Without a `service` nobody is asked whether a job whose id is known lives.

    Raises:
        HarnessError: the job of `recipe` is known, and lives.
        CallFailed: the service does not tell whether it does.

    """
    with _alone(recipe, home) as ledger:
        entry = ledger.entry(recipe)
        if entry and entry.job and (service is None or _lives(service, entry.job)):
            raise HarnessError(
                f"{recipe.name} has the job {entry.job}, which is not in doubt; run again to "
                f"rejoin it, or end it: harness jobs cancel {recipe.name}"
            )
        ledger.forget(recipe)
        return entry is not None


def _lives(service: Service, job: str) -> bool:
    found = protocol.known_job(service, job)
    return found is not None and not found.state.is_dead


# ---------------------------------------------------------------------- what is sent


def _body(recipe: HostedRecipe, ledger: Ledger, service: Service) -> dict[str, Any]:
    data = recipe.data()
    training = _uploaded(content_of(data.learned), ledger, service)
    validation = _uploaded(content_of(data.validation), ledger, service) if data.validation else ""
    for file in filter(None, (training, validation)):
        _await_file(file, recipe, service)
    return {
        "model": recipe.base.target,
        "training_file": training,
        **({"validation_file": validation} if validation else {}),
        **recipe.method_fields,
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
    made = protocol.upload(service, f"{digest[:16]}.jsonl", content)
    ledger.remember_upload(service.url, digest, made.id)
    return made.id


def _is_there(file: str, size: int, service: Service) -> bool:
    found = protocol.file(service, file)
    return found is not None and found.fit and found.size in (size, None)


def _await_file(file: str, recipe: HostedRecipe, service: Service) -> None:
    """Wait while a service says that it processes a file.

    Raises:
        TrainingError: it cannot be trained on.

    """
    deadline, pause = time.monotonic() + FILE_S, FIRST_POLL_S
    while (found := protocol.file(service, file)) and not found.ready:
        if time.monotonic() >= deadline:
            return  # some say so for ever; the others refuse the job
        time.sleep(pause)
        pause = min(1.3 * pause, LAST_POLL_S)
    if found and not found.fit:
        why = service.shown(found.reason) or "the service gives no reason"
        raise TrainingError(
            f"training {recipe.name}: the service cannot use the file {service.shown(file)} that "
            f"was uploaded: {why}; correct the data, or run again to upload it again"
        )


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


def follow(service: Service, job: str, progress: Progress, deadline: float) -> Job | None:
    """Return the job when it is over; None if it is not by `deadline` (seconds since 1970).

    Raises:
        CallFailed: the service does not tell.

    """
    news, pause = _News(job, service), FIRST_POLL_S
    unnamed_since: float | None = None
    while True:
        patience = max(1.0, deadline - time.time())
        found = protocol.job(service, job, patience)
        for event in news.since_last(found.status):
            progress(event)
        if found.state.is_dead or (found.state is State.SUCCEEDED and found.fine_tuned_model):
            return found
        if found.state is State.SUCCEEDED:
            unnamed_since = unnamed_since or time.monotonic()
            if time.monotonic() >= unnamed_since + NAMED_S:
                return found
        if time.time() >= deadline:
            return None
        time.sleep(min(pause, max(0.0, deadline - time.time())))
        pause = min(1.3 * pause, LAST_POLL_S)


def _wait(
    recipe: HostedRecipe, home: Path, service: Service, job: str, progress: Progress | None
) -> Job:
    seen = protocol.job(service, job, recipe.deadline_s)
    deadline = _begun(recipe, home, seen) + recipe.deadline_s
    over = follow(service, job, progress or (lambda _: None), deadline)
    if over is None:
        status = service.shown(status_of(job, service))
        raise TrainingError(
            f"training {recipe.name}: the job {job} is {status} and not over "
            f"{recipe.deadline_s / 3600:g} h after it was created; it goes on at the service: "
            "raise deadline_h and run again to rejoin it, or `harness jobs cancel "
            f"{recipe.name}`"
        )
    if over.state.is_dead:
        Ledger(home).forget(recipe)
        raise TrainingError(_ending(recipe, over, service))
    return over


def _begun(recipe: HostedRecipe, home: Path, job: Job) -> float:
    """Return when a job was created: as its service says, if it can be, or as we know it."""
    now = time.time()
    if _OLDEST < job.created <= now + SKEW_S:
        return job.created
    entry = Ledger(home).entry(recipe)
    return min(entry.since, now) if entry else now


def status_of(job: str, service: Service) -> str:
    """Return the status of a job as the service calls it."""
    found = protocol.known_job(service, job)
    return found.status if found else "gone"


def _ending(recipe: HostedRecipe, job: Job, service: Service) -> str:
    """Say how a job failed, in the service's own words."""
    return (
        f"training {recipe.name}: the job {service.shown(job.id)} {_ended(job, service)}; "
        "run again to start another"
    )


def _ended(job: Job, service: Service) -> str:
    how = "was cancelled" if job.state is State.CANCELLED else "failed"
    if job.status.lower() not in ("failed", "cancelled", "canceled"):
        how += f" ({service.shown(job.status)})"
    told = service.shown(job.error)
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

    def _fresh(self) -> list[dict[str, Any]]:
        found = {_event_key(event): event for event in protocol.events(self._service, self._job)}
        fresh = [event for key, event in found.items() if key not in self._seen]
        self._seen.update(found)
        return fresh


def _event_key(event: dict[str, Any]) -> str:
    return str(event.get("id") or (event.get("created_at"), event.get("message")))


def _event(event: dict[str, Any], service: Service) -> Event:
    data = event.get("data")
    data = data if isinstance(data, dict) else {}
    return Event(
        "step" if event.get("type") == "metrics" else "message",
        step=whole(data.get("step")),
        steps=whole(data.get("total_steps")),
        loss=loss(data.get("train_loss")),
        message=service.shown(event.get("message") or ""),
    )
