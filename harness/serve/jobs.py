"""Fine-tuning jobs: what they are, how they change, and what is told of them."""

from __future__ import annotations

import re
import sys
import threading
import traceback
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from harness.records import EvidenceError, HarnessError
from harness.serve.state import State, StorageError
from harness.serve.wire import ORGANIZATION, Asked, Missing, ProtocolError, Wire, new_id, now

VALIDATING, QUEUED, RUNNING, PAUSED = "validating_files", "queued", "running", "paused"
SUCCEEDED, FAILED, CANCELLED = "succeeded", "failed", "cancelled"
OPEN = (VALIDATING, QUEUED, RUNNING, PAUSED)

MOST_OPEN = 100
"""Jobs that may wait or run; a client that comes then is asked to come again."""

Auto = Literal["auto"]


class Hyperparameters(Asked):
    """The three numbers of the protocol; "auto" leaves the choice to the server."""

    n_epochs: Auto | Annotated[int, Field(ge=1, le=50)] = "auto"
    batch_size: Auto | Annotated[int, Field(ge=1, le=256)] = "auto"
    learning_rate_multiplier: Auto | Annotated[float, Field(gt=0, le=100)] = "auto"


class Supervised(Asked):
    """How a supervised job trains."""

    hyperparameters: Hyperparameters = Hyperparameters()


class Method(Asked):
    """How a job trains; supervised is what there is."""

    type: Literal["supervised"]
    supervised: Supervised = Supervised()
    dpo: Missing = None
    reinforcement: Missing = None


Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]


