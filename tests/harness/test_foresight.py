"""Which schemas a test function names is known before it runs."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from harness.foresight import schemas_of

NAMED = Path("data/named.json")
GIVEN = {"type": "object"}


class Model:
    """A class with a method of the same name, as libraries of data models have."""

    @staticmethod
    def json_schema(mode: str) -> str:
        """Return something that is no schema."""
        return mode


def by_text(score: Any) -> None:
    if score:
        score.json_schema("data/a.json", name="other")


def by_name(score: Any) -> None:
    score.json_schema(NAMED)
    score.json_schema(name="again", schema=GIVEN)


def through_helpers(score: Any) -> None:
    _first(score)


def _first(desk: Any) -> None:
    _second(desk)


def _second(desk: Any) -> None:
    desk.json_schema("data/deep.json")


def by_parameter(score: Any, schema: str) -> None:
    score.json_schema(schema)


def computed(score: Any, schema: str) -> None:
    schema = f"data/{schema}"
    score.json_schema(schema)
    score.json_schema(f"data/{schema}")
    score.json_schema(Model.json_schema("validation"))


def recursive(score: Any) -> None:
    recursive(score)


@functools.wraps(by_text)
def decorated(score: Any) -> None:
    by_text(score)


def enclosed() -> Any:
    inner = "data/inner.json"

    def test(score: Any) -> None:
        score.json_schema(inner)

    return test


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (by_text, ["data/a.json"]),
        (by_name, [NAMED, GIVEN]),
        (through_helpers, ["data/deep.json"]),
        (by_parameter, ["given.json"]),
        (computed, []),
        (recursive, []),
        (decorated, ["data/a.json"]),
        (enclosed(), ["data/inner.json"]),
        (len, []),
    ],
)
def test_schemas_are_known_where_they_stand_in_the_source(function: Any, found: list[Any]) -> None:
    assert list(schemas_of(function, {"schema": "given.json"})) == found
