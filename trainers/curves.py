"""The result file of a hosted job -> loss curves."""

from __future__ import annotations

import base64
import binascii
import csv
import io
from collections.abc import Iterator, Mapping
from itertools import islice

from harness.records import LossPoint

MOST_STEPS = 200_000
"""Rows of a result file that are read."""

_TRAIN = ("train_loss", "training_loss")
_VALIDATION = ("full_valid_loss", "valid_loss", "validation_loss")
"""Headers, the most telling first: the loss of all validation rows before that of a batch."""

_MOST = 1e12
"""No step and no loss is larger."""


def losses_of(content: bytes, epochs: float | None) -> tuple[LossPoint, ...]:
    """Return the losses in a result file: CSV, plain or in base64, its columns found by name.

    `epochs` are those of the whole job. The losses are as the service computes them: they cannot
    be compared with those of a local training.

    Raises:
        ValueError: it is no table with steps and losses.

    """
    try:
        # Whatever ends the lines: some services write CR.
        reader = csv.DictReader(io.StringIO(_decoded(content), newline=None))
        rows = list(islice(reader, MOST_STEPS))
    except csv.Error as problem:
        raise ValueError(f"the result file is no CSV: {problem}") from None
    if not rows or "step" not in rows[0]:
        raise ValueError("the result file is no table of steps")
    last = max((step for row in rows if (step := _number(row, "step")) is not None), default=0.0)
    per_epoch = last / epochs if epochs and last else last or 1.0
    return tuple(_points(rows, per_epoch))


def _decoded(content: bytes) -> str:
    """Return the text of the file; base64 has no commas, a table has."""
    if b"," not in content:
        try:
            content = base64.b64decode(b"".join(content.split()), validate=True)
        except binascii.Error:
            raise ValueError("the result file is neither CSV nor base64") from None
    return content.decode("utf-8-sig", errors="replace")


def _points(rows: list[dict[str, str]], per_epoch: float) -> Iterator[LossPoint]:
    for row in rows:
        step = _number(row, "step")
        train, validation = _first(row, _TRAIN), _first(row, _VALIDATION)
        if step is not None and (train is not None or validation is not None):
            yield LossPoint(int(step), round(step / per_epoch, 4), train, validation)


def _first(row: Mapping[str, str], names: tuple[str, ...]) -> float | None:
    return next((value for name in names if (value := _number(row, name)) is not None), None)


def _number(row: Mapping[str, str], name: str) -> float | None:
    try:
        value = float(row.get(name) or "nan")
    except (TypeError, ValueError):
        return None
    # -1 is what services write where a loss was not computed.
    return value if 0 <= value < _MOST else None
