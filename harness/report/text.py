"""Hostile text and numbers -> what people may see."""

from __future__ import annotations

import re
import unicodedata

NOTHING = "\N{EN DASH}"
"""Stands for a figure that there is not."""

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


def short(name: str) -> str:
    """Return `name` as one line of at most 80 characters."""
    name = line(name)
    return name if len(name) <= 80 else f"{name[:79]}\N{HORIZONTAL ELLIPSIS}"


def sentence(text: str) -> str:
    """Return `text` with a full stop."""
    return text if text.endswith((".", "!", "?")) else f"{text}."


def number(value: float | None, digits: int = 2) -> str:
    """Return `value` for people; a number is never rounded to 0 or 1 that is not.

    Two digits after the point (`digits`) under 10, fewer above; `NOTHING` for None.
    """
    if value is None:
        return NOTHING
    value = round(value, 9) + 0.0
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.{1 if value % 1 else 0}f}"
    while digits < 6 and value % 1 and float(f"{value:.{digits}f}") % 1 == 0:
        digits += 1
    return f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 2) -> str:
    """Return a difference with its sign."""
    if value is None:
        return NOTHING
    return f"+{number(value, digits)}" if value > 0 else number(value, digits)


def interval(bounds: tuple[float, float] | None, digits: int = 2) -> str:
    """Return an interval of a difference, in brackets."""
    if bounds is None:
        return ""
    return f"[{signed(bounds[0], digits)}, {signed(bounds[1], digits)}]"


def whole(value: float | None) -> str:
    """Return a mean of counts without decimals."""
    return NOTHING if value is None else f"{value:,.0f}"


def p_value(value: float | None) -> str:
    """Return a p value: three digits, or that it is smaller."""
    if value is None:
        return NOTHING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def seconds(value: float | None) -> str:
    """Return a duration in the unit that people would take."""
    if value is None:
        return NOTHING
    if value < 1:
        return f"{value * 1000:.{0 if value >= 0.01 else 1}f} ms"
    if value < 120:
        return f"{value:.{1 if value < 10 else 0}f} s"
    return f"{value / 60:.0f} min"


def dollars(value: float | None) -> str:
    """Return a cost in US dollars."""
    if value is None:
        return NOTHING
    return f"${value:.2f}" if value >= 1 or not value else f"${value:.3g}"


def percent_change(before: float | None, after: float | None) -> str:
    """Return how much `after` is above or below `before`, as a signed percentage."""
    if not before or after is None:
        return ""
    return f"{100 * (after - before) / before:+.0f} %"


def plural(count: int, noun: str) -> str:
    """Return "1 case", "2 cases"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
