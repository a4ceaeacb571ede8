"""A damaged store -> the rows of it that are whole, wherever they lie.

The file and its log are read as bytes and never written: what SQLite refuses to open (a wrong
header, no first page, a page too few) still holds its rows.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from harness import schema, sqlite_file
from harness.schema import TABLES
from harness.sqlite_file import Cell, Pages, Value

FILES = ("", "-wal", "-shm")
"""What SQLite keeps beside a database: the endings of the files' names."""

_SCHEMA_ROWS = ("table", "index")
_PAGE_SIZE = 4096
_SEAL = bytes((0x81, 0x0D))
"""The type of a column with a text of 64 characters, as SQLite writes it down."""
_SETTLING_S = 0.05
_Row = tuple[Value, ...]
_Put = Callable[[str, _Row], None]


@dataclass
class Found:
    """What a rescue brought back: `counts` of the new store by table; `lost`: it was not all."""

    counts: dict[str, int]
    lost: bool


def rescue(file: bytes, log: bytes, into: sqlite3.Connection) -> Found:
    """Copy the whole rows of a damaged store to the empty tables of `into`.

    `file` is its content and `log` that of the log beside it. `lost` is only false where every page
    is accounted for.
    """

    def put(table: str, row: _Row) -> None:
        whole = schema.sealed(table, row)
        into.execute(f"INSERT OR IGNORE INTO {table} VALUES ({', '.join('?' * len(whole))})", whole)

    lost = [_Search(pages, put).run() for pages in _ways_to_read(file, log)]
    return Found({name: _count(into, name) for name in TABLES}, all(lost))


def log_of(path: Path) -> bytes:
    """Return the log beside the database file `path`; empty if there is none."""
    try:
        return path.with_name(f"{path.name}-wal").read_bytes()
    except FileNotFoundError:
        return b""


def aside(path: Path) -> Path:
    """Return the name under which the damaged database file `path` is to be kept."""
    return path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}")


def move(path: Path, to: Path) -> None:
    """Give the database file `path` and what SQLite keeps beside it another name.

    The file itself goes first: where it is gone, a rescue was complete.
    """
    for end in FILES:
        part = path.with_name(path.name + end)
        if part.exists():
            part.replace(to.with_name(to.name + end))


def remove(path: Path) -> None:
    """Remove the database file `path` and what SQLite keeps beside it."""
    for end in (*FILES, "-journal"):
        path.with_name(path.name + end).unlink(missing_ok=True)


