"""From an uploaded file to a model that answers: validation, and the training itself."""

from __future__ import annotations

import csv
import io
import math
import shutil
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.records import Candidate, LossPoint, ModelSpec
from harness.serve import examples
from harness.serve.files import Files
from harness.serve.jobs import (
    QUEUED,
    RUNNING,
    SUCCEEDED,
    VALIDATING,
    Job,
    JobError,
    Jobs,
    error_of,
)
from harness.serve.state import write_whole
from harness.serve.wire import ProtocolError, now

if TYPE_CHECKING:
    from trainers import Event
    from trainers.recipe import Recipe

RESULT_COLUMNS = (
    "step",
    "train_loss",
    "train_accuracy",
    "valid_loss",
    "valid_mean_token_accuracy",
)
STEPS_PER_EPOCH = 8
"""What an automatic batch size leaves at least of an epoch: few rows want small batches."""


class _Stopped(Exception):
    """The job was cancelled or paused, or the server ends."""


def base_of(spec: ModelSpec) -> dict[str, Any]:
    """Return what a job keeps of its base."""
    return {
        "provider": spec.provider,
        "target": spec.target,
        "revision": spec.revision,
        "options": dict(spec.options),
        "thinking": spec.thinking,
    }


def model_of(job: Job, name: str, home: Path) -> ModelSpec:
    """Return the model that came of a job; `home` is `.harness`."""
    return ModelSpec(name=name, adapter=home / "candidates" / job.fingerprint, **job.base)


