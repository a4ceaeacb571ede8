"""Texts and numbers -> what people see."""

from __future__ import annotations

from harness.text import line

NOTHING = "\N{EN DASH}"
"""Stands for a figure that there is not."""


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
