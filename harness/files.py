"""Files that users name: read whole, and only where reading them comes to an end."""

from __future__ import annotations

import stat
from pathlib import Path


def read_file(path: Path) -> bytes:
    """Return the content of the regular file `path`.

    A folder, a named pipe or a device is refused: some of them never end, others make who opens
    them wait forever.

    Raises:
        OSError: it cannot be read, or is not a regular file.
        ValueError: no path can hold what `path` holds (a null character).

    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise OSError("it is a directory" if stat.S_ISDIR(mode) else "it is not a regular file")
    return path.read_bytes()
