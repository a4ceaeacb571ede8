"""What an exception of a test or of its fixtures says: that the reply is wrong, or the test is."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import unwrap
from types import CodeType, FrameType, TracebackType
from typing import Any

import pytest

_TIME_LIMIT = "pytest_timeout"
"""The plugin that ends a test which takes too long by pytest.fail: no word on the reply."""


def is_assertion(problem: BaseException) -> bool:
    """Whether `problem` says that something asserted of the reply does not hold.

    That is an AssertionError, what pytest.fail and pytest.xfail raise, or a group of nothing else.
    """
    if isinstance(problem, BaseExceptionGroup):
        return all(map(is_assertion, problem.exceptions))
    if isinstance(problem, pytest.fail.Exception):
        modules = (frame.f_globals.get("__name__") for frame in _frames(problem.__traceback__))
        return _TIME_LIMIT not in modules
    return isinstance(problem, AssertionError)


def is_said_by(function: Any, problem: BaseException) -> bool:
    """Whether `problem` is an assertion of the test `function`.

    pytest itself calls pytest.fail for a test that it cannot run, such as an async one.
    """
    if not isinstance(problem, pytest.fail.Exception):
        return is_assertion(problem)
    raised_in = {frame.f_code for frame in _frames(problem.__traceback__)}
    return is_assertion(problem) and not raised_in.isdisjoint(_codes(function))


def comes_from(item: pytest.Item, problem: BaseException, fixtures: frozenset[str]) -> bool:
    """Whether `problem` was raised in a fixture of `item` that uses one of `fixtures`.

    Or in a function that such a fixture, or the test itself, defines and leaves for the end.
    """
    if isinstance(problem, BaseExceptionGroup):
        return all(comes_from(item, one, fixtures) for one in problem.exceptions)
    raised_in = {frame.f_code for frame in _frames(problem.__traceback__)}
    return not raised_in.isdisjoint(_code_that_uses(item, fixtures))


def _frames(traceback: TracebackType | None) -> Iterator[FrameType]:
    while traceback:
        yield traceback.tb_frame
        traceback = traceback.tb_next


def _code_that_uses(item: pytest.Item, fixtures: frozenset[str]) -> set[CodeType]:
    info = getattr(item, "_fixtureinfo", None)
    definitions = info.name2fixturedefs if info else {}
    users = set(fixtures)
    while more := {
        name
        for name, found in definitions.items()
        if name not in users and any(_asks_for(fixture, users) for fixture in found)
    }:
        users |= more
    functions = [
        fixture.func
        for found in definitions.values()
        for fixture in found
        if _asks_for(fixture, users)
    ]
    test = [getattr(item, "function", None)] if users & set(getattr(info, "argnames", ())) else []
    return {code for function in (*functions, *test) for code in _codes(function)}


def _asks_for(fixture: Any, names: set[str]) -> bool:
    """Whether `fixture` asks for one of the fixtures `names`.

    One that asks at run time (`request.getfixturevalue("reply")`) holds its name as a constant.
    """
    asked = set(fixture.argnames)
    if "request" in asked:
        asked.update(_code(fixture.func).co_consts)
    return not asked.isdisjoint(names)


def _codes(function: Any) -> Iterator[CodeType]:
    """Yield the code of `function`, of what it wraps, and of the functions defined in them."""
    while function is not None:
        yield from _with_inner(_own_code(function))
        function = getattr(function, "__wrapped__", None)


def _with_inner(code: CodeType) -> Iterator[CodeType]:
    """Yield `code` and that of the functions defined in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _with_inner(constant)


def _code(function: Any) -> CodeType:
    """Return the code of a fixture's function; of something else that can be called, none."""
    return _own_code(unwrap(getattr(function, "__func__", function)))


def _own_code(function: Any) -> CodeType:
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return code if isinstance(code, CodeType) else compile("", "", "exec")
