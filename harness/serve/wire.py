"""The shapes of the protocol: what is the same for every route."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    JsonValue,
    ValidationError,
    model_validator,
)

from harness.records import strict_json

if TYPE_CHECKING:
    from starlette.requests import Request

Wire = dict[str, Any]
"""A JSON object as it is sent."""

ORGANIZATION = "local"
"""What stands in the names of models where a hosted service has its customer."""


MOST_VALUES = 20_000
"""Values in the JSON of a request: each costs as much as hundreds of characters of a text."""

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)

_SHOWN = 100
"""Characters of what a client wrote that an answer repeats."""


class ProtocolError(Exception):
    """An answer that says what is wrong with a request, as the protocol has it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
        self.headers = dict(headers or {})


Ignored = JsonValue
"""What changes nothing in the answer of a model on this machine."""


def _refused(value: JsonValue) -> JsonValue:
    if value:
        raise ValueError("this server does not support it, leave it out")
    return value


Unsupported = Annotated[JsonValue, AfterValidator(_refused)]
"""What would change the answer and cannot be done; a value that asks for nothing is let in."""


def _given(value: JsonValue) -> JsonValue:
    return _refused(value or True)


Missing = Annotated[JsonValue, AfterValidator(_given)]
"""What cannot be done and has no value that asks for nothing."""


class Asked(BaseModel):
    """The body of a request: what is not named here is refused as the protocol does.

    A null is no value: clients write it for what they leave out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {key: value for key, value in values.items() if value is not None}


Shape = TypeVar("Shape", bound=Asked)
Made = TypeVar("Made")


def now() -> int:
    """Return the Unix time in whole seconds."""
    return int(time.time())


def new_id(prefix: str) -> str:
    """Return an id that nobody guesses and that is a plain file name."""
    return f"{prefix}{secrets.token_hex(12)}"


async def body_of(request: Request, shape: type[Shape]) -> Shape:
    """Return the JSON body of `request` as `shape`; ProtocolError (400) if it is none."""

    return await asyncio.to_thread(_read, await request.body(), shape)


async def while_connected(request: Request, answer: Coroutine[Any, Any, Made]) -> Made:
    """Return what `answer` returns; it is cancelled when the client leaves.

    The body of `request` has been read.

    Raises:
        ProtocolError: the client has left, and hears of nothing any more.

    """
    working = asyncio.ensure_future(answer)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise gone()
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


def gone() -> ProtocolError:
    """Return what takes the place of an answer that nobody hears any more."""
    return ProtocolError(499, "The client has left.")


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _read(content: bytes, shape: type[Shape]) -> Shape:
    _refuse_many_values(content)
    try:
        values = strict_json(content.decode())
        json.dumps(values, ensure_ascii=False).encode()  # halves of surrogate pairs are no text
    except ValueError as problem:
        raise ProtocolError(
            400,
            "We could not parse the JSON body of your request. The API expects a JSON payload. "
            f"({_shortened(str(problem))})",
        ) from None
    try:
        return shape.model_validate(values)
    except ValidationError as problem:
        raise _refusal(problem.errors(include_input=False)) from None


def _refuse_many_values(content: bytes) -> None:
    """Raise ProtocolError (400) for JSON that would take seconds to parse."""
    bare = content.replace(rb"\\", b"")
    strings = (bare.count(b'"') - bare.count(rb"\"")) // 2
    if strings <= 2 * MOST_VALUES:  # else even to leave them out would take long
        bare = _STRING.sub(b"", bare)
        strings = 0
    if strings + bare.count(b",") + bare.count(b"[") + bare.count(b"{") > MOST_VALUES:
        raise ProtocolError(
            400, f"The JSON body of your request has more than {MOST_VALUES:,} values."
        )


def _refusal(errors: Sequence[Any]) -> ProtocolError:
    """Return what is wrong with the first field that is; of several ways to be right, the last."""
    first = _path(errors[0])
    error = [one for one in errors if _path(one)[: len(first)] == first][-1]
    param = ".".join(_path(error)) or None
    if param is None:
        return ProtocolError(400, "The body of your request is no JSON object.")
    if error["type"] == "extra_forbidden":
        return ProtocolError(
            400,
            f"Unrecognized request argument supplied: {param}",
            param=param,
            code="unknown_parameter",
        )
    if error["type"] == "missing":
        return ProtocolError(
            400,
            f"Missing required parameter: '{param}'.",
            param=param,
            code="missing_required_parameter",
        )
    message = error["msg"].removeprefix("Value error, ")
    return ProtocolError(
        400, f"Invalid value for '{param}': {message}.", param=param, code="invalid_value"
    )


def _path(error: Any) -> list[str]:
    """Return the keys that lead to what is wrong, as the caller wrote them."""
    *before, last = error["loc"] or ("",)
    keys = [str(part) for part in before if isinstance(part, int) or _is_key(part)]
    if isinstance(last, int) or _is_key(last) or error["type"] == "extra_forbidden":
        keys.append(_shortened(str(last)))
    return keys


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _is_key(part: str) -> bool:
    """Whether the caller wrote it; pydantic puts the types of alternatives between the keys."""
    return part.isidentifier() and part not in ("str", "int", "float")


def page(values: Sequence[Wire], after: str | None, limit: int) -> Wire:
    """Return at most `limit` of `values`, those behind the one with the id `after`."""
    ids = [value["id"] for value in values]
    begin = ids.index(after) + 1 if after in ids else 0
    data = list(values[begin : begin + limit])
    return {
        "object": "list",
        "data": data,
        "has_more": begin + limit < len(values),
        "first_id": data[0]["id"] if data else "",
        "last_id": data[-1]["id"] if data else "",
    }


def paged(request: Request, values: Sequence[Wire], usual: int, most: int) -> Wire:
    """Return the page of `values` that the query asks for with `after` and `limit`."""
    after = request.query_params.get("after")
    text = request.query_params.get("limit", str(usual))
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= most:
        raise ProtocolError(
            400, f"Invalid 'limit': {text[:20]!r} is no number from 1 to {most}.", param="limit"
        )
    if after and after not in {value["id"] for value in values}:
        raise ProtocolError(400, f"Invalid 'after': there is no {after[:80]!r}.", param="after")
    return page(values, after, int(text))
