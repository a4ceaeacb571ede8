"""What a hosted job made: the model's name, its curves and checkpoints, kept in the store."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, astuple
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.models.failures import CallFailed
from harness.records import Candidate, LossPoint
from trainers import TrainingError, protocol
from trainers.artefact import DESCRIPTION, candidate_folder, damaged, lock_of, relative
from trainers.curves import losses_of
from trainers.diagnosis import findings
from trainers.hosted_job import Job
from trainers.hosted_recipe import HostedRecipe
from trainers.ledger import Ledger
from trainers.protocol import Checkpoint
from trainers.service import Service

LARGEST_RESULT = 1 << 26
"""Bytes of a result file that are read."""


def description_of(recipe: HostedRecipe, home: Path, service: Service, job: Job) -> dict[str, Any]:
    """Return what is kept of the model that a job made, asking the service for the rest.

    Raises:
        TrainingError: the recipe wants a checkpoint that there is not.

    """
    checkpoints = protocol.checkpoints(service, job.id)
    model, unnamed = _model(recipe, job, checkpoints)
    losses, note = _losses(recipe, job, service)
    entry = Ledger(home).entry(recipe)
    return {
        "fingerprint": recipe.fingerprint,
        "trainer": recipe.trainer,
        "model": model,
        "job": job.id,
        "endpoint": dict(recipe.endpoint),
        "method": recipe.method,
        "hyperparameters": recipe.hyperparameters,
        "seed": recipe.seed,
        "data": recipe.digests,
        "rows": recipe.rows,
        "general_rows": recipe.general_rows,
        "started": _iso(job.created) if job.created else "",
        "seconds": max(0, int(job.finished - job.created)) if job.created else 0,
        "steps": max([0, *(point.step for point in losses)]),
        "trained_tokens": job.trained_tokens,
        "estimated_tokens": entry.tokens if entry else 0,
        "losses": [astuple(point) for point in losses],
        "note": "; ".join(filter(None, (note, unnamed))),
        "checkpoints": [asdict(checkpoint) for checkpoint in checkpoints],
    }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _model(recipe: HostedRecipe, job: Job, checkpoints: Sequence[Checkpoint]) -> tuple[str, str]:
    """Return the model that a job made, and a note on it."""
    if recipe.checkpoint is not None:
        return _model_at(recipe, job, checkpoints), ""
    if job.fine_tuned_model:
        return job.fine_tuned_model, ""
    if checkpoints:
        last = checkpoints[-1]
        return last.model, f"the service names no model; the checkpoint of step {last.step} is used"
    raise TrainingError(
        f"training {recipe.name}: the job {job.id} is {job.status}, but the service names no "
        "model that it made; look there, and name it: "
        f'[tool.harness.candidates.{recipe.name}] with model = "openai:NAME"'
    )


def _model_at(recipe: HostedRecipe, job: Job, checkpoints: Sequence[Checkpoint]) -> str:
    for checkpoint in checkpoints:
        if checkpoint.step == recipe.checkpoint:
            return checkpoint.model
    known = ", ".join(str(checkpoint.step) for checkpoint in checkpoints) or "none"
    raise TrainingError(
        f"training {recipe.name}: the job {job.id} has no checkpoint of step {recipe.checkpoint}; "
        f"there: {known}; name one of them with checkpoint ="
    )


def _losses(recipe: HostedRecipe, job: Job, service: Service) -> tuple[tuple[LossPoint, ...], str]:
    """Return the curves of a job, and why there are none: a model that was paid for stays."""
    note = "the service gave no result file"
    for file in job.result_files:
        try:
            content = protocol.content(service, file, LARGEST_RESULT)
            return losses_of(content, _epochs(recipe, job)), ""
        except (CallFailed, ValueError) as problem:
            note = f"the result file cannot be read: {service.shown(problem)}"
    return (), note


def _epochs(recipe: HostedRecipe, job: Job) -> float | None:
    """Return the epochs that were trained: what was asked for, or what the service chose."""
    chosen = (recipe.epochs, job.settings.get("n_epochs"))
    return next((float(e) for e in chosen if isinstance(e, int | float) and 0 < e < 1e6), None)


def publish(recipe: HostedRecipe, home: Path, description: dict[str, Any]) -> None:
    """Put the candidate into the store, whole; another process may have been faster."""
    from filelock import FileLock

    folder = candidate_folder(recipe.fingerprint, home)
    lock_of(folder).parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock_of(folder)):
        if folder.exists():
            return
        partial = folder.parent / f".tmp-{folder.name}-{os.getpid()}"
        partial.mkdir(parents=True, exist_ok=True)
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
                *findings(losses, {"learning_rate_multiplier": None, **recipe.hyperparameters}),
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
