"""Numbers -> coordinates of the two small plots; the templates draw them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.records import Comparison, LossPoint, Rule

WHISKER_WIDTH = 220.0
CURVE_WIDTH, CURVE_HEIGHT = 520.0, 240.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 12.0, 14.0, 30.0
_BEYOND = 1e12
"""Numbers from here on have no place on an axis; an interval's end is drawn at the edge."""

_LOWEST_TOP = 1e-6


@dataclass(frozen=True, slots=True)
class Whisker:
    """Horizontal places of a difference, its interval, zero and the rule's bound."""

    zero: float
    dot: float
    low: float
    high: float
    bound: float | None


def whiskers(pairs: Sequence[tuple[Comparison, Rule]]) -> list[Whisker | None]:
    """Return a whisker for each comparison that has a difference.

    Differences of at most 1 share one scale, so that their whiskers can be compared; others have
    their own.
    """
    shared = _span(x for one, rule in pairs for x in _reach(one, rule) if _is_share(one))
    return [_whisker(one, rule, shared) for one, rule in pairs]


def _reach(compared: Comparison, rule: Rule) -> list[float]:
    found = [compared.difference, *(compared.interval or ()), _bound(rule)]
    return [x for x in found if x is not None and abs(x) < _BEYOND]


def _bound(rule: Rule) -> float | None:
    return -rule.margin if rule.margin is not None else rule.better_by


def _is_share(compared: Comparison) -> bool:
    return all(abs(x) <= 1 for x in _reach(compared, Rule()))


def _span(values: Iterable[float]) -> tuple[float, float]:
    known = [0.0, *values]
    low, high = min(known), max(known)
    pad = 0.08 * (high - low) or 0.1
    return low - pad, high + pad


def _whisker(compared: Comparison, rule: Rule, shared: tuple[float, float]) -> Whisker | None:
    if compared.difference is None or not abs(compared.difference) < _BEYOND:
        return None
    low, high = shared if _is_share(compared) else _span(_reach(compared, rule))

    def place(value: float) -> float:
        share = (min(max(value, low), high) - low) / (high - low)
        return round(share * WHISKER_WIDTH, 1)

    ends = compared.interval
    if ends is None or any(map(math.isnan, ends)):
        ends = (compared.difference, compared.difference)
    bound = _bound(rule)
    return Whisker(
        zero=place(0.0),
        dot=place(compared.difference),
        low=place(ends[0]),
        high=place(ends[1]),
        bound=place(bound) if bound is not None else None,
    )


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis: where, and the text beside it."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Curve:
    """A loss curve: SVG point lists, single points of the validation loss, and axes."""

    train: str
    validation: str
    dots: tuple[tuple[float, float], ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]


def curve(losses: Sequence[LossPoint]) -> Curve | None:
    """Return the curve of `losses`; None with fewer than two points."""
    train = _line((point.step, point.train) for point in losses)
    validation = _line((point.step, point.validation) for point in losses)
    points = [*train, *validation]
    if len(points) < 2:
        return None
    last = max(step for step, _ in points) or 1.0
    up = _ticks(0.0, max(_LOWEST_TOP, *(loss for _, loss in points)))
    top = up[-1]

    def place(step: float, loss: float) -> tuple[float, float]:
        x = _LEFT + step / last * (CURVE_WIDTH - _LEFT - _RIGHT)
        y = CURVE_HEIGHT - _BOTTOM - loss / top * (CURVE_HEIGHT - _TOP - _BOTTOM)
        return round(x, 1), round(y, 1)

    steps = [step for step in _ticks(0.0, last) if step <= last]
    return Curve(
        train=_joined([place(*point) for point in train]),
        validation=_joined([place(*point) for point in validation]),
        dots=tuple(place(*point) for point in validation),
        across=tuple(Tick(place(step, 0.0)[0], f"{step:g}") for step in steps),
        up=tuple(Tick(place(0.0, loss)[1], f"{loss:g}") for loss in up),
    )


def _line(points: Iterable[tuple[int, float | None]]) -> list[tuple[float, float]]:
    return [(step, y) for step, y in points if y is not None and 0 <= y < _BEYOND]


def _joined(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers from `low` to just beyond `high`."""
    rough = (high - low) / 4 or 1.0
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough)
    start, end = math.floor(low / step), math.ceil(high / step)
    return [round(place * step, 10) for place in range(start, end + 1)]
