"""A run -> files for people and machines: HTML, JSON, Markdown, and lines for the terminal."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from harness.records import Run


def write(run: Run, directory: Path) -> Path:
    """Write the report of `run` and return its folder, `directory`/<run id>.

    It holds `index.html`, `results.json` and `summary.md`; `directory`/latest points to it.
    Nothing is written unless all three can be made, and the folder appears whole.
    """
    from harness.report import html, markdown, results

    files = {
        "results.json": results.text(run),
        "summary.md": markdown.page(run),
        "index.html": html.page(run),
    }
    folder = directory / run.run_id
    temporary = _beside(folder)
    temporary.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (temporary / name).write_bytes(text.encode("utf-8"))
    _remove(folder)
    os.replace(temporary, folder)
    _point(directory / "latest", folder)
    return folder


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}-{os.getpid()}")


def _point(latest: Path, folder: Path) -> None:
    temporary = _beside(latest)
    _remove(temporary)
    try:
        temporary.symlink_to(folder.name, target_is_directory=True)
    except OSError:
        # Windows without the privilege, and some shared file systems, have no symlinks.
        shutil.copytree(folder, temporary)
    if not (latest.is_symlink() and temporary.is_symlink()):
        _remove(latest)
    os.replace(temporary, latest)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
