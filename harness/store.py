"""One SQLite file: the replies that were paid for, and the runs.

WAL, no implicit transactions, `BEGIN IMMEDIATE` for every write: with deferred transactions four
writers lose most of their writes to "database is locked".
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from filelock import FileLock

from harness import progress, salvage, schema
from harness.records import (
    Arm,
    Calibration,
    EvidenceError,
    HarnessError,
    Recorded,
    RecordedScore,
    Reply,
    Vote,
    as_table,
)
from harness.schema import TABLES

BUSY_SECONDS = 30.0

_KEYS_PER_QUERY = 500  # SQLite takes at most 999 variables where it is old
_UNUSABLE = tuple(
    f"SQLITE_{name}" for name in ("BUSY", "LOCKED", "READONLY", "FULL", "CANTOPEN", "PERM", "AUTH")
)
_NETWORK = re.compile(
    r"nfs\d*|cifs|smb\d*|smbfs|ncpfs|afs|ceph|glusterfs|lustre|beegfs|gpfs|"
    r"fuse\.(sshfs|s3fs|rclone|gcsfuse|goofys|davfs2?|glusterfs|ceph.*|smbnetfs|blobfuse2?|juicefs)"
)


_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_TOOBIG")
_TRIES = 3
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class StoredCall:
    """The call behind a stored reply: the `label` of its case and its outlined fields.

    `model` is the model's spec, `created` when its reply was stored (ISO 8601).
    """

    label: str
    fields: Mapping[str, str]
    model: str = ""
    created: str = ""


@dataclass(frozen=True, slots=True)
class Stock:
    """What the cache holds of one model: `replies`, their size and their first and last day."""

    model: str
    replies: int
    size_bytes: int
    oldest: str
    newest: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What a case asks, as a text for people, and its reference answer."""

    prompt: str
    expected: str | None = None


@dataclass(frozen=True, slots=True)
class Promotion:
    """A candidate of a run that became the champion; `promoted` is when (ISO 8601)."""

    run: str
    model: str
    promoted: str


class _DamagedError(Exception):
    """The file is damaged, though SQLite does not say so."""


class _MovedError(Exception):
    """Another process has set the file aside."""


