"""A damaged SQLite file -> the rows of it that can still be read."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

TABLES = {
    "replies": ("key", "model", "label", "fields", "value", "created"),
    "runs": ("id", "started", "results", "cases", "arms"),
    "run_replies": ("run", "model", "suite", "case_id", "trial", "digest", "reply", "scores"),
    "promotions": ("number", "run", "model", "promoted"),
    "cases": ("digest", "asked"),
    "votes": ("number", "pair", "rater", "left", "right", "vote", "created"),
    "blinding": ("number", "secret"),
    "calibrations": ("key", "value"),
}
"""Table -> its columns, in the order in which they were made."""
LATER_TABLES = {"refusals": ("place", "model", "value")}
"""Those that stores of earlier versions lack until they are opened."""

PIECES = 4096
"""Into how many ranges of rows a damaged table is cut at most, to read around the damage."""

_LEAST_ROW_BYTES = 64
_FILES = ("", "-wal", "-shm")
_Row = tuple[Any, ...]


def set_aside(path: Path) -> Path:
    """Give the database file `path` and what SQLite keeps beside it a new name; return it."""
    now = datetime.now(UTC)
    aside = path.with_name(f"{path.name}.damaged-{now:%Y%m%d-%H%M%S-%f}")
    for end in _FILES:
        part = path.with_name(path.name + end)
        if part.exists():
            part.replace(aside.with_name(aside.name + end))
    return aside


def copy_readable(damaged: Path, into: sqlite3.Connection) -> dict[str, int]:
    """Copy what can be read of the file `damaged` to the empty tables of `into`.

    Returns table -> number of rows. What hangs on a lost run is left out.
    """
    source = sqlite3.connect(damaged, isolation_level=None)
    source.text_factory = bytes  # a damaged text need not be UTF-8
    try:
        for table, columns in {**TABLES, **LATER_TABLES}.items():
            marks = ",".join("?" * len(columns))
            rows = filter(None, map(_decoded, _rows(source, table, columns, damaged)))
            into.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", rows)
    finally:
        source.close()
    for table in ("run_replies", "promotions"):
        into.execute(f"DELETE FROM {table} WHERE run NOT IN (SELECT id FROM runs)")
    counts = {t: into.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in TABLES}
    return {table: int(count) for table, count in counts.items()}


def _decoded(row: _Row) -> _Row | None:
    """Return `row` with texts; None where one of them is none."""
    try:
        return tuple(x.decode() if isinstance(x, bytes) else x for x in row)
    except UnicodeDecodeError:
        return None


def _rows(
    source: sqlite3.Connection, table: str, columns: Sequence[str], file: Path
) -> Iterator[_Row]:
    """Yield the rows of `table` that can be read; some of them more than once."""
    query = f"SELECT {', '.join(columns)} FROM {table}"
    if (yield from _until_damage(source, query, ())) is None:
        return
    if table == "run_replies":  # it has no row numbers
        order = ", ".join(f"{column} DESC" for column in columns[:5])
        yield from _until_damage(source, f"{query} ORDER BY {order}", ())
        return
    last = _last_row(source, table) or file.stat().st_size // _LEAST_ROW_BYTES
    pending = [(1, last)]
    least = max(1, last // PIECES)
    while pending:
        low, high = pending.pop()
        within = f"{query} NOT INDEXED WHERE rowid BETWEEN ? AND ?"
        failed = yield from _until_damage(source, within, (low, high))
        if failed is not None and high - low >= least:
            middle = (low + high) // 2
            pending += [(low, middle), (middle + 1, high)]


def _last_row(source: sqlite3.Connection, table: str) -> int | None:
    try:
        number = source.execute(f"SELECT max(rowid) FROM {table} NOT INDEXED").fetchone()[0]
    except sqlite3.DatabaseError:
        return None
    return number if isinstance(number, int) else None


def _until_damage(
    source: sqlite3.Connection, query: str, values: Sequence[int]
) -> Generator[_Row, None, sqlite3.DatabaseError | None]:
    """Yield rows until one cannot be read; return what SQLite says then, or None."""
    try:
        yield from source.execute(query, values)
    except sqlite3.DatabaseError as problem:
        return problem
    return None
