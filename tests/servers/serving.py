"""`harness serve` in a process of its own, as a user starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def serving(root: Path, *aliases: str) -> Iterator[str]:
    """Serve the project in `root` until the end; yields the base URL."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "pyproject.toml").touch()
    code = "from harness.cli import main; main()"
    options = [word for alias in aliases for word in ("--alias", alias)]
    process = subprocess.Popen(
        [sys.executable, "-c", code, "serve", "--port", "0", *options],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    try:
        lines = [process.stdout.readline(), process.stdout.readline()]
        yield lines[1].strip().partition("=")[2]
    finally:
        process.terminate()
        process.wait(timeout=30)
        process.stdout.close()
