"""What test functions will do, as far as their source says it before they run."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any


def schemas_of(
    function: Callable[..., object], parameters: Mapping[str, object]
) -> Iterator[str | Path | Mapping[str, Any]]:
    """Yield the schemas that a test function gives to `score.json_schema`.

    Its module's functions that it calls count too. Known are texts and names: of the module, of an
    enclosing function, of the test's `parameters`. What else is computed is known when it runs.
    """
    for called in _with_helpers(inspect.unwrap(function), set()):
        names = _known_names(called, parameters)
        for argument in _schema_arguments(called, names):
            value = names.get(argument.id) if isinstance(argument, ast.Name) else None
            value = argument.value if isinstance(argument, ast.Constant) else value
            if isinstance(value, str | Path | Mapping):
                yield value
        parameters = {}


def _with_helpers(function: object, seen: set[object]) -> Iterator[FunctionType]:
    function = getattr(function, "__func__", function)
    if not isinstance(function, FunctionType) or function in seen:
        return
    seen.add(function)
    yield function
    for value in inspect.getclosurevars(function).globals.values():
        if getattr(value, "__module__", None) == function.__module__:
            yield from _with_helpers(value, seen)


def _known_names(function: FunctionType, parameters: Mapping[str, object]) -> dict[str, object]:
    """Return what names stand for in `function`, but for those that it assigns itself."""
    found = inspect.getclosurevars(function)
    nodes = [node for node in _nodes(function) if isinstance(node, ast.Name)]
    assigned = {node.id for node in nodes if isinstance(node.ctx, ast.Store)}
    names = {**found.globals, **found.nonlocals, **parameters}
    return {name: value for name, value in names.items() if name not in assigned}


def _schema_arguments(function: FunctionType, names: Mapping[str, object]) -> Iterator[ast.expr]:
    for node in _nodes(function):
        if isinstance(node, ast.Call) and _is_check(node.func, names):
            yield from node.args[:1]
            yield from (word.value for word in node.keywords if word.arg == "schema")


def _is_check(called: ast.expr, names: Mapping[str, object]) -> bool:
    """Whether this is `score.json_schema`, by whatever local name; no class of the module's."""
    return (
        isinstance(called, ast.Attribute)
        and called.attr == "json_schema"
        and isinstance(called.value, ast.Name)
        and called.value.id not in names
    )


def _nodes(function: FunctionType) -> Iterator[ast.AST]:
    try:
        source = textwrap.dedent(inspect.getsource(function))
        yield from ast.walk(ast.parse(source))
    except (OSError, SyntaxError):
        return
