"""One SQLite file: the replies that were paid for, and the runs.

WAL, no implicit transactions, `BEGIN IMMEDIATE` for every write: with deferred transactions four
writers lose most of their writes to "database is locked".
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from filelock import FileLock

from harness.records import (
    Arm,
    EvidenceError,
    HarnessError,
    Recorded,
    RecordedScore,
    Reply,
    as_table,
)

SCHEMA_VERSION = 2
BUSY_SECONDS = 30.0

_KEYS_PER_QUERY = 500  # SQLite takes at most 999 variables where it is old
_SCHEMA = (
    "CREATE TABLE replies"
    " (key TEXT PRIMARY KEY, model TEXT NOT NULL, value TEXT NOT NULL, created TEXT NOT NULL)",
    # The cases are apart from the rest of the results: a list of runs does not read them.
    "CREATE TABLE runs (id TEXT PRIMARY KEY, started TEXT NOT NULL, results TEXT NOT NULL,"
    " cases TEXT NOT NULL, arms TEXT NOT NULL)",
    "CREATE TABLE run_replies"
    " (run TEXT NOT NULL REFERENCES runs (id), model TEXT NOT NULL, suite TEXT NOT NULL,"
    " case_id TEXT NOT NULL, trial INTEGER NOT NULL, digest TEXT NOT NULL, reply TEXT NOT NULL,"
    " scores TEXT NOT NULL, PRIMARY KEY (run, model, suite, case_id, trial)) WITHOUT ROWID",
    "CREATE TABLE promotions (number INTEGER PRIMARY KEY, run TEXT NOT NULL REFERENCES runs (id),"
    " model TEXT NOT NULL, promoted TEXT NOT NULL)",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
_UNUSABLE = tuple(
    f"SQLITE_{name}" for name in ("BUSY", "LOCKED", "READONLY", "FULL", "CANTOPEN", "PERM", "AUTH")
)
_NETWORK = re.compile(
    r"nfs\d*|cifs|smb\d*|smbfs|ncpfs|afs|ceph|glusterfs|lustre|beegfs|gpfs|"
    r"fuse\.(sshfs|s3fs|rclone|gcsfuse|goofys|davfs2?|glusterfs|ceph.*|smbnetfs|blobfuse2?|juicefs)"
)


@dataclass(frozen=True, slots=True)
class Promotion:
    """A candidate of a run that became the champion; `promoted` is when (ISO 8601)."""

    run: str
    model: str
    promoted: str


class Store:
    """The replies and the runs in the SQLite file `path`, which is made where it is missing.

    Any number of processes may write to one file; an object belongs to the thread that made it.

    Raises:
        HarnessError: the file lies on a network file system, cannot be opened, or is no store of
            this version.
        EvidenceError: the file is damaged; also from every method.

    """

    def __init__(self, path: Path) -> None:
        self._path = path
        _refuse_network(path)
        self._connection = self._open()

    def replies(self, keys: Iterable[str]) -> dict[str, Reply]:
        """Return the stored replies among `keys`; a damaged one is dropped, to be asked again."""
        wanted = list(dict.fromkeys(keys))
        values: dict[str, object] = {}
        with self._spoken():
            for start in range(0, len(wanted), _KEYS_PER_QUERY):
                values.update(self._select(wanted[start : start + _KEYS_PER_QUERY]))
        found = {key: _decoded(value) for key, value in values.items()}
        self._drop([key for key, reply in found.items() if reply is None])
        return {key: reply for key, reply in found.items() if reply is not None}

    def put_replies(self, replies: Mapping[str, Reply], model: str = "") -> None:
        """Store `replies` (key -> reply) of the model with the spec `model` in one transaction."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        rows = [(key, model, _encoded(reply), now) for key, reply in replies.items()]
        with self._writing():
            self._connection.executemany("INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?)", rows)

    def add_run(
        self,
        results: Mapping[str, Any],
        arms: Sequence[Arm] = (),
        replies: Mapping[str, Iterable[Recorded]] = MappingProxyType({}),
    ) -> None:
        """Store a run in one transaction.

        `results` are those of `results.json`, `arms` its models, `replies` maps each model to what
        it replied to the cases.
        """
        run, rest = results["run_id"], {key: results[key] for key in results if key != "cases"}
        row = (run, results["started"], _json(rest), _json(results["cases"]), _arms_text(arms))
        rows = [
            _reply_row(run, model, one) for model, recorded in replies.items() for one in recorded
        ]
        with self._writing():
            self._connection.execute("INSERT INTO runs VALUES (?, ?, ?, ?, ?)", row)
            self._connection.executemany(
                "INSERT INTO run_replies VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows
            )

    def run_ids(self, *, answered: bool = False) -> list[str]:
        """Return the ids of all runs, the oldest first; `answered`: of those with replies."""
        condition = "WHERE id IN (SELECT run FROM run_replies)" if answered else ""
        with self._spoken():
            rows = self._connection.execute(f"SELECT id FROM runs {condition} ORDER BY started, id")
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
        with self._spoken():
            rows = self._connection.execute(
                "SELECT DISTINCT model FROM run_replies WHERE run = ? ORDER BY model", (run,)
            )
            return [model for (model,) in rows]

    def run_replies(self, run: str, model: str) -> tuple[Recorded, ...]:
        """Return what `model` replied in `run`, by suite and case."""
        with self._spoken():
            rows = self._connection.execute(
                "SELECT case_id, digest, reply, suite, trial, scores FROM run_replies"
                " WHERE run = ? AND model = ? ORDER BY suite, case_id, trial",
                (run, model),
            ).fetchall()
        return tuple(self._recorded(*row) for row in rows)

    def promote(self, run: str, model: str) -> None:
        """Make `model` of `run` the champion."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with self._writing():
            self._connection.execute(
                "INSERT INTO promotions (run, model, promoted) VALUES (?, ?, ?)", (run, model, now)
            )

    def champion(self) -> Promotion | None:
        """Return the last promotion."""
        with self._spoken():
            row = self._connection.execute(
                "SELECT run, model, promoted FROM promotions ORDER BY number DESC LIMIT 1"
            ).fetchone()
        return Promotion(*row) if row else None

    def close(self) -> None:
        """Close the file; closing twice does no harm."""
        self._connection.close()

    def _open(self) -> sqlite3.Connection:
        with self._spoken():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Switching a new file to WAL ignores the busy timeout: one process at a time.
            with FileLock(f"{self._path}.lock"):
                connection = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None)
                try:
                    self._set_up(connection)
                except BaseException:
                    connection.close()
                    raise
        return connection

    def _set_up(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if version != SCHEMA_VERSION and (version or tables):
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

    def _select(self, keys: list[str]) -> list[tuple[str, object]]:
        marks = ",".join("?" * len(keys))
        # Read as bytes: a damaged value need not be text.
        return self._connection.execute(
            f"SELECT key, CAST(value AS BLOB) FROM replies WHERE key IN ({marks})", keys
        ).fetchall()

    def _value(self, query: str, run: str) -> Any:
        with self._spoken():
            row = self._connection.execute(query, (run,)).fetchone()
        try:
            return json.loads(row[0])
        except (TypeError, ValueError):
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
            with self._writing():
                self._connection.executemany(
                    "DELETE FROM replies WHERE key = ?", [(key,) for key in keys]
                )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._spoken(), _transaction(self._connection):
            yield

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
