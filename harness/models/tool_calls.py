"""The calls of tools in what a local model wrote, read as the OpenAI protocol has them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from json import JSONDecoder
from typing import Any

from harness.models import thinking
from harness.records import strict_json

Call = Mapping[str, Any]
"""`id`, `type` and `function`: its `name` and its `arguments` as JSON text."""

_HERMES = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_HERMES_XML = re.compile(r"\s*<function=([^>\s]+)>(.*?)(?:</function>\s*|\Z)", re.DOTALL)
_XML_ARGUMENT = re.compile(r"<parameter=([^>\s]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
_MISTRAL = "[TOOL_CALLS]"
_MISTRAL_NEW = re.compile(r"\s*([\w.-]+)(?:\[CALL_ID\]\w*)?\[ARGS\]", re.DOTALL)
_LLAMA = "<|python_tag|>"


def read(text: str, tools: Sequence[Mapping[str, Any]]) -> tuple[str, tuple[Call, ...]]:
    """Return what `text` says beside its calls of `tools`, and the calls.

    Hermes and Qwen (`<tool_call>`), Mistral (`[TOOL_CALLS]`) and Llama 3 (a JSON object with name
    and parameters) are known; the last is a call only where it names one of the tools. A thought
    at the beginning is left alone, and what is no whole call stays text.
    """
    said = thinking.split(text).answer
    thought = text[: len(text) - len(said)]
    functions = [tool.get("function") or tool for tool in tools]
    for reader in (_hermes, _mistral, _llama):
        try:
            rest, calls = reader(said, functions)
            if calls:
                return f"{thought}{rest}".strip(), tuple(map(_call, range(len(calls)), calls))
        except ValueError:
            continue
    return text, ()


def example(tools: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """Return a conversation that ends in a call of the first of `tools`."""
    name = (tools[0].get("function") or tools[0]).get("name", "")
    call = {"name": name, "arguments": {"number": "7"}}
    # Some templates take ids of exactly nine letters and digits.
    called = [{"id": "abcdefghi", "type": "function", "function": call}]
    return (
        {"role": "user", "content": "Call it."},
        {"role": "assistant", "tool_calls": called},
    )


def from_message(message: Mapping[str, Any]) -> tuple[str, tuple[Call, ...]]:
    """Return the text and the calls of a message that a tokenizer's own parser made.

    Raises:
        ValueError: its calls are none.

    """
    calls = [_checked(call.get("function", call)) for call in message.get("tool_calls") or ()]
    text = str(message.get("content") or "").strip()
    return text, tuple(map(_call, range(len(calls)), calls))


_Found = tuple[str, list[tuple[str, str]]]
"""The text beside the calls, and of each call its name and the JSON of its arguments."""

_Functions = Sequence[Mapping[str, Any]]


def _call(number: int, found: tuple[str, str]) -> Call:
    name, arguments = found
    function = {"name": name, "arguments": arguments}
    return {"id": f"call_{number}", "type": "function", "function": function}


def _checked(value: object) -> tuple[str, str]:
    """Return the name and the arguments of a call; ValueError if it is none."""
    if not isinstance(value, Mapping) or not isinstance(name := value.get("name"), str):
        raise ValueError("a call has a name")
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = strict_json(arguments)
    text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    f"{name}{text}".encode()  # the store holds no halves of surrogate pairs
    return name, text


def _hermes(text: str, functions: _Functions) -> _Found:
    calls = [_hermes_call(match.group(1), functions) for match in _HERMES.finditer(text)]
    return _HERMES.sub("", text), calls


def _hermes_call(body: str, functions: _Functions) -> tuple[str, str]:
    if not (match := _HERMES_XML.fullmatch(body)):
        return _checked(strict_json(body))
    name, written = match.group(1), _XML_ARGUMENT.findall(match.group(2))
    types = {key: held for one in functions if one.get("name") == name for key, held in _types(one)}
    arguments = {key: _argument(text, types.get(key, set())) for key, text in written}
    return _checked({"name": name, "arguments": arguments})


def _types(function: Mapping[str, Any]) -> Iterator[tuple[str, set[object]]]:
    """Yield the arguments of a function with the JSON types that each may have."""
    parameters = function.get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
    for name, schema in (properties if isinstance(properties, Mapping) else {}).items():
        yield name, _types_of(schema)


def _types_of(schema: object) -> set[object]:
    """Return the types that a schema names; `["string", "null"]` and alternatives name several."""
    if not isinstance(schema, Mapping):
        return set()
    named = schema.get("type", [])
    choices = [one for key in ("anyOf", "oneOf") for one in _listed(schema.get(key))]
    return {str(one) for one in _listed(named)}.union(*map(_types_of, choices))


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _argument(text: str, types: set[object]) -> Any:
    """Return an argument that is written without quotes: a text where it can be nothing else."""
    if "string" in types and types <= {"string", "null"} and text not in types - {"string"}:
        return text
    return _value(text)


def _value(text: str) -> Any:
    """Return `text` read as JSON where it is any."""
    try:
        return strict_json(text)
    except ValueError:
        return text


def _mistral(text: str, functions: _Functions) -> _Found:
    before, mark, body = text.partition(_MISTRAL)
    if not mark:
        return text, []
    if _MISTRAL_NEW.match(body):
        return before, list(_mistral_new(body))
    calls, rest = _first_value(body)
    if not isinstance(calls, list):
        raise ValueError("the calls are no list")
    return f"{before}{rest}", [_checked(call) for call in calls]


def _mistral_new(body: str) -> Iterator[tuple[str, str]]:
    for part in body.split(_MISTRAL):
        if not (head := _MISTRAL_NEW.match(part)):
            raise ValueError("a call has a name")
        arguments, _ = _first_value(part[head.end() :])
        yield _checked({"name": head.group(1), "arguments": arguments})


def _llama(text: str, functions: _Functions) -> _Found:
    """Read objects behind the tag, or such as fill the text and name a tool."""
    before, tag, rest = text.partition(_LLAMA)
    before, rest = (before, rest) if tag else ("", before)
    names = {one.get("name") for one in functions}
    calls: list[tuple[str, str]] = []
    while rest := rest.lstrip(" \n;"):
        value, rest = _first_value(rest)
        call = _checked(value)
        if not tag and (call[0] not in names or not {"parameters", "arguments"} & value.keys()):
            raise ValueError("it calls none of the tools")
        calls.append(call)
    return before, calls


def _first_value(text: str) -> tuple[Any, str]:
    """Return the JSON value at the beginning of `text`, read strictly, and what follows."""
    begun = text.lstrip()
    try:
        _, end = JSONDecoder().raw_decode(begun)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return strict_json(begun[:end]), begun[end:]
