"""`/v1/files`: what clients upload, and the result files of jobs.

A file's content lies under its id; its name is data and never becomes a path.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.serve.state import State, write_whole
from harness.serve.wire import ProtocolError, Wire, new_id, now

PURPOSES = ("assistants", "batch", "fine-tune", "user_data", "vision")
"""What clients may upload files for; only `fine-tune` is of use here."""

LONGEST_NAME = 255
SHORTEST_LIFE_S, LONGEST_LIFE_S = 3_600, 2_592_000


@dataclass(frozen=True)
class Files:
    """The files of one server."""

    state: State

    def add(self, content: bytes, name: str, purpose: str, life_s: int | None = None) -> Wire:
        """Store a file and return it as the protocol shows it; it is forgotten after `life_s`."""
        created = now()
        file: Wire = {
            "id": new_id("file-"),
            "object": "file",
            "bytes": len(content),
            "created_at": created,
            "filename": _plain(name),
            "purpose": purpose,
            "status": "processed",
        }
        if life_s is not None:
            file["expires_at"] = created + life_s
        write_whole(self._path(file), content)
        self.state.put("file", file)
        return file

    def find(self, name: str) -> Wire:
        """Return the file with this id; ProtocolError (404) if there is none."""
        file = self.state.get("file", name)
        if file is None or self._is_over(file):
            raise ProtocolError(404, f"No such File object: {name[:80]}", param="id")
        return file

    def content(self, name: str) -> bytes:
        """Return what the file with this id holds; ProtocolError (404) if there is none."""
        try:
            return self._path(self.find(name)).read_bytes()
        except FileNotFoundError:
            raise ProtocolError(404, f"No such File object: {name[:80]}", param="id") from None

    def all(self) -> list[Wire]:
        """Return all files, the oldest first."""
        return [file for file in self.state.all("file") if not self._is_over(file)]

    def delete(self, name: str) -> None:
        """Delete the file with this id; ProtocolError (404) if there is none."""
        self._forget(self.find(name))

    def sweep(self) -> None:
        """Delete what a killed server left: contents that no file speaks of."""
        known = {self._path(file) for file in self.all()}
        for path in (self.state.folder / "files").iterdir():
            if path not in known:
                path.unlink(missing_ok=True)

    def _is_over(self, file: Wire) -> bool:
        if file.get("expires_at", now()) >= now():
            return False
        self._forget(file)
        return True

    def _forget(self, file: Wire) -> None:
        self.state.delete(file["id"])
        self._path(file).unlink(missing_ok=True)

    def _path(self, file: Wire) -> Path:
        return self.state.folder / "files" / str(file["id"])


def _plain(name: str) -> str:
    """Return a file name that can be shown: without folders and control characters."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    shown = "".join(character for character in last if character.isprintable())
    return shown[:LONGEST_NAME] or "upload"


def life_of(form: Any) -> int | None:
    """Return the seconds of `expires_after`; ProtocolError (400) if they are wrong."""
    text = form.get("expires_after[seconds]")
    if text is None:
        return None
    if not str(text).isdigit() or not SHORTEST_LIFE_S <= int(text) <= LONGEST_LIFE_S:
        raise ProtocolError(
            400,
            f"Invalid 'expires_after.seconds': expected {SHORTEST_LIFE_S} to {LONGEST_LIFE_S}.",
            param="expires_after",
        )
    return int(text)


async def upload(form: Any, files: Files, most: int) -> Wire:
    """Store the file of an upload.

    Raises:
        ProtocolError: something is missing or wrong (400), or the file is too large (413).

    """
    from starlette.concurrency import run_in_threadpool
    from starlette.datastructures import UploadFile

    purpose, file = form.get("purpose"), form.get("file")
    if not isinstance(file, UploadFile):
        raise ProtocolError(400, "'file' is a required property", param="file")
    if purpose not in PURPOSES:
        raise ProtocolError(
            400,
            f"{str(purpose)[:40]!r} is not one of {list(PURPOSES)} - 'purpose'",
            param="purpose",
        )
    content = await file.read(most + 1)
    if len(content) > most:
        raise ProtocolError(
            413,
            f"The file is too large: this server takes files of at most {most:,} bytes.",
            param="file",
            code="file_too_large",
        )
    if not content:
        raise ProtocolError(400, "The uploaded file is empty.", param="file")
    name, life_s = file.filename or "", life_of(form)
    return await run_in_threadpool(files.add, content, name, purpose, life_s)
