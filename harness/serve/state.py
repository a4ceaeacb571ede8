"""What the server remembers over a restart: JSON objects in one SQLite file, and files beside it.

Everything is written whole or not at all.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


class State:
    """Objects of a kind by id, in the order in which they came; may be used by several threads.

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
            raise HarnessError(
                f"{folder}: the server cannot keep its files and jobs there: {problem}; "
                "make room or move the folder away"
            ) from None

    def put(self, kind: str, body: Mapping[str, Any], owner: str = "") -> None:
        """Store `body` under its `id`, in the place of what was there."""
        with self._lock:
            self._db.execute(
                "INSERT INTO object (id, kind, owner, body) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET body = excluded.body",
                (body["id"], kind, owner, json.dumps(body)),
            )

    def all(self, kind: str, owner: str = "") -> list[dict[str, Any]]:
        """Return the objects of a kind, the oldest first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT body FROM object WHERE kind = ? AND owner = ? ORDER BY place",
                (kind, owner),
            ).fetchall()
        return [json.loads(body) for (body,) in rows]

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """Return the object of a kind with this id."""
        with self._lock:
            row = self._db.execute(
                "SELECT body FROM object WHERE kind = ? AND id = ?", (kind, name)
            ).fetchone()
        return json.loads(row[0]) if row else None

    def delete(self, name: str) -> None:
        """Forget the object with this id."""
        with self._lock:
            self._db.execute("DELETE FROM object WHERE id = ?", (name,))

    def close(self) -> None:
        """Let another server have the folder."""
        with self._lock:
            self._db.close()
        self._owned.release()


def write_whole(path: Path, content: bytes) -> None:
    """Put `content` at `path` in one step."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