class Store:
    """The replies and the runs in the SQLite file `path`, which is made where it is missing.

    Any number of processes may write to one file; an object belongs to the thread that made it.
    Where the file is damaged, what can be read of it moves to a new file, the damaged one is kept
    under another name, and `rescued` says so. `alarms` are what people must know: that something
    is lost, and `notes` the rest.

    Raises:
        HarnessError: the file lies on a network file system, cannot be opened, or is no store that
            this version can read.
        EvidenceError: a run in it cannot be read.

    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rescued = ""
        self.alarms: list[str] = []
        self.notes: list[str] = []
        self._damaged_rows: Counter[str] = Counter()
        self._damaged_replies: set[str] = set()
        _refuse_network(path)
        with self._spoken():
            self._connection = self._opened()

    def replies(self, keys: Iterable[str]) -> dict[str, Reply]:
        """Return the stored replies among `keys`; a damaged one is none, and its row stays.

        Until another reply takes its place, whoever looks for it is told.
        """
        wanted = list(dict.fromkeys(keys))
        found = self._safely(lambda: self._found(wanted))
        if not found.keys() >= set(wanted) and not self._checked:
            self._safely(self._check)
            found = self._safely(lambda: self._found(wanted))
        self._tell_damaged({key for key, reply in found.items() if reply is None})
        return {key: reply for key, reply in found.items() if reply is not None}

    def put_replies(
        self,
        replies: Mapping[str, Reply],
        calls: Mapping[str, StoredCall] = MappingProxyType({}),
    ) -> None:
        """Store `replies` (key -> reply) in one transaction; `calls` tells what was asked."""
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        rows = [
            (key, *_call_texts(calls.get(key)), _encoded(reply), now)
            for key, reply in replies.items()
        ]
        self._write(_insertion("replies", rows))

    def passing(self, run: str) -> dict[str, Reply]:
        """Return the replies that only this `run` may use."""
        rows = self._sound("passing", "WHERE run = ?", run)
        found = {key: _decoded(value) for _, key, value in rows}
        return {key: reply for key, reply in found.items() if reply is not None}

    def put_passing(self, run: str, replies: Mapping[str, Reply]) -> None:
        """Store `replies` for the other processes of `run`, and forget those of other runs."""
        rows = [(run, key, _encoded(reply)) for key, reply in replies.items()]
        self._write(
            ("DELETE FROM passing WHERE run <> ?", [(run,)]),
            _insertion("passing", rows),
        )

    def refusals(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Return what each (service, model) was found to refuse, as JSON values."""
        rows = self._sound("refusals")
        return {(place, model): _table(value) for place, model, value in rows}

    def put_refusals(self, refusals: Mapping[tuple[str, str], Mapping[str, Any]]) -> None:
        """Store what services were found to refuse; see `refusals`."""
        rows = [(*place, _json(dict(value))) for place, value in refusals.items()]
        self._write(_insertion("refusals", rows))

    def calls(self, label: str | None = None) -> list[StoredCall]:
        """Return the calls whose replies are stored, those of the case `label` or all of them."""
        condition, values = ("", ()) if label is None else ("WHERE label = ?", (label,))
        rows = self._sound("replies", condition, *values)
        return [
            StoredCall(label, _table(fields), model, created)
            for _, model, label, fields, _, created in rows
        ]

    def stock(self) -> list[Stock]:
        """Return what the cache holds, by model."""
        query = (
            "SELECT model, count(*), sum(length(CAST(value AS BLOB)) + length(fields)),"
            " min(created), max(created) FROM replies"
            " WHERE typeof(model) = 'text' AND typeof(created) = 'text'"
            " GROUP BY model ORDER BY model"
        )
        return [Stock(*row) for row in self._rows(query)]

    def prune(self, before: datetime | None = None, model: str | None = None) -> int:
        """Delete the replies stored `before` a time, of `model` (a spec), or both; return how many.

        With the replies of a model goes what its services were found to refuse. The runs keep what
        was replied in them. The file shrinks.
        """
        conditions, values = ["1"], list[str]()
        if before is not None:
            conditions.append("created < ?")
            values.append(before.astimezone(UTC).isoformat(timespec="microseconds"))
        if model is not None:
            conditions.append("model = ?")
            values.append(model)
        where = " AND ".join(conditions)
        [(count,)] = self._rows(f"SELECT count(*) FROM replies WHERE {where}", *values)
        self._write(
            (f"DELETE FROM replies WHERE {where}", [values]),
            ("DELETE FROM refusals WHERE 'openai:' || model = ?", [(model,)]),
        )
        self._rows("VACUUM")
        return int(count)

    def add_run(
        self,
        results: Mapping[str, Any],
        arms: Sequence[Arm] = (),
        replies: Mapping[str, Iterable[Recorded]] = MappingProxyType({}),
        asked: Mapping[str, Asked] = MappingProxyType({}),
    ) -> None:
        """Store a run in one transaction.

        `results` are those of `results.json`, `arms` its models, `replies` maps each model to what
        it replied to the cases, `asked` the digests of the cases to what they ask.
        """
        run, rest = results["run_id"], {key: results[key] for key in results if key != "cases"}
        row = (run, results["started"], _json(rest), _json(results["cases"]), _arms_text(arms))
        rows = [
            _reply_row(run, model, one) for model, recorded in replies.items() for one in recorded
        ]
        cases = [(digest, _json(as_table(one))) for digest, one in asked.items()]
        self._write(
            _insertion("runs", [row], "INSERT"),
            _insertion("run_replies", rows, "INSERT"),
            _insertion("cases", cases),
        )

    def run_ids(self, *, answered: bool = False) -> list[str]:
        """Return the ids of all runs, the oldest first; `answered`: of those with replies.

        Damaged ones are left out, with a note.
        """
        condition = "WHERE id IN (SELECT run FROM run_replies)" if answered else ""
        return [run for run, *_ in self._runs(f"{condition} ORDER BY started, rowid")]

    def results(self, run: str) -> dict[str, Any]:
        """Return the results of `run` as `results.json` has them."""
        rows = self._sound("runs", "WHERE id = ?", run)
        found = _table(rows[0][2]) if rows else {}
        if not found:
            raise self._damaged(f"the run {run} cannot be read")
        return {**found, "cases": json.loads(rows[0][3])}

    def summary(self, run: str) -> dict[str, Any]:
        """Return the results of `run` without its cases."""
        return _table(self._run(run)[2])

    def summaries(self) -> list[dict[str, Any]]:
        """Return the results of all runs without their cases, the oldest first.

        Damaged ones are left out, with a note.
        """
        return [_table(results) for _, _, results, _ in self._runs("ORDER BY started, rowid")]

    def arms(self, run: str) -> tuple[Arm, ...]:
        """Return the models of `run`."""
        from pydantic import TypeAdapter

        return TypeAdapter(tuple[Arm, ...]).validate_json(self._run(run)[3])

    def run_models(self, run: str) -> list[str]:
        """Return the models whose replies `run` holds, by name."""
        query = "SELECT DISTINCT model FROM run_replies WHERE run = ? ORDER BY model"
        return [model for (model,) in self._rows(query, run)]

    def run_replies(self, run: str, model: str) -> tuple[Recorded, ...]:
        """Return what `model` replied in `run`, by suite and case; damaged ones are left out."""
        condition = "WHERE run = ? AND model = ? ORDER BY suite, case_id, trial"
        rows = self._sound("run_replies", condition, run, model)
        return tuple(_recorded(*row[2:]) for row in rows)

    def count_run_replies(self, run: str, model: str) -> int:
        """Return how many replies of `model` in `run` are stored, damaged ones included."""
        query = "SELECT count(*) FROM run_replies WHERE run = ? AND model = ?"
        return int(self._rows(query, run, model)[0][0])

    def asked(self) -> dict[str, Asked]:
        """Return what the cases of all runs ask, by digest; damaged ones are left out."""
        return {digest: Asked(**_table(text)) for digest, text in self._sound("cases")}

    def blinding(self) -> str:
        """Return the secret (64 hex digits) that hides the sides of pairs; made when first used."""
        row = (1, secrets.token_hex(32))
        self._write(_insertion("blinding", [row], "INSERT OR IGNORE"))
        if not (rows := self._sound("blinding")):
            self._write(_insertion("blinding", [row]))
            rows = self._sound("blinding")
        return str(rows[0][1])

    def put_votes(self, votes: Iterable[Vote]) -> None:
        """Store `votes`; a rater's later vote on a pair takes the place of the earlier one."""
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        self._write(_insertion("votes", [_vote_row(vote, now) for vote in votes]))

    def drop_vote(self, pair: str, rater: str) -> None:
        """Forget the vote of `rater` on `pair`, if there is one."""
        self._write(("DELETE FROM votes WHERE pair = ? AND rater = ?", [(pair, rater)]))

    def votes(self) -> list[Vote]:
        """Return all votes, the oldest first; damaged ones are left out."""
        return [
            Vote(pair, rater, left, right, created=created, **_table(vote))
            for _, pair, rater, left, right, vote, created in self._sound(
                "votes", "ORDER BY created, number"
            )
        ]

    def calibration(self, key: str) -> Calibration | None:
        """Return the last calibration under `key`; None where there is none, or a damaged one."""
        from pydantic import TypeAdapter, ValidationError

        rows = self._sound("calibrations", "WHERE key = ?", key)
        try:
            return TypeAdapter(Calibration).validate_json(rows[0][1]) if rows else None
        except ValidationError:
            return None

    def put_calibration(self, key: str, calibration: Calibration) -> None:
        """Store `calibration` in the place of an earlier one under `key`."""
        self._write(_insertion("calibrations", [(key, _json(as_table(calibration)))]))

    def promote(self, run: str, model: str) -> None:
        """Make `model` of `run` the champion."""
        now = datetime.now(UTC).isoformat(timespec="seconds")

        def write() -> None:
            self._check()
            with self._writing() as connection:
                [(last,)] = connection.execute("SELECT max(number) FROM promotions")
                query, rows = _insertion("promotions", [((last or 0) + 1, run, model, now)])
                connection.executemany(query, rows)

        self._safely(write)

    def champion(self) -> Promotion | None:
        """Return the last promotion; damaged ones are left out, with a note."""
        rows = self._sound("promotions", "ORDER BY number DESC")
        return Promotion(*rows[0][1:]) if rows else None

    def losses(self) -> list[str]:
        """Return what rescues could not bring back and nobody has accepted, a sentence each."""
        return [told for _, told in self._sound("losses", "ORDER BY number")]

    def accept_losses(self) -> None:
        """Forget the losses: what is missing may be asked again."""
        self._write(("DELETE FROM losses", [()]))

    def close(self) -> None:
        """Close the file; closing twice does no harm."""
        self._connection.close()

    # ------------------------------------------------------------------ the file

    def _alone(self) -> FileLock:
        return FileLock(f"{self._path}.lock")

    def _opened(self) -> sqlite3.Connection:
        """Open the file, or what can be read of it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Switching a new file to WAL ignores the busy timeout: one process at a time.
        with self._alone():
            salvage.finish(self._path)
            return self._open()

    def _open(self) -> sqlite3.Connection:
        if salvage.is_emptied(self._path):
            return self._rescue(None)
        connection = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None)
        if salvage.log_is_broken(self._path):  # before SQLite writes over what it does not see
            return self._rescue(connection)
        try:
            self._set_up(connection)
        except BaseException as problem:
            if not (self._is_damage(problem) or _is_misread(problem)):
                connection.close()
                raise
            return self._rescue(connection)
        return self._known(connection, checked=False)

    def _known(self, connection: sqlite3.Connection, *, checked: bool) -> sqlite3.Connection:
        """Remember which file `connection` is of, and whether it is known to be in order."""
        self._file = _identity(self._path)
        self._checked = checked
        return connection

    def _set_up(self, connection: sqlite3.Connection) -> None:
        # A damaged text need not be UTF-8; its seal tells.
        connection.text_factory = lambda content: content.decode("utf-8", "replace")
        try:
            current = schema.is_current(connection)
        except schema.SchemaError as problem:
            raise HarnessError(
                f"{self._path}: the store has version {problem} and this program reads versions "
                f"{schema.OLDEST} to {schema.VERSION}; use the program that wrote it, or move the "
                "file away to start afresh"
            ) from None
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        # What is deleted must not come back in a rescue.
        connection.execute("PRAGMA secure_delete = ON")
        if not current:
            _check_integrity(connection)
            with _transaction(connection):
                schema.bring_up_to_date(connection)

    def _rescue(self, connection: sqlite3.Connection | None) -> sqlite3.Connection:
        """Move what can be read of the damaged file to a new one, and the file away."""
        if connection:
            with suppress(sqlite3.Error):
                connection.execute("BEGIN IMMEDIATE")  # whoever writes may finish
        # Closed last: until then SQLite's locks on it hold.
        with self._path.open("rb") as file:
            try:
                self._move_readable(file.read())
            except BaseException:
                if connection and connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            if connection:
                connection.close()  # not earlier: it would write the log into the file
        salvage.finish(self._path)
        connection = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None)
        self._set_up(connection)
        return self._known(connection, checked=True)

    def _move_readable(self, content: bytes) -> None:
        aside = salvage.aside(self._path)
        with salvage.new_file(self._path) as fresh:
            schema.bring_up_to_date(fresh)
            found = salvage.rescue(content, salvage.log_of(self._path), fresh)
            self._tell(found, aside)
            if found.lost:
                query, rows = _insertion("losses", [(None, self.rescued)])
                fresh.executemany(query, rows)
        salvage.move(self._path, aside)

    def _tell(self, found: salvage.Found, aside: Path) -> None:
        counts = found.counts
        what = "some of it may be lost" if found.lost else "nothing is lost"
        self.rescued = (
            f"{self._path}: the store was damaged; {counts['replies']:,} replies and "
            f"{counts['runs']:,} runs{_and_votes(counts['votes'])} could be read and are in a new "
            f"one, {what}; the damaged file is kept as {aside.name}"
        )
        (self.alarms if found.lost else self.notes).append(self.rescued)
        progress.say(self.rescued)

    def _is_damage(self, problem: BaseException) -> bool:
        if isinstance(problem, _DamagedError | schema.DamagedSchemaError):
            return True
        name = getattr(problem, "sqlite_errorname", "")
        # A header that names another way of writing makes a file that may only be read.
        unwritable = name == "SQLITE_READONLY" and os.access(self._path, os.W_OK)
        return unwritable or name.startswith(_DAMAGE)

    def _is_moved(self) -> bool:
        return _identity(self._path) != self._file

    def _check(self) -> None:
        """Find the damage that SQLite does not stumble over; once."""
        if not self._checked:
            _check_integrity(self._connection)
            self._checked = True

    def _safely(self, work: Callable[[], _T]) -> _T:
        """Do `work`, and again on what is left if the file proves to be damaged or set aside."""
        with self._spoken():
            for attempt in range(_TRIES):
                try:
                    if self._is_moved():
                        raise _MovedError
                    return work()
                except (sqlite3.DatabaseError, _DamagedError, _MovedError) as problem:
                    damaged = self._is_damage(problem) or self._lacks_tables(problem)
                    if attempt + 1 == _TRIES or not (damaged or isinstance(problem, _MovedError)):
                        raise
                self._repair()
            raise AssertionError  # the last attempt returns or raises

    def _lacks_tables(self, problem: Exception) -> bool:
        """Return whether SQLite misunderstood a query because the schema is not ours."""
        return _is_misread(problem) and not schema.is_ours(self._connection)

    def _repair(self) -> None:
        """Go on with the file that took this one's place, or with what can be read of this one."""
        if self._is_moved():
            self._connection.close()
            self._connection = self._opened()
            return
        with self._alone():
            if not self._is_moved():  # another process may have been faster
                self._connection = self._rescue(self._connection)

    # ------------------------------------------------------------------ rows

    def _found(self, keys: Sequence[str]) -> dict[str, Reply | None]:
        """Return those of `keys` that are stored; None for a damaged reply."""
        found: dict[str, Reply | None] = {}
        columns = ", ".join(TABLES["replies"].all_columns)
        for start in range(0, len(keys), _KEYS_PER_QUERY):
            some = keys[start : start + _KEYS_PER_QUERY]
            marks = ",".join("?" * len(some))
            query = f"SELECT {columns} FROM replies WHERE key IN ({marks})"
            for row in self._connection.execute(query, some).fetchall():
                reply = _decoded(row[4]) if schema.is_sound("replies", row) else None
                found[row[0]] = reply or found.get(row[0])
        return found

    def _sound(self, table: str, condition: str = "", *values: str) -> list[Any]:
        """Return the rows of `table` that are what was stored, without their seals."""
        columns = TABLES[table].columns
        query = f"SELECT {', '.join(TABLES[table].all_columns)} FROM {table} {condition}"
        self._safely(self._check)  # a damaged tree hides rows without a word
        rows = self._rows(query, *values)
        sound = [row[: len(columns)] for row in rows if schema.is_sound(table, row)]
        self._note_damaged(table, len(rows) - len(sound))
        return sound

    def _runs(self, condition: str, *values: str) -> list[Any]:
        """Return (id, started, results, arms) of runs whose cases are not looked at."""
        self._safely(self._check)
        columns = "id, started, results, arms"
        rows = self._rows(f"SELECT {columns}, seal FROM runs {condition}", *values)
        sound = [
            row[:-1]
            for row in rows
            if schema.is_sound("runs", (*row[:3], "", row[3], row[4], ""), ["seal"])
        ]
        self._note_damaged("runs", len(rows) - len(sound))
        return sound

    def _run(self, run: str) -> Any:
        if rows := self._runs("WHERE id = ?", run):
            return rows[0]
        raise self._damaged(f"the run {run} cannot be read")

    def _note_damaged(self, table: str, count: int) -> None:
        """Say how many rows of `table` were left out, unless as many were before."""
        if count > self._damaged_rows[table]:
            self._damaged_rows[table] = count
            self._note(f"{self._path}: {count:,} damaged rows of {table} were left out")

    def _note(self, told: str) -> None:
        self.notes.append(told)
        progress.say(told)

    def _tell_damaged(self, keys: set[str]) -> None:
        """Raise the alarm for replies that are damaged, once for each."""
        if new := keys - self._damaged_replies:
            self._damaged_replies |= new
            told = f"{self._path}: {len(new):,} replies are damaged; only asked again they count"
            self.alarms.append(told)
            progress.say(told)

    def _rows(self, query: str, *values: str) -> list[Any]:
        return self._safely(lambda: self._connection.execute(query, values).fetchall())

    def _write(self, *statements: tuple[str, Sequence[Sequence[object]]]) -> None:
        """Carry out each statement with all its rows of values, in one transaction."""

        def write() -> None:
            self._check()
            with self._writing() as connection:
                for statement, rows in statements:
                    connection.executemany(statement, rows)

        self._safely(write)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction in the file that has our name: it is not set aside before the end."""
        with _transaction(self._connection):
            if self._is_moved():
                raise _MovedError
            yield self._connection

    @contextmanager
    def _spoken(self) -> Iterator[None]:
        """Turn what SQLite and the file system complain about into a sentence."""
        try:
            yield
        except sqlite3.ProgrammingError:
            raise
        except sqlite3.DatabaseError as problem:
            raise self._sentence(problem) from None
        except (_DamagedError, _MovedError, schema.DamagedSchemaError) as problem:
            raise self._damaged(problem) from None
        except OSError as problem:
            raise HarnessError(
                f"{self._path}: the store cannot be opened: {problem.strerror}; choose another "
                "folder with tool.harness.store"
            ) from None

    def _sentence(self, problem: sqlite3.DatabaseError) -> Exception:
        if getattr(problem, "sqlite_errorname", "").startswith(_UNUSABLE):
            return HarnessError(
                f"{self._path}: the store cannot be used: {problem}; make sure that the disk has "
                "room, that you may write there and that no other program holds the file"
            )
        return self._damaged(problem)

    def _damaged(self, problem: object) -> EvidenceError:
        return EvidenceError(
            f"{self._path}: the store is damaged: {problem}; move it away, or delete it to start "
            "afresh (every reply is asked again)"
        )


def _is_misread(problem: BaseException) -> bool:
    """Return whether SQLite did not understand a query: no table or column has that name."""
    return getattr(problem, "sqlite_errorname", "") == "SQLITE_ERROR"


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells the file at `path` from another of this name; None if there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _and_votes(count: int) -> str:
    return f" and {count:,} votes" if count else ""


def _check_integrity(connection: sqlite3.Connection) -> None:
    [(told,)] = connection.execute("PRAGMA integrity_check(1)").fetchall()
    if told != "ok":
        raise _DamagedError(told)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _insertion(
    table: str, rows: Iterable[Sequence[object]], verb: str = "INSERT OR REPLACE"
) -> tuple[str, list[tuple[object, ...]]]:
    """Return the statement that stores `rows` of `table`, and the rows with their seals."""
    marks = ", ".join("?" * len(TABLES[table].all_columns))
    return f"{verb} INTO {table} VALUES ({marks})", [schema.sealed(table, row) for row in rows]


def _json(value: object) -> str:
    return json.dumps(value, allow_nan=False)


def _arms_text(arms: Sequence[Arm]) -> str:
    from pydantic import TypeAdapter

    return TypeAdapter(tuple[Arm, ...]).dump_json(tuple(arms)).decode()


def _reply_row(run: str, model: str, one: Recorded) -> tuple[str | int, ...]:
    scores = _json({metric: as_table(score) for metric, score in one.scores.items()})
    key = (run, model, one.suite, one.id, one.trial)
    return (*key, one.digest, _encoded(one.reply), scores)


def _vote_row(vote: Vote, now: str) -> tuple[str | None, ...]:
    said = ("choice", "left_ships", "right_ships", "note")
    text = _json({name: getattr(vote, name) for name in said})
    return (None, vote.pair, vote.rater, vote.left, vote.right, text, now)


def _recorded(suite: str, case: str, trial: int, digest: str, reply: str, scores: str) -> Recorded:
    kept = {metric: RecordedScore(**score) for metric, score in json.loads(scores).items()}
    return Recorded(case, digest, _reply(json.loads(reply)), suite, trial, kept)


def _call_texts(call: StoredCall | None) -> tuple[str, str, str]:
    return (call.model, call.label, _json(dict(call.fields))) if call else ("", "", "{}")


def _table(text: str) -> dict[str, Any]:
    """Return the object in a stored text; an empty one if it is damaged."""
    try:
        return dict(json.loads(text))
    except (TypeError, ValueError):
        return {}


def _encoded(reply: Reply) -> str:
    return json.dumps(as_table(reply), allow_nan=False)


def _decoded(value: object) -> Reply | None:
    """Return the reply in a stored value, or None if the value is damaged."""
    try:
        return _reply(json.loads(value))  # type: ignore[arg-type]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _reply(table: Mapping[str, Any]) -> Reply:
    return Reply(**{**table, "tool_calls": tuple(table["tool_calls"])})


def _refuse_network(path: Path) -> None:
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return  # no Linux: there is no cheap way to know
    if kind := network_file_system(path.absolute(), mounts):
        raise HarnessError(
            f"{path}: the store lies on a network file system ({kind}), where SQLite loses "
            "writes; put it on a local disk with tool.harness.store"
        )


def network_file_system(path: Path, mounts: str) -> str | None:
    """Return the type of the network file system that holds the absolute `path`, if it is one.

    `mounts` is the text of Linux's `/proc/mounts`.
    """
    resolved = path.resolve()
    found = (Path("/"), "")
    for line in mounts.splitlines():
        _, point, kind, *_ = [*line.split(" "), "", "", ""]
        folder = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point))
        # Of two mounts on one folder the later one hides the earlier.
        if point and resolved.is_relative_to(folder) and len(folder.parts) >= len(found[0].parts):
            found = (folder, kind)
    return found[1] if _NETWORK.fullmatch(found[1]) else None