@dataclass(frozen=True)
class Training:
    """Carries jobs out; `root` is the project, `home` its `.harness`.

    `keys` names the environment variables with keys of services, which no training gets.
    """

    jobs: Jobs
    files: Files
    root: Path
    home: Path
    keys: Collection[str] = ()

    # ------------------------------------------------------------------ validation

    def validate(self, job: Job) -> None:
        """Check the files of a job and put it into the queue."""
        with _Ending(self.jobs, job, VALIDATING):
            self.jobs.tell(job.id, f"Validating training file: {job.training_file}")
            self._convert(job, "training_file", examples.FEWEST)
            if job.validation_file:
                self.jobs.tell(job.id, f"Validating validation file: {job.validation_file}")
                self._convert(job, "validation_file", 1)
            numbers = _numbers(self._recipe(job), job)
            self.jobs.tell(job.id, "Files validated, moving job to queued state")
            self.jobs.move(
                job.id, [VALIDATING], status=QUEUED, validated=True, hyperparameters=numbers
            )

    def _convert(self, job: Job, which: str, fewest: int) -> None:
        found = self._examples(job, which, fewest)
        if found.ignored:
            self._tell_ignored(job, which, found.ignored)
        rows = examples.jsonl(examples.rows(found.conversations))
        write_whole(self._rows(job, which), io.BytesIO(rows))

    def _tell_ignored(self, job: Job, which: str, ignored: Counter[str]) -> None:
        keys = ", ".join(f"{key!r} ({lines} line(s))" for key, lines in sorted(ignored.items()))
        self.jobs.tell(
            job.id,
            f"The {which.replace('_', ' ')} has keys that are not trained on and are ignored: "
            f"{keys}",
            level="warn",
        )

    def _examples(self, job: Job, which: str, fewest: int) -> examples.Examples:
        kind = which.replace("_", " ")
        try:
            return examples.read(self.files.content(getattr(job, which)), fewest)
        except (examples.BadFile, ProtocolError) as problem:
            code = problem.code if isinstance(problem, examples.BadFile) else f"invalid_{which}"
            raise JobError(
                f"The job failed due to an invalid {kind}. {problem}", code, which
            ) from None

    def _rows(self, job: Job, which: str) -> Path:
        return self.files.state.folder / "jobs" / job.id / f"{which}.jsonl"

    # ------------------------------------------------------------------ training

    def train(self, job: Job) -> None:
        """Train what a job asks for, unless it was trained before."""
        import trainers

        if not self.jobs.move(job.id, [QUEUED], status=RUNNING):
            return
        with _Ending(self.jobs, job, RUNNING):
            self.jobs.tell(job.id, "Fine-tuning job started")
            recipe = self._recipe(job)
            made = trainers.train(recipe, self.home, self._progress(job), self.keys)
            if made.cached:
                self._tell_again(job, made)
            self._succeed(job, recipe, made)

    def _recipe(self, job: Job) -> Recipe:
        from harness.config import CandidateSettings
        from trainers.recipe import resolve

        wanted, base = job.hyperparameters, job.base
        in_four_bits = base["options"].get("quantization") == "nf4"
        settings = CandidateSettings(
            # As the base is asked: then base and models are loaded once, together.
            trainer="qlora" if in_four_bits else "lora",
            train=str(self._rows(job, "training_file")),
            validation=str(self._rows(job, "validation_file")) if job.validation_file else None,
            epochs=self._epochs(job),
            seed=job.seed,
        )
        reference = f"{base['provider']}:{base['target']}"
        options = {**base["options"], "thinking": base.get("thinking", "strip")}
        recipe = resolve(job.id, settings, reference, self.root, base["revision"], options)
        return _adjusted(recipe, wanted["batch_size"], wanted["learning_rate_multiplier"])

    def _epochs(self, job: Job) -> int:
        """Return the epochs that a job asks for; those that hosted services choose for "auto"."""
        from harness.data.jsonl import read_rows
        from trainers.hosted_cost import automatic_epochs

        if isinstance(wanted := job.hyperparameters["n_epochs"], int):
            return wanted
        rows = read_rows(self._rows(job, "training_file"), self.root)
        return automatic_epochs(len({row.cluster for row in rows}))

    def _progress(self, job: Job) -> Callable[[Event], None]:
        def hear(event: Event) -> None:
            if self.jobs.closing or self.jobs.find(job.id).status != RUNNING:
                raise _Stopped
            if event.kind == "data" and event.dropped + event.truncated:
                self._tell_lengths(job, event)
            elif event.kind == "step":
                left = now() + math.ceil(event.eta or 0)
                self.jobs.move(job.id, [RUNNING], estimated_finish=left)
                self._tell_loss(job, event.step, event.steps, train=event.loss)
            elif event.kind == "validation":
                self._tell_loss(job, event.step, event.steps, validation=event.loss)

        return hear

    def _tell_lengths(self, job: Job, event: Event) -> None:
        self.jobs.tell(
            job.id,
            f"{event.truncated} example(s) are too long and lose the beginning of their prompt, "
            f"{event.dropped} are left out",
            level="warn",
        )

    def _tell_loss(
        self,
        job: Job,
        step: int,
        steps: int,
        train: float | None = None,
        validation: float | None = None,
    ) -> None:
        kind, key, loss = (
            ("training", "train_loss", train)
            if train is not None
            else ("validation", "valid_loss", validation)
        )
        self.jobs.tell(
            job.id,
            f"Step {step}/{steps}: {kind} loss={loss:.2f}",
            metrics={"step": step, "total_steps": steps, key: loss},
        )

    def _tell_again(self, job: Job, made: Candidate) -> None:
        self.jobs.tell(job.id, "The same job was trained before: its model is used again")
        for point in made.losses:
            self._tell_loss(job, point.step, made.steps, point.train, point.validation)

    def _succeed(self, job: Job, recipe: Recipe, made: Candidate) -> None:
        tokens = self._tokens(job, recipe)
        result = self.files.add(
            io.BytesIO(results(made.losses)), "step_metrics.csv", "fine-tune-results"
        )
        point = _kept(made)
        done = self.jobs.move(
            job.id,
            [RUNNING],
            status=SUCCEEDED,
            finished_at=now(),
            estimated_finish=None,
            fine_tuned_model=job.model_name,
            fingerprint=made.fingerprint,
            trained_tokens=tokens,
            result_files=[result["id"]],
            step=point["step"],
            losses={name: loss for name, loss in point.items() if name != "step"},
        )
        if done is None:
            self.files.delete(result["id"])
            return
        self.jobs.tell(job.id, f"Checkpoint created at step {done.step}")
        self.jobs.tell(job.id, f"New fine-tuned model created: {done.model_name}")
        self.jobs.tell(job.id, "The job has successfully completed")
        shutil.rmtree(self._rows(job, "training_file").parent, ignore_errors=True)

    def _tokens(self, job: Job, recipe: Recipe) -> int:
        """Count what is billed: the tokens of the examples, once an epoch."""
        from harness.data.jsonl import read_rows
        from trainers.local import encode, tokenizer_of

        rows = read_rows(self._rows(job, "training_file"), self.root)
        whole = {row.cluster: row for row in rows}
        encoded = encode(list(whole.values()), tokenizer_of(recipe), recipe.length)
        return round(recipe.epochs * sum(len(example.input_ids) for example in encoded))


