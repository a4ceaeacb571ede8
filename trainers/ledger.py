"""What this project knows of its hosted jobs and uploads: small files under `.harness/jobs`."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from harness.records import EvidenceError, digest_of
from trainers.hosted_recipe import HostedRecipe


@dataclass(frozen=True)
class Entry:
    """The job of a recipe; without `job` one was asked for at `since` and nobody knows its id.

    `since` is in seconds since 1970, `tokens` what was estimated, `training_file` what it trains
    on, `suffix` what it was told to call the model, `reason` why its id is not known.
    """

    since: float
    job: str = ""
    training_file: str = ""
    tokens: int = 0
    suffix: str = ""
    reason: str = ""

    @property
    def age_s(self) -> float:
        """How long ago the job was asked for."""
        return max(0.0, time.time() - self.since)


class Ledger:
    """The entries of the project whose store is `home`."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def entry(self, recipe: HostedRecipe) -> Entry | None:
        """Return what is known of the job of `recipe`; None if none was asked for.

        An entry that cannot be read stands for a job whose id is not known.
        """
        return _entry(self._job_file(recipe))

    def remember(self, recipe: HostedRecipe, entry: Entry) -> None:
        """Keep `entry`; on return it outlives this process.

        Raises:
            EvidenceError: it cannot be written.

        """
        path = self._job_file(recipe)
        try:
            _write(path, asdict(entry))
        except OSError as problem:
            raise EvidenceError(
                f"{path} cannot be written ({problem.strerror}), and without it a second job might "
                "be paid for; make room or correct its permissions"
            ) from None

    def others(self, recipe: HostedRecipe) -> set[str]:
        """Return the ids of the jobs of all other recipes."""
        mine = self._job_file(recipe)
        entries = (_entry(path) for path in mine.parent.glob("*.json") if path != mine)
        return {entry.job for entry in entries if entry and entry.job}

    def forget(self, recipe: HostedRecipe) -> None:
        """Drop what is known of the job: the next run asks for another."""
        self._job_file(recipe).unlink(missing_ok=True)

    def failure(self, recipe: HostedRecipe, run: str) -> str:
        """Return why the training of `recipe` failed in another process of `run`; else ""."""
        values = _read(self._failure_file(recipe)) or {}
        return str(values.get("reason", "")) if run and values.get("run") == run else ""

    def remember_failure(self, recipe: HostedRecipe, run: str, reason: str) -> None:
        """Tell the other processes of `run` that the training of `recipe` failed."""
        if run:
            _write(self._failure_file(recipe), {"run": run, "reason": reason})

    def upload(self, url: str, sha256: str) -> str:
        """Return the id of the file with this content at `url`; "" if it was never uploaded."""
        return str((_read(self._upload_file(url, sha256)) or {}).get("file", ""))

    def remember_upload(self, url: str, sha256: str, file: str) -> None:
        """Keep the id of an uploaded file."""
        _write(self._upload_file(url, sha256), {"file": file})

    def lock(self, recipe: HostedRecipe) -> Path:
        """The file whose lock is held by whoever asks for the job of `recipe`."""
        folder = self._home / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{recipe.job_fingerprint}.job.lock"

    def _job_file(self, recipe: HostedRecipe) -> Path:
        return self._home / "jobs" / f"{recipe.job_fingerprint}.json"

    def _failure_file(self, recipe: HostedRecipe) -> Path:
        return self._home / "jobs" / "failed" / f"{recipe.fingerprint}.json"

    def _upload_file(self, url: str, sha256: str) -> Path:
        return self._home / "jobs" / "uploads" / f"{digest_of([url, sha256])[:32]}.json"


def _entry(path: Path) -> Entry | None:
    try:
        written = path.stat().st_mtime
    except FileNotFoundError:
        return None
    values = _read(path) or {}
    kinds = {"since": int | float, "tokens": int}
    known = [
        f.name for f in fields(Entry) if isinstance(values.get(f.name), kinds.get(f.name, str))
    ]
    return Entry(**{"since": written, **{name: values[name] for name in known}})


def _read(path: Path) -> dict[str, Any] | None:
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def _write(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(values, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
