"""A trained candidate on disk: a folder that is whole or refused."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from harness.records import Candidate, EvidenceError, LossPoint
from trainers.base import file_digest
from trainers.diagnosis import findings
from trainers.recipe import Recipe

DESCRIPTION = "candidate.json"


@dataclass(frozen=True)
class Training:
    """What a training was like; `truncated` and `dropped` count rows too long for the recipe.

    `started` is when it began (ISO 8601), `unlearnt` says what of the rows was left out.
    """

    started: str
    seconds: float
    truncated: int
    dropped: int
    losses: Sequence[LossPoint]
    unlearnt: tuple[str, ...] = ()


def left_out(answers: int, rows: int) -> tuple[str, ...]:
    """Return what to say of earlier `answers` and weightless `rows` that are not learnt."""
    counted = {"answers before the last of a row": answers, "rows with weight 0 at the end": rows}
    return tuple(f"not learnt: {count} {what}" for what, count in counted.items() if count)


def folder_of(recipe: Recipe, home: Path) -> Path:
    """Where the candidate of `recipe` is kept."""
    return candidate_folder(recipe.fingerprint, home)


def candidate_folder(fingerprint: str, home: Path) -> Path:
    """Where the candidate of this fingerprint is kept."""
    return home / "candidates" / fingerprint


def lock_of(folder: Path) -> Path:
    """The file whose lock is held by whoever trains the candidate in `folder`."""
    return folder.parent.parent / "locks" / f"{folder.name}.lock"


def describe(folder: Path, recipe: Recipe, training: Training) -> None:
    """Write the description into `folder`, with the sizes and digests of the files there."""
    description = {
        "fingerprint": recipe.fingerprint,
        "base": public_name(recipe),
        "hyperparameters": recipe.hyperparameters,
        "data": recipe.digests,
        "rows": recipe.rows,
        "general_rows": recipe.general_rows,
        "steps": recipe.steps,
        "started": training.started,
        "seconds": round(training.seconds, 3),
        "truncated": training.truncated,
        "dropped": training.dropped,
        "findings": list(training.unlearnt),
        "losses": [astuple(point) for point in training.losses],
        "files": {path.name: _seal(path) for path in sorted(folder.iterdir())},
    }
    partial = folder / f"{DESCRIPTION}.partial"
    partial.write_text(json.dumps(description, indent=1), encoding="utf-8")
    os.replace(partial, folder / DESCRIPTION)


def public_name(recipe: Recipe) -> str:
    """Name the base without this machine's paths: a bundled or hub name, or the folder's own."""
    provider, _, target = recipe.base.spec.partition(":")
    if provider == "bundled" or recipe.base.on_hub:
        return recipe.base.spec
    return f"{provider}:{Path(target).name}"


def load(folder: Path, recipe: Recipe, *, cached: bool) -> Candidate:
    """Return the candidate in `folder`.

    Raises:
        EvidenceError: the folder is damaged.

    """
    try:
        description = json.loads((folder / DESCRIPTION).read_text("utf-8"))
        _refuse_damage(folder, description["files"])
        losses = tuple(LossPoint(*point) for point in description["losses"])
        return Candidate(
            name=recipe.name,
            fingerprint=recipe.fingerprint,
            path=folder,
            base=recipe.base.spec,
            full=recipe.trainer == "full",
            quantized=recipe.trainer == "qlora",
            cached=cached,
            started=description.get("started", ""),
            seconds=description["seconds"],
            steps=description["steps"],
            rows=description["rows"],
            truncated=description["truncated"],
            dropped=description["dropped"],
            losses=losses,
            recipe=_shown(recipe),
            findings=(
                *map(str, description.get("findings", ())),
                *findings(losses, recipe.hyperparameters),
            ),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise damaged(recipe.name, folder, problem) from None


def damaged(name: str, folder: Path, problem: Exception) -> EvidenceError:
    """Return what to say of a candidate that cannot be read."""
    return EvidenceError(
        f"the candidate {name} is damaged ({problem}); delete {folder} to train it again"
    )


def _shown(recipe: Recipe) -> dict[str, object]:
    return {
        "base": recipe.base.spec,
        "train": relative(recipe.train, recipe.root),
        "validation": relative(recipe.validation, recipe.root),
        "mix": relative(recipe.mix.path if recipe.mix else None, recipe.root),
        "behaviour": recipe.behaviour,
        "rows": recipe.rows,
        "general_rows": recipe.general_rows,
        **recipe.hyperparameters,
    }


def relative(path: Path | None, root: Path) -> str | None:
    """Return `path` relative to `root`, for people."""
    return os.path.relpath(path, root) if path else None


def _seal(path: Path) -> dict[str, object]:
    return {"size": path.stat().st_size, "sha256": file_digest(path)}


def _refuse_damage(folder: Path, files: dict[str, dict[str, object]]) -> None:
    for name, seal in files.items():
        if _seal(folder / name) != seal:
            raise ValueError(f"{name} is not what was trained")
