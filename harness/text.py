"""Hostile text -> what a terminal may be given: everything that we print goes through `line`."""

from __future__ import annotations

import re
import unicodedata

_JOINERS = "\u200c\u200d"
"""Persian and emoji need them, and they cannot reorder or hide other text."""

_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-~]"
)


def visible(text: str) -> str:
    r"""Return `text` with control, bidi, zero-width and lone surrogate characters as `\uXXXX`.

    Line feeds and tabs stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_visible, text.replace("\r\n", "\n")))


def _visible(character: str) -> str:
    if character in "\n\t" or character in _JOINERS:
        return character
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        code = ord(character)
        return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return character


def line(text: str) -> str:
    """Return `text` as one line without terminal sequences, fit for a terminal or a table."""
    return " ".join(visible(_SEQUENCES.sub("", text)).split())