class JobRequest(Asked):
    """The body that creates a job."""

    model: str
    training_file: str
    validation_file: str | None = None
    hyperparameters: Hyperparameters | None = None
    method: Method | None = None
    suffix: Annotated[str, Field(max_length=64)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    metadata: Metadata | None = None
    integrations: Annotated[list[Any], Field(max_length=0)] | None = None

    @property
    def chosen(self) -> Hyperparameters:
        """The hyperparameters, wherever they stand."""
        if self.method is None:
            return self.hyperparameters or Hyperparameters()
        return self.method.supervised.hyperparameters


class JobError(Exception):
    """A job cannot go on; `error` is what the protocol says about it."""

    def __init__(self, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.error = {"code": code, "message": message, "param": param}


def error_of(problem: BaseException) -> Wire:
    """Return what a job says about the `problem` that ended it."""
    if isinstance(problem, JobError):
        return problem.error
    if isinstance(problem, StorageError):
        return {"code": "storage_error", "message": str(problem), "param": None}
    if isinstance(problem, HarnessError | EvidenceError):
        return {"code": "training_failed", "message": str(problem), "param": None}
    traceback.print_exception(problem, file=sys.stderr)
    message = f"The server had an error: {type(problem).__name__}; its log says more."
    return {"code": "server_error", "message": message, "param": None}


@dataclass(frozen=True)
class Job:
    """One job; `base` says where its base is, `fingerprint` which candidate came of it.

    `step` of `steps` is where the state was taken that became the model. `losses` are the last
    ones there, in nats per token, by the protocol's names. Times are Unix seconds.
    """

    id: str
    model: str
    created_at: int
    training_file: str
    validation_file: str | None
    hyperparameters: dict[str, Any]
    base: dict[str, Any]
    seed: int
    suffix: str = ""
    metadata: dict[str, str] | None = None
    status: str = VALIDATING
    error: dict[str, Any] | None = None
    finished_at: int | None = None
    estimated_finish: int | None = None
    fine_tuned_model: str | None = None
    trained_tokens: int | None = None
    result_files: list[str] = field(default_factory=list)
    fingerprint: str = ""
    validated: bool = False
    step: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    deleted: bool = False

    @property
    def model_name(self) -> str:
        """The name of the model that comes of it."""
        return f"ft:{self.model}:{ORGANIZATION}:{self.suffix}:{self.id[-8:]}"

    @property
    def checkpoint_name(self) -> str:
        """The name of the same model as a checkpoint."""
        return f"{self.model_name}:ckpt-step-{self.step}"

    @property
    def answers(self) -> bool:
        """Whether its model can be asked."""
        return self.status == SUCCEEDED and not self.deleted

    @property
    def wire(self) -> Wire:
        """The job as the protocol shows it."""
        return {
            "object": "fine_tuning.job",
            "id": self.id,
            "model": self.model,
            "created_at": self.created_at,
            "finished_at": self.finished_at,
            "estimated_finish": self.estimated_finish,
            "fine_tuned_model": self.fine_tuned_model,
            "organization_id": f"org-{ORGANIZATION}",
            "status": self.status,
            "error": self.error,
            "training_file": self.training_file,
            "validation_file": self.validation_file,
            "result_files": self.result_files,
            "trained_tokens": self.trained_tokens,
            "seed": self.seed,
            "hyperparameters": self.hyperparameters,
            "method": {
                "type": "supervised",
                "supervised": {"hyperparameters": self.hyperparameters},
            },
            "metadata": self.metadata,
            "integrations": [],
        }

    @property
    def checkpoints(self) -> list[Wire]:
        """The checkpoints as the protocol shows them: the state that was kept."""
        if not self.answers:
            return []
        return [
            {
                "object": "fine_tuning.job.checkpoint",
                "id": f"ftckpt_{self.id.removeprefix('ftjob-')}",
                "created_at": self.finished_at,
                "fine_tuning_job_id": self.id,
                "fine_tuned_model_checkpoint": self.checkpoint_name,
                "step_number": self.step,
                "metrics": {"step": self.step, **self.losses},
            }
        ]


def new_job(asked: JobRequest, base: dict[str, Any]) -> Job:
    """Return the job that a request asks for."""
    return Job(
        id=new_id("ftjob-"),
        model=asked.model,
        created_at=now(),
        training_file=asked.training_file,
        validation_file=asked.validation_file,
        hyperparameters=asked.chosen.model_dump(),
        base=base,
        seed=asked.seed or 0,  # so that a recipe without a seed is trained once
        suffix=re.sub(r"[^a-z0-9_.-]+", "-", (asked.suffix or "").lower()),
        metadata=asked.metadata,
    )


def _restored(values: dict[str, Any]) -> Job | None:
    """Return a job as it was stored; None if something has damaged it."""
    try:
        return Job(**values)
    except TypeError:
        return None


class Jobs:
    """All jobs, the oldest first; may be used by several threads."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._changed = threading.Condition()
        self.closing = False
        stored = filter(None, map(_restored, state.all("job")))
        self._jobs = {job.id: job for job in stored}
        for job in self.all():
            if self.move(job.id, [RUNNING], status=QUEUED):
                self.tell(job.id, "The server was restarted; the job begins again", level="warn")

    def add(self, job: Job) -> None:
        """Take in a new job; ProtocolError (429) if too many are open."""
        with self._changed:
            if sum(one.status in OPEN for one in self._jobs.values()) >= MOST_OPEN:
                raise ProtocolError(
                    429,
                    f"{MOST_OPEN} jobs are waiting already; try again when one is finished.",
                    kind="requests",
                    code="rate_limit_exceeded",
                    headers={"Retry-After": "10"},
                )
            self.tell(job.id, f"Created fine-tuning job: {job.id}")
            self._put(job)

    def find(self, name: str) -> Job:
        """Return the job with this id; ProtocolError (404) if there is none."""
        if name not in self._jobs:
            raise ProtocolError(
                404,
                f"Could not find fine tune: {name[:80]}",
                param="fine_tuning_job_id",
                code="fine_tune_not_found",
            )
        return self._jobs[name]

    def all(self) -> list[Job]:
        """Return all jobs."""
        with self._changed:
            return list(self._jobs.values())

    def maker(self, model: str) -> Job | None:
        """Return the job whose model, or checkpoint, has this name and can be asked."""
        made = (job for job in self.all() if job.answers)
        return next((job for job in made if model in (job.model_name, job.checkpoint_name)), None)

    def move(self, name: str, origin: Collection[str], **changes: Any) -> Job | None:
        """Change a job whose status is in `origin`; None if it is another by now."""
        with self._changed:
            job = self._jobs[name]
            if job.status not in origin:
                return None
            moved = replace(job, **changes)
            self._put(moved)
            return moved

    def fail(self, name: str, status: str, error: Wire) -> None:
        """End a job of this status; where that cannot be stored, until the server begins anew."""
        with self._changed:
            job = self._jobs[name]
            if job.status != status:
                return
            self._jobs[name] = replace(
                job, status=FAILED, error=error, finished_at=now(), estimated_finish=None
            )
            with suppress(StorageError):
                self._put(self._jobs[name])
                self.tell(name, error["message"], level="error")

    def wait_for(self, status: str) -> Job | None:
        """Return the first job of this status as soon as there is one; None at the end."""
        with self._changed:
            return self._changed.wait_for(lambda: self.closing or self._first(status)) and (
                None if self.closing else self._first(status)
            )

    def close(self) -> None:
        """Let go of those who wait."""
        self.closing = True  # a signal's handler calls this: it must not wait for the lock
        threading.Thread(target=self._wake).start()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _first(self, status: str) -> Job | None:
        return next((job for job in self._jobs.values() if job.status == status), None)

    def _put(self, job: Job) -> None:
        self._state.put("job", asdict(job))
        self._jobs[job.id] = job
        self._changed.notify_all()

    # ------------------------------------------------------------------ events

    def tell(
        self, name: str, message: str, level: str = "info", metrics: Wire | None = None
    ) -> None:
        """Store an event of a job."""
        event = {
            "object": "fine_tuning.job.event",
            "id": new_id("ftevent-"),
            "created_at": now(),
            "level": level,
            "message": message,
            "type": "message" if metrics is None else "metrics",
            "data": metrics or {},
        }
        self._state.put("event", event, owner=name)

    def events(self, name: str) -> list[Wire]:
        """Return the events of a job, the latest first."""
        return self._state.all("event", owner=self.find(name).id)[::-1]

    # ------------------------------------------------------------------ orders

    def cancel(self, name: str) -> Job:
        """End a job; ProtocolError (400) if it has ended."""
        return self._order(name, OPEN, CANCELLED, "The job was cancelled", finished_at=now())

    def pause(self, name: str) -> Job:
        """Stop a job until it is resumed."""
        return self._order(name, (VALIDATING, QUEUED, RUNNING), PAUSED, "The job was paused")

    def resume(self, name: str) -> Job:
        """Put a paused job back into the queue; it begins again."""
        status = QUEUED if self.find(name).validated else VALIDATING
        return self._order(name, (PAUSED,), status, "The job was resumed")

    def _order(
        self, name: str, origin: Collection[str], status: str, message: str, **changes: Any
    ) -> Job:
        job = self.find(name)
        moved = self.move(name, origin, status=status, estimated_finish=None, **changes)
        if moved is None:
            raise ProtocolError(
                400,
                f"The job {name} is {job.status}; this needs one that is {' or '.join(origin)}.",
                code="invalid_job_status",
            )
        self.tell(name, message)
        return moved


class Worker(threading.Thread):
    """Does the `work` on every job of one status, one after the other; it must change that."""

    def __init__(self, jobs: Jobs, status: str, work: Callable[[Job], None]) -> None:
        super().__init__(name=status, daemon=True)
        self._jobs, self._status, self._work = jobs, status, work

    def run(self) -> None:
        """Work until the jobs are closed."""
        while job := self._jobs.wait_for(self._status):
            try:
                self._work(job)
            except Exception as problem:  # whatever it is, the next job is done
                self._jobs.fail(job.id, self._status, error_of(problem))
