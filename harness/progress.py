"""Long work made visible: live on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

INTERVAL_S = 10.0


class Update(Protocol):
    """Tells how far a piece of work is: `done` of `total` units, and a few words."""

    def __call__(self, done: int, total: int, detail: str = "") -> None: ...  # noqa: D102


@contextmanager
def task(title: str, stream: TextIO | None = None) -> Iterator[Update]:
    """Show the work named `title` on `stream` (standard error by default) while it runs."""
    stream = stream or sys.__stderr__ or sys.stderr
    show = _live if stream.isatty() else _lines
    with show(title, stream) as update:
        yield update


@contextmanager
def _live(title: str, stream: TextIO) -> Iterator[Update]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as Left

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        Left(),
        TextColumn("{task.fields[detail]}", markup=False),
    )
    with Progress(*columns, console=Console(file=stream), transient=True) as bar:
        shown = bar.add_task(title, total=None, detail="")

        def update(done: int, total: int, detail: str = "") -> None:
            bar.update(shown, completed=done, total=total, detail=detail)

        yield update


@contextmanager
def _lines(title: str, stream: TextIO) -> Iterator[Update]:
    line = _line_writer(title, stream)
    started = last = time.monotonic()
    state = (0, 0, "")

    def update(done: int, total: int, detail: str = "") -> None:
        nonlocal last, state
        state = (done, total, detail)
        if time.monotonic() - last >= INTERVAL_S:
            last = time.monotonic()
            line(f"{done}/{total} {detail}")

    yield update
    line(f"{state[0]}/{state[1]} {state[2]} in {time.monotonic() - started:.1f} s")


def _line_writer(title: str, stream: TextIO) -> Callable[[str], None]:
    def line(text: str) -> None:
        stream.write(f"[harness] {title}: {' '.join(text.split())}\n")
        stream.flush()

    return line