@contextmanager
def new_file(path: Path) -> Iterator[sqlite3.Connection]:
    """Open an empty database that is to take the place of `path`, in one transaction.

    `finish` puts it there. What a killed process left of one is written over.
    """
    half = path.with_name(f"{path.name}.rescuing")
    remove(half)
    connection = sqlite3.connect(half, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        remove(half)
        raise
    connection.close()
    half.replace(_ready(path))


def finish(path: Path) -> None:
    """Put a new database in the place of `path`, if one is ready and the damaged one is moved.

    A process that is killed in between leaves that to the next. The caller is alone.
    """
    ready = _ready(path)
    if not ready.exists():
        return
    if path.exists():  # it is still to be moved, and may hold more by now
        ready.unlink()
        return
    moved = max(path.parent.glob(f"{path.name}.damaged-*[0-9]"), default=aside(path))
    move(path, moved)
    ready.replace(path)


def _ready(path: Path) -> Path:
    return path.with_name(f"{path.name}.rescued")


def _count(connection: sqlite3.Connection, table: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def _ways_to_read(file: bytes, log: bytes) -> Iterator[Pages]:
    """Yield the pages as the headers describe them, and as they are in every store of ours."""
    frames = sqlite_file.frames(log)
    said = int.from_bytes(file[16:18], "big") if file.startswith(sqlite_file.MAGIC) else 0
    reserved = file[20] if said else 0
    in_log = sqlite_file.page_size_of_log(log) if frames else 0
    sizes = [size for size in (said, in_log or 0) if size in sqlite_file.PAGE_SIZES]
    for size in dict.fromkeys([*sizes, _PAGE_SIZE]):
        fitting = frames if size == in_log else []
        expected = int.from_bytes(file[28:32], "big") if said else 0
        lacking = max(0, expected * size - len(file))
        for spare in dict.fromkeys([0, reserved if reserved < size // 2 else 0]):
            yield Pages(file, fitting, size, size - spare, lacking)


# ---------------------------------------------------------------------- what SQLite does not see

# Only the log is looked into. A process that closes the file itself, or its index (-shm), gives up
# all the locks that SQLite holds on it in this process.


def is_emptied(path: Path) -> bool:
    """Return whether the file is empty and its log is not: SQLite would throw the log away."""
    log = path.with_name(f"{path.name}-wal")
    return path.exists() and not path.stat().st_size and log.exists() and log.stat().st_size > 0


def log_is_broken(path: Path) -> bool:
    """Return whether the log of the database `path` holds whole pages that SQLite does not see.

    SQLite takes what is behind a damaged page of the log for a transaction that nobody finished.
    """
    log = log_of(path)
    if not sqlite_file.is_broken(log):
        return False
    time.sleep(_SETTLING_S)  # another process may be writing to it
    return log_of(path) == log


# ---------------------------------------------------------------------- the search


@dataclass
class _Search:
    """Finds the rows on `pages` and hands each to `put`, the newest first.

    A row whose seal holds is true wherever it lies. Rows of a version without seals are told by
    their form.
    """

    pages: Pages
    put: _Put
    _read: set[int] = field(default_factory=set)
    _wanted: set[int] = field(default_factory=set)
    _flawed: list[int] = field(default_factory=list)
    _taken_back: bool = False

    def run(self) -> bool:
        """Find all rows; return whether some may be lost."""
        numbers = self.pages.numbers
        for number in numbers:
            page = self.pages.newest(number)
            if sqlite_file.is_tree(page, number == 1) and not self._is_whole(number, page):
                self._flawed.append(number)
        known = self._read | sqlite_file.free_pages(self.pages)
        unknown = [number for number in numbers if number not in known]
        strange = {*self._flawed, *unknown}
        for number in sorted(strange):
            self._search(self.pages.newest(number))
        # What a page was before counts least: rows of it may have been taken back.
        for number in (*numbers, *self.pages.beyond):
            self._taken_back = number not in strange and not self.pages.lacking
            for page in self.pages.older(number):
                self._search(page)
        return self._may_have_lost(strange)

    def _may_have_lost(self, strange: set[int]) -> bool:
        # Page 1 holds the schema only. Where it is whole, every root is known, and with the pages
        # below them whether the end of the file is there.
        cut = self._wanted - set(self.pages.numbers) or (1 in strange and self.pages.lacking)
        damaged_log = not all(frame.sound for frame in self.pages.log)
        return bool(strange - {1} or cut or damaged_log or not self._read)

    def _is_whole(self, number: int, page: bytes) -> bool:
        """Take the rows of a page of a table or index; return whether nothing on it is strange."""
        first = number == 1
        self._read.add(number)
        self._wanted.update(sqlite_file.children(page, first))
        cells = sqlite_file.cells(page, self.pages.usable, first)
        return sum(cell is not None and self._take(cell) for cell in cells) == len(cells)

    def _search(self, page: bytes) -> None:
        """Take the rows on a page that is not what it should be, or not any more."""
        usable = self.pages.usable
        listed = sqlite_file.cells(page, usable) if sqlite_file.is_tree(page) else []
        for cell in (*listed, *sqlite_file.cells_with(page, usable, _SEAL)):
            if cell is not None:
                self._take(cell)

    def _take(self, cell: Cell) -> bool:
        """Hand on the row that begins with `cell`; return whether it is one of a store."""
        if cell.columns not in _COLUMNS:
            return False
        for record, numbers in self.pages.records(cell):
            row = sqlite_file.values(record)
            if row is not None and self._is_known(cell, row):
                self._read.update(numbers)
                return True
        return False

    def _is_known(self, cell: Cell, row: _Row) -> bool:
        if found := _identified(cell, row):
            name, values = found
            if TABLES[name].lasting and not (self._taken_back and name == "votes"):
                self.put(name, values)
            return True
        if cell.keyed:  # an index
            return isinstance(row[-1], int) and all(isinstance(value, str) for value in row[:-1])
        if len(row) == 5 and row[0] in _SCHEMA_ROWS and isinstance(row[3], int):
            self._wanted.add(row[3])
            return True
        return False


_COLUMNS = frozenset(
    {2, 3, 5}  # of indexes and of SQLite's own table
    | {len(table.columns) for table in TABLES.values()}
    | {len(table.all_columns) for table in TABLES.values()}
)


def _identified(cell: Cell, row: _Row) -> tuple[str, _Row] | None:
    """Return the table that `row` is of, and its columns without seals."""
    for name, table in TABLES.items():
        if table.keyed == cell.keyed and not (table.number and row[0] is not None):
            whole = (cell.rowid, *row[1:]) if table.number else row
            columns = whole[: len(table.columns)]
            if len(row) == len(table.all_columns) and schema.is_sound(name, whole):
                return name, columns
            if len(row) == len(table.columns) and _looks_like(name, columns):
                return name, columns
    return None


# ---------------------------------------------------------------------- rows without seals


def _looks_like(name: str, row: _Row) -> bool:
    """Return whether `row` has the form of one of the table `name` of version 4, without seals."""
    table = TABLES[name]
    values = dict(zip(table.columns, row, strict=True))
    numbers = {"number", "trial"}
    if not all(isinstance(v, int if column in numbers else str) for column, v in values.items()):
        return False
    return all(_holds(values[column], keys) for column, keys in _JSON.get(name, {}).items())


_JSON: dict[str, dict[str, tuple[str, ...] | None]] = {
    "replies": {"fields": (), "value": ("text",)},
    "passing": {"value": ("text",)},
    "runs": {"results": ("run_id",), "cases": None, "arms": None},
    "run_replies": {"reply": ("text",), "scores": ()},
    "cases": {"asked": ("prompt",)},
    "votes": {"vote": ("choice",)},
    "calibrations": {"value": ("judge",)},
    "refusals": {"value": ()},
}
"""Table -> its columns with JSON -> the keys that an object there has; None: it may be a list."""


def _holds(text: Value, keys: tuple[str, ...] | None) -> bool:
    try:
        value = json.loads(str(text))
    except (ValueError, RecursionError):
        return False
    return keys is None or (isinstance(value, dict) and all(key in value for key in keys))
