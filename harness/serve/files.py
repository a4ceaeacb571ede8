"""`/v1/files`: what clients upload, and the result files of jobs.

A file's content lies under its id; its name is data and never becomes a path.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from harness.serve.state import State, storing, write_whole
from harness.serve.wire import ProtocolError, Wire, new_id, now

PURPOSES = ("assistants", "batch", "fine-tune", "user_data", "vision")
"""What clients may upload files for; only `fine-tune` is of use here."""

MOST_FILES = 10_000
MOST_FULL = 100
"""Files of the largest size that the server keeps, or as many bytes in smaller ones."""

LONGEST_NAME = 255
_FIELDS = {"file", "purpose", "expires_after[anchor]", "expires_after[seconds]"}
SHORTEST_LIFE_S, LONGEST_LIFE_S = 3_600, 2_592_000


@dataclass(frozen=True)
class Files:
    """The files of one server."""

    state: State

    def add(self, source: BinaryIO, name: str, purpose: str, life_s: int | None = None) -> Wire:
        """Store a file and return it as the protocol shows it; it is forgotten after `life_s`."""
        created = now()
        file: Wire = {
            "id": new_id("file-"),
            "object": "file",
            "bytes": source.seek(0, os.SEEK_END),
            "created_at": created,
            "filename": _plain(name),
            "purpose": purpose,
            "status": "processed",
        }
        if life_s is not None:
            file["expires_at"] = created + life_s
        source.seek(0)
        write_whole(self._path(file), source)
        self.state.put("file", file)
        return file

    def find(self, name: str) -> Wire:
        """Return the file with this id; ProtocolError (404) if there is none."""
        file = self.state.get("file", name)
        if file is None or self._is_over(file):
            raise ProtocolError(404, f"No such File object: {name[:80]}", param="id")
        return file

    def path(self, name: str) -> Path:
        """Return where the content of the file with this id lies, or raise ProtocolError (404)."""
        path = self._path(self.find(name))
        if not path.is_file():
            raise ProtocolError(404, f"No such File object: {name[:80]}", param="id")
        return path

    def content(self, name: str) -> bytes:
        """Return what the file with this id holds; ProtocolError (404) if there is none."""
        with storing():
            return self.path(name).read_bytes()

    def refuse_more(self, size: int, most: int) -> None:
        """Raise ProtocolError (400) if `size` bytes more are too many; `most` are those of a file.

        Two uploads at once may both find the last room.
        """
        files = self.all()
        if (
            len(files) >= MOST_FILES
            or sum(file["bytes"] for file in files) + size > MOST_FULL * most
        ):
            raise ProtocolError(
                400,
                f"This server keeps at most {MOST_FILES:,} files and {MOST_FULL * most:,} bytes; "
                "delete files that are of no use any more.",
                param="file",
                code="storage_limit_exceeded",
            )

    def all(self) -> list[Wire]:
        """Return all files, the oldest first."""
        return [file for file in self.state.all("file") if not self._is_over(file)]

    def delete(self, name: str) -> None:
        """Delete the file with this id; ProtocolError (404) if there is none."""
        self._forget(self.find(name))

    def sweep(self) -> None:
        """Delete what a killed server left: contents that no file speaks of."""
        known = {self._path(file) for file in self.all()}
        with storing():
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
        with storing():
            self._path(file).unlink(missing_ok=True)

    def _path(self, file: Wire) -> Path:
        return self.state.folder / "files" / str(file["id"])


def _plain(name: str) -> str:
    """Return a file name that can be shown: without folders and control characters."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    shown = "".join(character for character in last if character.isprintable())
    return shown[:LONGEST_NAME] or "upload"


def _life_of(form: Any) -> int | None:
    """Return the seconds of `expires_after`; ProtocolError (400) if they are wrong."""
    if form.get("expires_after[anchor]", "created_at") != "created_at":
        raise ProtocolError(
            400,
            "Invalid 'expires_after.anchor': expected 'created_at'.",
            param="expires_after.anchor",
        )
    text = form.get("expires_after[seconds]")
    if text is None:
        return None
    if not _is_life(str(text)):
        raise ProtocolError(
            400,
            f"Invalid 'expires_after.seconds': expected {SHORTEST_LIFE_S} to {LONGEST_LIFE_S}.",
            param="expires_after.seconds",
        )
    return int(text)


def _is_life(text: str) -> bool:
    # Of a longer text the number would be too large in any case.
    return text.isascii() and text.isdigit() and SHORTEST_LIFE_S <= int(text[:9]) <= LONGEST_LIFE_S


def upload(form: Any, files: Files, most: int) -> Wire:
    """Store the file of an upload.

    Raises:
        ProtocolError: something is missing or wrong (400), or the file is too large (413).

    """
    from starlette.datastructures import UploadFile

    if unknown := sorted(set(form) - _FIELDS):
        raise ProtocolError(
            400,
            f"Unrecognized request argument supplied: {unknown[0][:80]}",
            param=unknown[0][:80],
            code="unknown_parameter",
        )
    purpose, file = form.get("purpose"), form.get("file")
    if not isinstance(file, UploadFile):
        raise ProtocolError(400, "'file' is a required property", param="file")
    if purpose not in PURPOSES:
        raise ProtocolError(
            400,
            f"{str(purpose)[:40]!r} is not one of {list(PURPOSES)} - 'purpose'",
            param="purpose",
        )
    size = file.size or 0
    if size > most:
        raise ProtocolError(
            413,
            f"The file is too large: this server takes files of at most {most:,} bytes.",
            param="file",
            code="file_too_large",
        )
    if not size:
        raise ProtocolError(400, "The uploaded file is empty.", param="file")
    life_s = _life_of(form)
    files.refuse_more(size, most)
    return files.add(file.file, file.filename or "", purpose, life_s)
