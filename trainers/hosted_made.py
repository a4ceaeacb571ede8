"""What a hosted job made: the model's name, its curves and checkpoints, kept in the store."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.models.failures import CallFailed
from harness.records import Candidate, LossPoint
from trainers import TrainingError
from trainers.artefact import DESCRIPTION, candidate_folder, damaged, lock_of, relative
from trainers.curves import losses_of
from trainers.diagnosis import findings
from trainers.hosted_recipe import HostedRecipe
from trainers.ledger import Ledger
from trainers.service import Service

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.fine_tuning import FineTuningJob

LARGEST_RESULT = 1 << 26
"""Bytes of a result file that are read."""


@dataclass(frozen=True)
class Checkpoint:
    """A model that a job made on its way: its name, the step, the losses there."""

    step: int
    model: str
    train: float | None = None
    validation: float | None = None


def description_of(
    recipe: HostedRecipe, home: Path, service: Service, job: FineTuningJob
) -> dict[str, Any]:
    """Return what is kept of the model that a job made, asking the service for the rest.

    Raises:
        TrainingError: the recipe wants a checkpoint that there is not.

    """
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
        "seconds": max(0, whole(job.finished_at) - whole(job.created_at)),
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
                loss(one.metrics.train_loss),
                loss(_either(one.metrics.full_valid_loss, one.metrics.valid_loss)),
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
    return datetime.fromtimestamp(whole(seconds), UTC).isoformat(timespec="seconds")


def publish(recipe: HostedRecipe, home: Path, description: dict[str, Any]) -> None:
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


def whole(value: object) -> int:
    """Return a count that a service gives; 0 where it gives none."""
    return int(value) if isinstance(value, int | float) and 0 <= value < 1e12 else 0


def loss(value: object) -> float | None:
    """Return a loss that a service gives; None where it gives none."""
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e12 else None
