"""Calls of tools: the right function with the right arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.checks import check_digest, quoted, right_or_wrong, shortened
from harness.checks.structured import same_json
from harness.records import Case, HarnessError, Reply, Score, strict_json


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the function `name`; `arguments` are None where they are no JSON object."""

    name: str
    arguments: Mapping[str, Any] | None

    def __str__(self) -> str:
        shown = "..." if self.arguments is None else quoted(dict(self.arguments))
        return f"{shortened(self.name, 80)}({shown})"


def tool_call(
    case: Case,
    reply: Reply,
    function: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    *,
    name: str = "tool_call",
) -> tuple[Score, Score]:
    """Score 1 if the reply calls what is expected and nothing else, in any order.

    Expected is what the case's reference calls. With `function` it is one call of this function
    with these `arguments`; without arguments, with any. Arguments are compared as JSON values. The
    diagnostic `<name>_name` compares the functions alone.

    Raises:
        HarnessError: the case expects no calls and no `function` is given, or they are malformed.

    """
    if not isinstance(function, str | None) or not isinstance(arguments, Mapping | None):
        raise HarnessError(
            f"{case.source}: score.tool_call takes the name of a function and its arguments as a "
            f"dict, not {quoted(function)} and {quoted(arguments)}"
        )
    expected = _expected(case, function, arguments)
    got = [_call(call) for call in reply.tool_calls]
    any_arguments = function is not None and arguments is None
    check = check_digest("tool_call", 2, function=function, arguments=arguments)
    whole = "" if _match(expected, got, _same_name if any_arguments else _same_call) else "x"
    names = "" if _match(expected, got, _same_name) else "x"
    problem = f"{_listed(got)} instead of {_listed(expected)}"
    return (
        right_or_wrong(name, whole and problem, check),
        replace(right_or_wrong(f"{name}_name", names and problem, check), diagnostic=True),
    )


def _expected(case: Case, function: str | None, arguments: Mapping[str, Any] | None) -> list[Call]:
    if function is not None:
        return [Call(function, arguments)]
    if arguments is not None:
        raise HarnessError(
            f"{case.source}: score.tool_call has arguments and no function; give its name too"
        )
    calls = [_call(call) for call in case.expected_tool_calls]
    if not calls or not all(call.name and call.arguments is not None for call in calls):
        what = "calls with a name and JSON arguments" if calls else "tool calls"
        raise HarnessError(
            f"{case.source}: the reference of the case {case.id!r} has no {what}, which the check "
            "tool_call compares with; end its messages with an assistant message with tool_calls, "
            "or give the check a function"
        )
    return calls


def _call(call: Mapping[str, Any]) -> Call:
    """Read a call as the OpenAI protocol has it; its arguments may be JSON text or an object.

    No arguments, or an empty text, are those of a call without any.
    """
    function = call.get("function")
    if not isinstance(function, Mapping):
        return Call("", None)
    name = function.get("name")
    return Call(name if isinstance(name, str) else "", _arguments(function.get("arguments")))


def _arguments(value: object) -> Mapping[str, Any] | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return {}
    if isinstance(value, str):
        try:
            value = strict_json(value)
        except ValueError:
            return None
    return value if isinstance(value, dict) else None


def _match(
    expected: Sequence[Call], got: Sequence[Call], same: Callable[[Call, Call], bool]
) -> bool:
    left = list(got)
    for call in expected:
        found = next((at for at, other in enumerate(left) if same(call, other)), None)
        if found is None:
            return False
        del left[found]
    return not left


def _same_name(one: Call, other: Call) -> bool:
    return one.name == other.name


def _same_call(one: Call, other: Call) -> bool:
    both = one.arguments is not None and other.arguments is not None
    return _same_name(one, other) and both and same_json(one.arguments, other.arguments)


def _listed(calls: Iterable[Call]) -> str:
    return shortened(", ".join(map(str, calls)) or "no call", 140)
