"""Everything that makes a model: a recipe goes in, a candidate comes out, trained once.

Importing this package loads neither torch nor any other library of the extra `local`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from harness.records import Candidate, EvidenceError, HarnessError
from trainers.artefact import folder_of, load
from trainers.environment import child_environment
from trainers.recipe import Recipe

if TYPE_CHECKING:
    from trainers.hosted_recipe import HostedRecipe

_EXTRA = ("accelerate", "datasets", "filelock", "peft", "torch", "transformers", "trl")


TOO_SLOW = -getattr(signal, "SIGVTALRM", 0) or None
"""The status of a training whose row took more than its time."""


class TrainingError(EvidenceError):
    """A training ended without a candidate: nothing can be said about it."""


@dataclass(frozen=True)
class Event:
    """News of a training.

    `kind` is one of waiting (another process trains the same candidate), loading, data (how many
    rows there are and are `truncated` or `dropped` as too long), step, validation, done, found
    (another process trained it) and failed, with a `message`. `loss` is nats per token, `eta`
    the seconds left. Of a hosted training it is step, message, or a status of the job.
    """

    kind: str
    step: int = 0
    steps: int = 0
    loss: float | None = None
    eta: float | None = None
    rows: int = 0
    truncated: int = 0
    dropped: int = 0
    message: str = ""


Progress = Callable[[Event], None]


def find(recipe: Recipe | HostedRecipe, home: Path) -> Candidate | None:
    """Return the candidate of `recipe` if it was trained before; `home` is `.harness`.

    Raises:
        EvidenceError: it is there, but damaged.

    """
    if not isinstance(recipe, Recipe):
        from trainers import hosted_made

        return hosted_made.find(recipe, home)
    folder = folder_of(recipe, home)
    return load(folder, recipe, cached=True) if folder.exists() else None


def train(
    recipe: Recipe, home: Path, progress: Progress | None = None, keys: Collection[str] = ()
) -> Candidate:
    """Return the candidate of `recipe`, training it in a child process unless it is there.

    Several processes may ask for the same candidate at once: one trains it, the others wait. `keys`
    names environment variables that hold keys of services: the child does not get them.

    Raises:
        HarnessError: the extra `local` is missing.
        TrainingError: the training failed; the sentence quotes the end of its log.
        EvidenceError: the candidate is there, but damaged.

    """
    if found := find(recipe, home):
        return found
    _refuse_missing_extra(recipe)
    log = home / "logs" / f"{recipe.fingerprint}.log"
    last = Event("failed")
    with _child(recipe, home, log, keys) as child:
        for last in _events(child):
            if progress:
                progress(last)
    folder = folder_of(recipe, home)
    if last.kind not in ("done", "found") or not folder.exists():
        raise TrainingError(_failure(recipe, last, child.returncode, log))
    log.unlink(missing_ok=True)
    return load(folder, recipe, cached=last.kind == "found")


def _refuse_missing_extra(recipe: Recipe) -> None:
    needed = (*_EXTRA, "bitsandbytes") if recipe.trainer == "qlora" else _EXTRA
    if missing := [name for name in needed if find_spec(name) is None]:
        raise HarnessError(
            f"training needs the extra: pip install 'pytest-finetune[local]' "
            f"({', '.join(missing)} missing)"
        )


@contextmanager
def _child(
    recipe: Recipe, home: Path, log: Path, keys: Collection[str]
) -> Iterator[subprocess.Popen[str]]:
    """Start the training and make sure that it is over on leaving.

    The child ends itself when its stdin closes, which the system does if this process is killed.
    """
    plan = home / "recipes" / f"{recipe.fingerprint}.json"
    _write(plan, recipe.to_json())
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as errors:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "trainers.local", plan, folder_of(recipe, home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=child_environment(recipe, keys),
            encoding="utf-8",
        )
    try:
        yield child
        child.wait()
    finally:
        child.kill()
        child.communicate()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _events(child: subprocess.Popen[str]) -> Iterator[Event]:
    assert child.stdout is not None
    for line in child.stdout:
        yield Event(**json.loads(line))


def _failure(recipe: Recipe, last: Event, status: int, log: Path) -> str:
    if last.kind == "failed" and last.message:
        return f"training {recipe.name} failed: {last.message}"
    if status == TOO_SLOW:
        return (
            f"training {recipe.name} failed: the chat template or the tokenizer of "
            f"{recipe.base.spec} does not end on a row; correct it, or start from another base"
        )
    lines = log.read_text("utf-8", errors="replace").split("\n")
    quoted = next((line.strip() for line in reversed(lines) if line.strip()), "")
    ending = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    return f"training {recipe.name} {ending}: {quoted or 'it said nothing'}; its log is {log}"
