"""What the store's tables are, and the seals by which a changed row is told.

Every row carries the SHA-256 of what it holds. A byte that changed on the disk may still be good
JSON: only the seal tells that it is not what was stored.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from harness.records import digest_of

VERSION = 5
OLDEST = 4
"""The oldest version that is brought up to date when it is opened."""

_APPLICATION = 0x70667400
"""From version 5 on, the file's `application_id` less its version: a second witness of it."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table: its `columns` without seals, in the order in which they were made.

    `seals` maps each column with a seal to the columns that it covers. Rows of a table that is
    `keyed` lie in the order of its key (WITHOUT ROWID). `number`: its first column is the row's
    number in the file. A table that is not `lasting` is not rescued.
    """

    columns: tuple[str, ...]
    seals: Mapping[str, tuple[str, ...]]
    keyed: bool = False
    number: bool = False
    lasting: bool = True

    @property
    def all_columns(self) -> tuple[str, ...]:
        """The columns and the seals behind them, as a row lies in the file."""
        return (*self.columns, *self.seals)


def _table(columns: str, seals: Mapping[str, str] | None = None, **options: bool) -> Table:
    """Make a table whose seal covers all `columns`, unless `seals` says what each covers."""
    covered = {name: tuple(cover.split()) for name, cover in (seals or {"seal": columns}).items()}
    return Table(tuple(columns.split()), covered, **options)


TABLES: Mapping[str, Table] = {
    "replies": _table("key model label fields value created"),
    "passing": _table("run key value", keyed=True, lasting=False),
    # The cases have a seal of their own: a list of runs does not read them.
    "runs": _table(
        "id started results cases arms",
        {"seal": "id started results arms", "cases_seal": "id cases"},
    ),
    "run_replies": _table("run model suite case_id trial digest reply scores", keyed=True),
    "promotions": _table("number run model promoted", number=True),
    "cases": _table("digest asked"),
    # SQLite numbers them.
    "votes": _table(
        "number pair rater left right vote created",
        {"seal": "pair rater left right vote created"},
        number=True,
    ),
    "blinding": _table("number secret", number=True),
    "calibrations": _table("key value"),
    "refusals": _table("place model value"),
    "losses": _table("number told", {"seal": "told"}, number=True),
}

_STEPS = {
    4: (
        "CREATE TABLE replies"
        " (key TEXT PRIMARY KEY, model TEXT NOT NULL, label TEXT NOT NULL, fields TEXT NOT NULL,"
        " value TEXT NOT NULL, created TEXT NOT NULL)",
        # What must not outlive a run, for its other processes: errors and refusals.
        "CREATE TABLE passing (run TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,"
        " PRIMARY KEY (run, key)) WITHOUT ROWID",
        "CREATE TABLE runs (id TEXT PRIMARY KEY, started TEXT NOT NULL, results TEXT NOT NULL,"
        " cases TEXT NOT NULL, arms TEXT NOT NULL)",
        "CREATE TABLE run_replies"
        " (run TEXT NOT NULL REFERENCES runs (id), model TEXT NOT NULL, suite TEXT NOT NULL,"
        " case_id TEXT NOT NULL, trial INTEGER NOT NULL, digest TEXT NOT NULL, reply TEXT NOT NULL,"
        " scores TEXT NOT NULL, PRIMARY KEY (run, model, suite, case_id, trial)) WITHOUT ROWID",
        "CREATE TABLE promotions"
        " (number INTEGER PRIMARY KEY, run TEXT NOT NULL REFERENCES runs (id),"
        " model TEXT NOT NULL, promoted TEXT NOT NULL)",
        # What the models of the runs were asked, by the digest of the case.
        "CREATE TABLE cases (digest TEXT PRIMARY KEY, asked TEXT NOT NULL)",
        "CREATE TABLE votes (number INTEGER PRIMARY KEY, pair TEXT NOT NULL, rater TEXT NOT NULL,"
        " left TEXT NOT NULL, right TEXT NOT NULL, vote TEXT NOT NULL, created TEXT NOT NULL,"
        " UNIQUE (pair, rater))",
        # What names and orders the pairs that people read, so that nothing else tells their sides.
        "CREATE TABLE blinding (number INTEGER PRIMARY KEY, secret TEXT NOT NULL)",
        "CREATE TABLE calibrations (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    ),
    5: (
        # What services were found to refuse. Some stores of version 4 have it already.
        "CREATE TABLE IF NOT EXISTS refusals (place TEXT NOT NULL, model TEXT NOT NULL,"
        " value TEXT NOT NULL, PRIMARY KEY (place, model))",
        # What was lost to damage and may not be asked again without consent.
        "CREATE TABLE losses (number INTEGER PRIMARY KEY, told TEXT NOT NULL)",
        *(
            f"ALTER TABLE {name} ADD COLUMN {seal} TEXT NOT NULL DEFAULT ''"
            for name, table in TABLES.items()
            for seal in table.seals
        ),
    ),
}
"""Version -> what makes it of the one before. A new file takes all steps: both look the same."""


class SchemaError(Exception):
    """The file is no store of ours, or one of another version."""


class DamagedSchemaError(Exception):
    """The file is a store of ours whose header or schema is damaged."""


# ---------------------------------------------------------------------- rows and their seals


def sealed(name: str, row: Sequence[object]) -> tuple[object, ...]:
    """Return `row` (the columns of the table `name`) with its seals behind it."""
    table = TABLES[name]
    values = dict(zip(table.columns, row, strict=True))
    covered = ([values[column] for column in cover] for cover in table.seals.values())
    return (*row, *(_seal(name, cover) for cover in covered))


def is_sound(name: str, row: Sequence[object], seals: Sequence[str] = ()) -> bool:
    """Return whether `row` (all columns of the table `name`) is what was stored.

    With `seals` only these must hold; what they do not cover may be anything.
    """
    table = TABLES[name]
    values = dict(zip(table.all_columns, row, strict=True))
    return all(
        values[seal] == _seal(name, [values[column] for column in table.seals[seal]])
        for seal in seals or table.seals
    )


def _seal(name: str, values: Sequence[object]) -> str:
    if not all(isinstance(value, str | int) for value in values):
        return ""  # no column of ours holds anything else
    return digest_of([name, *values])


# ---------------------------------------------------------------------- the file


def bring_up_to_date(connection: sqlite3.Connection) -> None:
    """Make the tables in an empty file, or those of an older version into today's.

    The caller holds the write lock, in a transaction that it rolls back where this raises.

    Raises:
        SchemaError: the file is another program's, or of a version that this one cannot read.
        DamagedSchemaError: it is a store whose schema is not what its version says.

    """
    version = _version(connection)
    if version < VERSION:
        for step in range(version + 1, VERSION + 1):
            for statement in _STEPS.get(step, ()):
                connection.execute(statement)
        _seal_all(connection)
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute(f"PRAGMA application_id = {_APPLICATION + VERSION}")
    if not is_ours(connection):
        raise DamagedSchemaError("its tables are not those of a store")


def is_current(connection: sqlite3.Connection) -> bool:
    """Return whether the file is a whole store of today's version.

    Raises:
        SchemaError, DamagedSchemaError: see `bring_up_to_date`.

    """
    if _version(connection) != VERSION:
        return False
    if not is_ours(connection):
        raise DamagedSchemaError("its tables are not those of a store")
    return True


def is_ours(connection: sqlite3.Connection) -> bool:
    """Return whether the file's schema is that of today's version, to the letter."""
    return _schema(connection) == _expected(VERSION)


def _version(connection: sqlite3.Connection) -> int:
    """Return the version of the file, 0 for an empty one; two places must say the same."""
    version, application = said = _said(connection)
    schema = _schema(connection)
    if said == (0, 0) and not schema:
        return 0
    if said in ((OLDEST, 0), (VERSION, _APPLICATION + VERSION)):
        return version
    newer = version > VERSION and application == _APPLICATION + version
    if not newer and (schema == _expected(VERSION) or _expected(OLDEST).items() <= schema.items()):
        raise DamagedSchemaError(f"its header says version {version}")
    raise SchemaError(version)


def _said(connection: sqlite3.Connection) -> tuple[int, int]:
    pragmas = ("user_version", "application_id")
    version, application = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0]) for name in pragmas
    )
    return version, application


def _seal_all(connection: sqlite3.Connection) -> None:
    connection.create_function("sealed", -1, lambda name, *values: _seal(name, values))
    for name, table in TABLES.items():
        for seal, cover in table.seals.items():
            connection.execute(f"UPDATE {name} SET {seal} = sealed('{name}', {', '.join(cover)})")


def _schema(connection: sqlite3.Connection) -> dict[str, str]:
    rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    return dict(rows.fetchall())


@cache
def _expected(version: int) -> dict[str, str]:
    """Return the schema of `version`, as SQLite itself writes it down."""
    connection = sqlite3.connect(":memory:")
    try:
        for step in range(version + 1):
            for statement in _STEPS.get(step, ()):
                connection.execute(statement)
        return _schema(connection)
    finally:
        connection.close()