class _Ending:
    """Makes of whatever ends the work on a job what the protocol calls it."""

    def __init__(self, jobs: Jobs, job: Job, status: str) -> None:
        self._jobs, self._job, self._status = jobs, job, status

    def __enter__(self) -> None:
        """Nothing yet."""

    def __exit__(self, kind: object, problem: BaseException | None, trace: object) -> bool:
        """Fail the job, unless it was stopped."""
        if problem is None or isinstance(problem, _Stopped) or self._jobs.closing:
            return True
        self._jobs.fail(self._job.id, self._status, error_of(problem))
        return True


def _adjusted(recipe: Recipe, batch: int | str, multiplier: float | str) -> Recipe:
    """Return `recipe` with the batch and the rate that the protocol's numbers mean."""
    from trainers.recipe import EFFECTIVE_BATCH

    if not isinstance(batch, int):
        batch = max(1, min(EFFECTIVE_BATCH, recipe.rows // STEPS_PER_EPOCH))
    held = max(part for part in range(1, recipe.batch_size + 1) if batch % part == 0)
    rate = recipe.learning_rate * (1.0 if isinstance(multiplier, str) else multiplier)
    changed = replace(
        recipe, batch_size=held, accumulation=batch // held, learning_rate=min(rate, 1.0)
    )
    # The first step of a warm-up changes nothing: a handful of steps has none to spare.
    return changed if changed.steps >= 1 / changed.warmup else replace(changed, warmup=0.0)


def _numbers(recipe: Recipe, job: Job) -> dict[str, Any]:
    """Return the hyperparameters with what was left to us."""
    multiplier = job.hyperparameters["learning_rate_multiplier"]
    return {
        "n_epochs": round(recipe.epochs),
        "batch_size": recipe.batch_size * recipe.accumulation,
        "learning_rate_multiplier": 1.0 if multiplier == "auto" else multiplier,
    }


def _kept(made: Candidate) -> dict[str, Any]:
    """Return the step whose state became the model, with its losses by the protocol's names."""
    validated = [point for point in made.losses if point.validation is not None]
    best = min(validated, key=lambda point: point.validation or 0.0, default=None)
    step = best.step if best else made.steps
    return {"step": step, **_merged(made.losses).get(step, {})}


def _merged(losses: tuple[LossPoint, ...]) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for point in losses:
        for name, loss in (("train_loss", point.train), ("valid_loss", point.validation)):
            if loss is not None:
                found.setdefault(point.step, {})[name] = loss
    return found


def results(losses: tuple[LossPoint, ...]) -> bytes:
    """Return the result file of a job: losses by step, in nats per token."""
    text = io.StringIO()
    writer = csv.DictWriter(text, RESULT_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for step, values in sorted(_merged(losses).items()):
        writer.writerow({"step": step, **values})
    return text.getvalue().encode()
