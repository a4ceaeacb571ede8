"""Long work made visible: live on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from harness.text import line

INTERVAL_S = 5.0


class Update(Protocol):
    """Tells how far a piece of work is: `done` of `total` units, and a few words."""

    def __call__(self, done: int, total: int, detail: str = "") -> None: ...  # noqa: D102


def say(sentence: str) -> None:
    """Write a sentence to standard error, in the middle of whatever goes on."""
    stream = sys.__stderr__ or sys.stderr
    stream.write(f"[harness] {line(sentence)}\n")
    stream.flush()


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
        TextColumn("{task.fields[rate]}", markup=False),
        TimeElapsedColumn(),
        Left(),
        TextColumn("{task.fields[detail]}", markup=False),
    )
    started = time.monotonic()
    with Progress(*columns, console=Console(file=stream), transient=True) as bar:
        shown = bar.add_task(line(title), total=None, detail="", rate="")

        def update(done: int, total: int, detail: str = "") -> None:
            rate, _ = _pace(done, total, time.monotonic() - started)
            bar.update(shown, completed=done, total=total, detail=line(detail), rate=rate)

        yield update


@contextmanager
def _lines(title: str, stream: TextIO) -> Iterator[Update]:
    write = _line_writer(title, stream)
    started = time.monotonic()
    state = (0, 0, "")
    over = threading.Event()

    def update(done: int, total: int, detail: str = "") -> None:
        nonlocal state
        state = (done, total, detail)

    def tell() -> None:
        # On its own: a service that lets nothing through for a minute is no reason to be silent.
        while not over.wait(INTERVAL_S):
            done, total, detail = state
            seconds = time.monotonic() - started
            rate, left = _pace(done, total, seconds)
            write(f"{done}/{total} {rate} {left} {detail}" if total else f"{seconds:.0f} s so far")

    teller = threading.Thread(target=tell, name="harness-progress", daemon=True)
    teller.start()
    try:
        yield update
    finally:
        over.set()
        teller.join()
    write(f"{state[0]}/{state[1]} {state[2]} in {time.monotonic() - started:.1f} s")


def _pace(done: int, total: int, seconds: float) -> tuple[str, str]:
    """Return how many a second are done, and how long the rest takes at this rate."""
    if not done or seconds <= 0:
        return "", ""
    rate = done / seconds
    return f"{rate:.3g}/s", f"{max(total - done, 0) / rate:.0f} s left"


def _line_writer(title: str, stream: TextIO) -> Callable[[str], None]:
    def write(text: str) -> None:
        stream.write(f"[harness] {line(f'{title}: {text}')}\n")
        stream.flush()

    return write
