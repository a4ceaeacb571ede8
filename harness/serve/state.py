"""What the server remembers over a restart: JSON objects in one SQLite file, and files beside it.

Everything is written whole or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from harness.records import HarnessError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS object (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    owner TEXT NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS object_kind ON object (kind, owner);
"""


class StorageError(HarnessError):
    """The disk is full, cannot be written, or holds something else than was written."""


class State:
    """Objects of a kind by id, in the order in which they came; may be used by several threads.

    Every method raises StorageError where the disk fails.

    Raises:
        HarnessError: another server has the folder, or it cannot be written.

    """

    def __init__(self, folder: Path) -> None:
        from filelock import FileLock, Timeout

        self.folder = folder
        self._lock = threading.Lock()
        self._owned = FileLock(folder / "server.lock", thread_local=False)
        try:
            (folder / "files").mkdir(parents=True, exist_ok=True)
            self._owned.acquire(timeout=0)
            self._db = sqlite3.connect(
                folder / "state.sqlite", isolation_level=None, check_same_thread=False
            )
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.executescript(_SCHEMA)
        except Timeout:
            raise HarnessError(
                f"{folder}: another `harness serve` of this project is running; use that one, "
                "or end it first"
            ) from None
        except (OSError, sqlite3.Error) as problem:
            raise StorageError(
                f"{folder}: the server cannot keep its files and jobs there: {problem}; "
                "make room or move the folder away"
            ) from None

    def put(self, kind: str, body: Mapping[str, Any], owner: str = "") -> None:
        """Store `body` under its `id`, in the place of what was there."""
        self._do(
            "INSERT INTO object (id, kind, owner, body) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (id) DO UPDATE SET body = excluded.body",
            (body["id"], kind, owner, json.dumps(body)),
        )

    def all(self, kind: str, owner: str = "") -> list[dict[str, Any]]:
        """Return the objects of a kind, the oldest first; what is damaged is left out."""
        rows = self._do(
            "SELECT body FROM object WHERE kind = ? AND owner = ? ORDER BY place", (kind, owner)
        )
        return [found for (body,) in rows if (found := _object(body)) is not None]

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """Return the object of a kind with this id."""
        rows = self._do("SELECT body FROM object WHERE kind = ? AND id = ?", (kind, name))
        return _object(rows[0][0]) if rows else None

    def delete(self, name: str) -> None:
        """Forget the object with this id."""
        self._do("DELETE FROM object WHERE id = ?", (name,))

    def _do(self, statement: str, values: tuple[str, ...]) -> list[tuple[Any, ...]]:
        try:
            with self._lock:
                return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as problem:
            raise _failed(str(problem)) from None

    def close(self) -> None:
        """Let another server have the folder."""
        with self._lock:
            self._db.close()
        self._owned.release()


def _object(body: object) -> dict[str, Any] | None:
    """Return the JSON object in `body`; None if something has damaged it."""
    try:
        found = json.loads(str(body))
    except ValueError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("id"), str) else None


def _failed(reason: str) -> StorageError:
    return StorageError(
        f"the server cannot store or read this: {reason}; make room in the project's .harness "
        "folder, or let it be written"
    )


@contextmanager
def storing() -> Iterator[None]:
    """Make a StorageError of what the disk says."""
    try:
        yield
    except OSError as problem:
        raise _failed(problem.strerror or type(problem).__name__) from None


def write_whole(path: Path, source: BinaryIO) -> None:
    """Put what `source` holds at `path` in one step; StorageError if that fails."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        with storing():
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                shutil.copyfileobj(source, file)
            os.replace(partial, path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
