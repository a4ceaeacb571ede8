"""One SQLite file: the replies that were paid for, and the runs.

WAL, no implicit transactions, `BEGIN IMMEDIATE` for every write: with deferred transactions four
writers lose most of their writes to "database is locked".
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock

from harness.records import EvidenceError, HarnessError, Reply

SCHEMA_VERSION = 1
BUSY_SECONDS = 30.0

_KEYS_PER_QUERY = 500  # SQLite takes at most 999 variables where it is old
_SCHEMA = (
    "CREATE TABLE replies"
    " (key TEXT PRIMARY KEY, model TEXT NOT NULL, value TEXT NOT NULL, created TEXT NOT NULL)",
    "CREATE TABLE runs (id TEXT PRIMARY KEY, started TEXT NOT NULL, value TEXT NOT NULL)",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
_UNUSABLE = tuple(
    f"SQLITE_{name}" for name in ("BUSY", "LOCKED", "READONLY", "FULL", "CANTOPEN", "PERM", "AUTH")
)
_NETWORK = re.compile(
    r"nfs\d*|cifs|smb\d*|smbfs|ncpfs|afs|ceph|glusterfs|lustre|beegfs|gpfs|"
    r"fuse\.(sshfs|s3fs|rclone|gcsfuse|goofys|davfs2?|glusterfs|ceph.*|smbnetfs|blobfuse2?|juicefs)"
)


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

    def add_run(self, run_id: str, started: str, value: str) -> None:
        """Store a run: its id, when it started (ISO 8601) and its results as JSON text."""
        with self._writing():
            self._connection.execute(
                "INSERT OR REPLACE INTO runs VALUES (?, ?, ?)", (run_id, started, value)
            )

    def runs(self) -> list[tuple[str, str, str]]:
        """Return (id, started, results as JSON text) of every run, the oldest first."""
        with self._spoken():
            return self._connection.execute(
                "SELECT id, started, value FROM runs ORDER BY started, id"
            ).fetchall()

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


def _encoded(reply: Reply) -> str:
    return json.dumps(asdict(reply), allow_nan=False)


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
