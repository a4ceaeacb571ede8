"""A run -> files for people and machines: HTML, JSON, Markdown, and lines for the terminal."""

from __future__ import annotations

import os
import platform
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path

from harness.records import Run

_FILES = ("results.json", "summary.md", "index.html")
_COPY = ".copy"
"""A file in a copy of a report that stands where a link would: it may be replaced."""

_ABANDONED_S = 24 * 3600


def write(run: Run, directory: Path) -> Path:
    """Write the report of `run` and return its folder, `directory`/<run id>.

    It holds `index.html`, `results.json` and `summary.md`; `directory`/latest points to it, unless
    somebody has a file or folder of this name there. Nothing is written unless all three can be
    made, and the folder appears whole. What killed runs left behind is removed.

    Raises:
        OSError: it cannot be written.

    """
    from harness.report import html, markdown, results

    texts = (results.text(run), markdown.page(run), html.page(run))
    folder = directory / run.run_id
    temporary = _beside(folder)
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        for name, text in zip(_FILES, texts, strict=True):
            (temporary / name).write_bytes(text.encode("utf-8"))
        _remove(folder)
        os.replace(temporary, folder)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sweep(directory)
    _point(directory / "latest", folder)
    return folder


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}-{_machine()}-{os.getpid()}")


def _machine() -> str:
    return re.sub(r"\W", "", platform.node(), flags=re.ASCII)[:40] or "here"


def _point(latest: Path, folder: Path) -> None:
    if latest.exists() and not latest.is_symlink() and not (latest / _COPY).is_file():
        return
    temporary = _beside(latest)
    _remove(temporary)
    try:
        temporary.symlink_to(folder.name, target_is_directory=True)
    except OSError:
        # Windows without the privilege, and some shared file systems, have no symlinks.
        shutil.copytree(folder, temporary)
        (temporary / _COPY).touch()
    if not (latest.is_symlink() and temporary.is_symlink()):
        _remove(latest)
    os.replace(temporary, latest)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sweep(directory: Path) -> None:
    """Remove the unfinished reports of runs that were killed."""
    for path in directory.glob(".*-*"):
        with suppress(OSError):  # another run may sweep too
            if _is_unfinished(path) and _is_abandoned(path):
                _remove(path)


def _is_unfinished(path: Path) -> bool:
    if not re.search(r"-\d+$", path.name):
        return False
    return path.is_symlink() or (
        path.is_dir() and {file.name for file in path.iterdir()} <= {*_FILES, _COPY}
    )


def _is_abandoned(path: Path) -> bool:
    """Whether the process that made `path` is gone; where nobody can know that, after a day."""
    name, _, process = path.name.rpartition("-")
    if name.endswith(f"-{_machine()}") and os.name == "posix" and not _lives(int(process)):
        return True
    return time.time() - path.lstat().st_mtime > _ABANDONED_S


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
