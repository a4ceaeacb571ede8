"""Loss curves -> findings: what a training shows, and what to change, with a number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from harness.records import LossPoint

APART = 1.5
"""Validation loss above so many times the training loss: the candidate overfits."""

MEMORISED = 0.02
"""A training loss under it leaves nothing to learn: the rows are known by heart."""

FLAT = 0.02
"""A training loss that falls by less than this share did not learn."""

RISE = 0.02
"""A validation loss this share above its lowest has risen."""

_FEWEST = 5
"""Logged training losses below which a curve says nothing."""


def findings(losses: Sequence[LossPoint], settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what the curves of a training show, each with its remedy and a number.

    `settings` are the hyperparameters of the recipe, by the names of its trainer: with
    `learning_rate_multiplier` it is a hosted one.
    """
    train = [point.train for point in losses if point.train is not None]
    if len(train) < _FEWEST:
        return ()
    part = max(1, len(train) // 5)
    first, last = fmean(train[:part]), fmean(train[-part:])
    checked = [point for point in losses if point.validation is not None]
    return (*_overfit(checked, last, settings), *_stuck(first, last, settings))


def _overfit(
    checked: Sequence[LossPoint], train: float, settings: Mapping[str, Any]
) -> Iterator[str]:
    if not checked:
        return
    values = [float(point.validation or 0.0) for point in checked]
    best = min(range(len(values)), key=values.__getitem__)
    if values[-1] > values[best] * (1 + RISE):
        turn = max(1, round(checked[best].epoch))
        yield (
            f"overfit: the validation loss rose from {values[best]:.3g} (epoch "
            f"{checked[best].epoch:.2g}) to {values[-1]:.3g}; set epochs = {turn}, "
            f"{_softer(settings)}"
        )
    elif values[best] > APART * train and train >= MEMORISED:
        yield (
            f"overfit: the validation loss ({values[best]:.3g}) is {values[best] / train:.1f} "
            f"times the training loss; add training rows (twice as many), {_softer(settings)}"
        )


def _stuck(first: float, last: float, settings: Mapping[str, Any]) -> Iterator[str]:
    if last < MEMORISED:
        yield (
            f"memorised: the training loss ends at {last:.2g}; add training rows (twice as many) "
            f"or halve the epochs, {_softer(settings)}"
        )
    elif last > first * (1 - FLAT):
        yield (
            f"not learning: the training loss stayed at {last:.3g} (it began at {first:.3g}); "
            f"{_faster(settings)}"
        )


def _softer(settings: Mapping[str, Any]) -> str:
    if "learning_rate_multiplier" in settings:
        now = settings["learning_rate_multiplier"]
        is_rate = now is None or (isinstance(now, float) and now < 0.02)
        return f"or halve learning_rate_multiplier{'' if is_rate else ' (down to 0.02)'}"
    if settings.get("rank"):
        return f"or set dropout = 0.1 and rank = {max(1, settings['rank'] // 2)}"
    return f"or set learning_rate = {settings.get('learning_rate', 2e-5) / 2:g}"


def _faster(settings: Mapping[str, Any]) -> str:
    if "learning_rate_multiplier" in settings:
        now = settings["learning_rate_multiplier"]
        if now is None:
            return "raise learning_rate_multiplier"
        return f"set learning_rate_multiplier = {2 * now if isinstance(now, float) else 2.0:g}"
    return f"set learning_rate = {2.5 * settings.get('learning_rate', 2e-4):g}"
