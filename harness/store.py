"""One SQLite file: the replies that were paid for, and the runs.

WAL, no implicit transactions, `BEGIN IMMEDIATE` for every write: with deferred transactions four
writers lose most of their writes to "database is locked".
"""

from __future__ import annotations

import json
import re
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from filelock import FileLock

from harness import progress, salvage
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

SCHEMA_VERSION = 4
BUSY_SECONDS = 30.0

_KEYS_PER_QUERY = 500  # SQLite takes at most 999 variables where it is old
_SCHEMA = (
    "CREATE TABLE replies"
    " (key TEXT PRIMARY KEY, model TEXT NOT NULL, label TEXT NOT NULL, fields TEXT NOT NULL,"
    " value TEXT NOT NULL, created TEXT NOT NULL)",
    # What must not outlive a run, for its other processes: errors and refusals.
    "CREATE TABLE passing (run TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,"
    " PRIMARY KEY (run, key)) WITHOUT ROWID",
    # The cases are apart from the rest of the results: a list of runs does not read them.
    "CREATE TABLE runs (id TEXT PRIMARY KEY, started TEXT NOT NULL, results TEXT NOT NULL,"
    " cases TEXT NOT NULL, arms TEXT NOT NULL)",
    "CREATE TABLE run_replies"
    " (run TEXT NOT NULL REFERENCES runs (id), model TEXT NOT NULL, suite TEXT NOT NULL,"
    " case_id TEXT NOT NULL, trial INTEGER NOT NULL, digest TEXT NOT NULL, reply TEXT NOT NULL,"
    " scores TEXT NOT NULL, PRIMARY KEY (run, model, suite, case_id, trial)) WITHOUT ROWID",
    "CREATE TABLE promotions (number INTEGER PRIMARY KEY, run TEXT NOT NULL REFERENCES runs (id),"
    " model TEXT NOT NULL, promoted TEXT NOT NULL)",
    # What the models of the runs were asked, by the digest of the case.
    "CREATE TABLE cases (digest TEXT PRIMARY KEY, asked TEXT NOT NULL)",
    "CREATE TABLE votes (number INTEGER PRIMARY KEY, pair TEXT NOT NULL, rater TEXT NOT NULL,"
    " left TEXT NOT NULL, right TEXT NOT NULL, vote TEXT NOT NULL, created TEXT NOT NULL,"
    " UNIQUE (pair, rater))",
    # What names and orders the pairs that people read, so that nothing else tells their sides.
    "CREATE TABLE blinding (number INTEGER PRIMARY KEY, secret TEXT NOT NULL)",
    "CREATE TABLE calibrations (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
# What services were found to refuse. Stores of earlier versions get it when they are opened.
_REFUSALS = (
    "CREATE TABLE IF NOT EXISTS refusals (place TEXT NOT NULL, model TEXT NOT NULL,"
    " value TEXT NOT NULL, PRIMARY KEY (place, model))"
)
_UNUSABLE = tuple(
    f"SQLITE_{name}" for name in ("BUSY", "LOCKED", "READONLY", "FULL", "CANTOPEN", "PERM", "AUTH")
)
_NETWORK = re.compile(
    r"nfs\d*|cifs|smb\d*|smbfs|ncpfs|afs|ceph|glusterfs|lustre|beegfs|gpfs|"
    r"fuse\.(sshfs|s3fs|rclone|gcsfuse|goofys|davfs2?|glusterfs|ceph.*|smbnetfs|blobfuse2?|juicefs)"
)


_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
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


class Store:
    """The replies and the runs in the SQLite file `path`, which is made where it is missing.

    Any number of processes may write to one file; an object belongs to the thread that made it.
    Where the file is damaged, what can be read of it moves to a new file, the damaged one is kept
    under another name, and `rescued` says so.

    Raises:
        HarnessError: the file lies on a network file system, cannot be opened, or is no store of
            this version.
        EvidenceError: a run in it cannot be read.

    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rescued = ""
        _refuse_network(path)
        with self._spoken():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Switching a new file to WAL ignores the busy timeout: one process at a time.
            with self._alone():
                try:
                    self._connection = self._open()
                except sqlite3.DatabaseError as problem:
                    if not _is_damage(problem):
                        raise
                    self._rescue()

    def replies(self, keys: Iterable[str]) -> dict[str, Reply]:
        """Return the stored replies among `keys`; a damaged one is dropped, to be asked again."""
        wanted = list(dict.fromkeys(keys))

        def select() -> dict[str, object]:
            values: dict[str, object] = {}
            for start in range(0, len(wanted), _KEYS_PER_QUERY):
                values.update(self._select(wanted[start : start + _KEYS_PER_QUERY]))
            return values

        values = self._safely(select)
        found = {key: _decoded(value) for key, value in values.items()}
        self._drop([key for key, reply in found.items() if reply is None])
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
        self._write(("INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?, ?, ?)", rows))

    def passing(self, run: str) -> dict[str, Reply]:
        """Return the replies that only this `run` may use."""
        rows = self._rows("SELECT key, value FROM passing WHERE run = ?", run)
        found = {key: _decoded(value) for key, value in rows}
        return {key: reply for key, reply in found.items() if reply is not None}

    def put_passing(self, run: str, replies: Mapping[str, Reply]) -> None:
        """Store `replies` for the other processes of `run`, and forget those of other runs."""
        rows = [(run, key, _encoded(reply)) for key, reply in replies.items()]
        self._write(
            ("DELETE FROM passing WHERE run <> ?", [(run,)]),
            ("INSERT OR REPLACE INTO passing VALUES (?, ?, ?)", rows),
        )

    def refusals(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Return (service, model) -> what was found to be refused there, as JSON values."""
        rows = self._rows("SELECT place, model, value FROM refusals")
        return {(place, model): _table(value) for place, model, value in rows}

    def put_refusals(self, refusals: Mapping[tuple[str, str], Mapping[str, Any]]) -> None:
        """Store what services were found to refuse; see `refusals`."""
        rows = [(*place, _json(dict(value))) for place, value in refusals.items()]
        self._write(("INSERT OR REPLACE INTO refusals VALUES (?, ?, ?)", rows))

    def calls(self, label: str | None = None) -> list[StoredCall]:
        """Return the calls whose replies are stored, those of the case `label` or all of them."""
        query = "SELECT label, fields, model, created FROM replies"
        condition, values = ("", ()) if label is None else (" WHERE label = ?", (label,))
        rows = self._rows(query + condition, *values)
        return [StoredCall(row[0], _table(row[1]), *row[2:]) for row in rows]

    def stock(self) -> list[Stock]:
        """Return what the cache holds, by model."""
        query = (
            "SELECT model, count(*), sum(length(CAST(value AS BLOB)) + length(fields)),"
            " min(created), max(created) FROM replies GROUP BY model ORDER BY model"
        )
        return [Stock(*row) for row in self._rows(query)]

    def prune(self, before: datetime | None = None, model: str | None = None) -> int:
        """Delete the replies stored `before` a time, of `model` (a spec), or both; return how many.

        The runs keep what was replied in them. The file shrinks.
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
        self._write((f"DELETE FROM replies WHERE {where}", [values]))
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
        self._write(
            ("INSERT INTO runs VALUES (?, ?, ?, ?, ?)", [row]),
            ("INSERT INTO run_replies VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows),
            (
                "INSERT OR IGNORE INTO cases VALUES (?, ?)",
                [(digest, _json(as_table(one))) for digest, one in asked.items()],
            ),
        )

    def run_ids(self, *, answered: bool = False) -> list[str]:
        """Return the ids of all runs, the oldest first; `answered`: of those with replies."""
        condition = "WHERE id IN (SELECT run FROM run_replies)" if answered else ""
        rows = self._rows(f"SELECT id FROM runs {condition} ORDER BY started, rowid")
        return [run for (run,) in rows]

    def results(self, run: str) -> dict[str, Any]:
        """Return the results of `run` as `results.json` has them."""
        cases = self._value("SELECT cases FROM runs WHERE id = ?", run)
        return {**self.summary(run), "cases": cases}

    def summary(self, run: str) -> dict[str, Any]:
        """Return the results of `run` without its cases."""
        found: dict[str, Any] = self._value("SELECT results FROM runs WHERE id = ?", run)
        return found

    def arms(self, run: str) -> tuple[Arm, ...]:
        """Return the models of `run`."""
        from pydantic import TypeAdapter

        value = self._value("SELECT arms FROM runs WHERE id = ?", run)
        return TypeAdapter(tuple[Arm, ...]).validate_python(value)

    def run_models(self, run: str) -> list[str]:
        """Return the models whose replies `run` holds, by name."""
        query = "SELECT DISTINCT model FROM run_replies WHERE run = ? ORDER BY model"
        return [model for (model,) in self._rows(query, run)]

    def run_replies(self, run: str, model: str) -> tuple[Recorded, ...]:
        """Return what `model` replied in `run`, by suite and case."""
        query = (
            "SELECT case_id, digest, reply, suite, trial, scores FROM run_replies"
            " WHERE run = ? AND model = ? ORDER BY suite, case_id, trial"
        )
        return tuple(self._recorded(*row) for row in self._rows(query, run, model))

    def asked(self) -> dict[str, Asked]:
        """Return what the cases of all runs ask, by digest; damaged ones are left out."""
        rows = self._rows("SELECT digest, asked FROM cases")
        found = {digest: _table(text) for digest, text in rows}
        return {digest: Asked(**table) for digest, table in found.items() if table}

    def blinding(self) -> str:
        """Return the secret (64 hex digits) that hides the sides of pairs; made when first used."""
        row = (1, secrets.token_hex(32))
        self._write(("INSERT OR IGNORE INTO blinding VALUES (?, ?)", [row]))
        [(secret,)] = self._rows("SELECT secret FROM blinding")
        return str(secret)

    def put_votes(self, votes: Iterable[Vote]) -> None:
        """Store `votes`; a rater's later vote on a pair takes the place of the earlier one."""
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        rows = [_vote_row(vote, now) for vote in votes]
        query = (
            "INSERT OR REPLACE INTO votes (pair, rater, left, right, vote, created)"
            " VALUES (?, ?, ?, ?, ?, ?)"
        )
        self._write((query, rows))

    def drop_vote(self, pair: str, rater: str) -> None:
        """Forget the vote of `rater` on `pair`, if there is one."""
        self._write(("DELETE FROM votes WHERE pair = ? AND rater = ?", [(pair, rater)]))

    def votes(self) -> list[Vote]:
        """Return all votes, the oldest first; damaged ones are left out."""
        query = "SELECT pair, rater, left, right, created, vote FROM votes ORDER BY number"
        found = [(row, _table(row[-1])) for row in self._rows(query)]
        return [
            Vote(pair, rater, left, right, created=created, **table)
            for (pair, rater, left, right, created, _), table in found
            if table
        ]

    def calibration(self, key: str) -> Calibration | None:
        """Return the last calibration under `key`; None where there is none, or a damaged one."""
        from pydantic import TypeAdapter, ValidationError

        rows = self._rows("SELECT value FROM calibrations WHERE key = ?", key)
        try:
            return TypeAdapter(Calibration).validate_json(rows[0][0]) if rows else None
        except ValidationError:
            return None

    def put_calibration(self, key: str, calibration: Calibration) -> None:
        """Store `calibration` in the place of an earlier one under `key`."""
        row = (key, _json(as_table(calibration)))
        self._write(("INSERT OR REPLACE INTO calibrations VALUES (?, ?)", [row]))

    def promote(self, run: str, model: str) -> None:
        """Make `model` of `run` the champion."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        query = "INSERT INTO promotions (run, model, promoted) VALUES (?, ?, ?)"
        self._write((query, [(run, model, now)]))

    def champion(self) -> Promotion | None:
        """Return the last promotion."""
        query = "SELECT run, model, promoted FROM promotions ORDER BY number DESC LIMIT 1"
        return next((Promotion(*row) for row in self._rows(query)), None)

    def close(self) -> None:
        """Close the file; closing twice does no harm."""
        self._connection.close()

    def _alone(self) -> FileLock:
        return FileLock(f"{self._path}.lock")

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            self._set_up(connection)
        except BaseException:
            connection.close()
            raise
        self._inode = self._path.stat().st_ino
        return connection

    def _safely(self, work: Callable[[], _T]) -> _T:
        """Do `work`, and once more on what is left if the file proves to be damaged."""
        with self._spoken():
            try:
                return work()
            except sqlite3.DatabaseError as problem:
                if not _is_damage(problem):
                    raise
            self._connection.close()
            with self._alone():
                if self._path.exists() and self._path.stat().st_ino != self._inode:
                    self._connection = self._open()  # another process was faster
                else:
                    self._rescue()
            return work()

    def _rescue(self) -> None:
        """Move the damaged file away and what can be read of it to a new one."""
        aside = salvage.set_aside(self._path)
        self._connection = self._open()
        with _transaction(self._connection):
            kept = salvage.copy_readable(aside, self._connection)
        self.rescued = (
            f"{self._path}: the store was damaged; {kept['replies']:,} replies and "
            f"{kept['runs']:,} runs{_and_votes(kept['votes'])} could be read and are in a new one, "
            f"what is lost is asked again; the damaged file is kept as {aside.name}"
        )
        progress.say(self.rescued)

    def _set_up(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if version == SCHEMA_VERSION and not salvage.TABLES.keys() <= names:
            raise sqlite3.DatabaseError("it lacks tables")
        if version != SCHEMA_VERSION and (version or names):
            raise HarnessError(
                f"{self._path}: the store has version {version} and this program reads version "
                f"{SCHEMA_VERSION}; use the program that wrote it, or move the file away to start "
                "afresh"
            )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        if not version:
            with _transaction(connection):
                for statement in _SCHEMA:
                    connection.execute(statement)
        connection.execute(_REFUSALS)

    def _select(self, keys: list[str]) -> list[tuple[str, object]]:
        marks = ",".join("?" * len(keys))
        # Read as bytes: a damaged value need not be text.
        return self._connection.execute(
            f"SELECT key, CAST(value AS BLOB) FROM replies WHERE key IN ({marks})", keys
        ).fetchall()

    def _value(self, query: str, run: str) -> Any:
        rows = self._rows(query, run)
        try:
            return json.loads(rows[0][0])
        except (LookupError, TypeError, ValueError):
            raise self._damaged(f"the run {run} cannot be read") from None

    def _recorded(
        self, id_: str, digest: str, reply: str, suite: str, trial: int, scores: str
    ) -> Recorded:
        found = _decoded(reply)
        if found is None:
            raise self._damaged(f"a reply to the case {id_} cannot be read")
        kept = {metric: RecordedScore(**score) for metric, score in json.loads(scores).items()}
        return Recorded(id_, digest, found, suite, trial, kept)

    def _drop(self, keys: list[str]) -> None:
        if keys:
            self._write(("DELETE FROM replies WHERE key = ?", [(key,) for key in keys]))

    def _rows(self, query: str, *values: str) -> list[Any]:
        return self._safely(lambda: self._connection.execute(query, values).fetchall())

    def _write(self, *statements: tuple[str, Sequence[Sequence[object]]]) -> None:
        """Carry out each statement with all its rows of values, in one transaction."""

        def write() -> None:
            with _transaction(self._connection):
                for statement, rows in statements:
                    self._connection.executemany(statement, rows)

        self._safely(write)

    @contextmanager
    def _spoken(self) -> Iterator[None]:
        """Turn what SQLite and the file system complain about into a sentence."""
        try:
            yield
        except sqlite3.ProgrammingError:
            raise
        except sqlite3.DatabaseError as problem:
            raise self._sentence(problem) from None
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


def _is_damage(problem: sqlite3.DatabaseError) -> bool:
    name = getattr(problem, "sqlite_errorname", "")
    lacks = name in ("", "SQLITE_ERROR") and re.match("it lacks|no such table", str(problem))
    return name.startswith(_DAMAGE) or bool(lacks)


def _and_votes(count: int) -> str:
    return f" and {count:,} votes" if count else ""


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


def _json(value: object) -> str:
    return json.dumps(value, allow_nan=False)


def _arms_text(arms: Sequence[Arm]) -> str:
    from pydantic import TypeAdapter

    return TypeAdapter(tuple[Arm, ...]).dump_json(tuple(arms)).decode()


def _reply_row(run: str, model: str, one: Recorded) -> tuple[str | int, ...]:
    scores = _json({metric: as_table(score) for metric, score in one.scores.items()})
    key = (run, model, one.suite, one.id, one.trial)
    return (*key, one.digest, _encoded(one.reply), scores)


def _vote_row(vote: Vote, now: str) -> tuple[str, ...]:
    said = ("choice", "left_ships", "right_ships", "note")
    text = _json({name: getattr(vote, name) for name in said})
    return (vote.pair, vote.rater, vote.left, vote.right, text, now)


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
        table = json.loads(value)  # type: ignore[arg-type]
        return Reply(**{**table, "tool_calls": tuple(table["tool_calls"])})
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


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
