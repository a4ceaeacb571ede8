"""The shapes of the protocol: what is the same for every route."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

if TYPE_CHECKING:
    from starlette.requests import Request

Wire = dict[str, Any]
"""A JSON object as it is sent."""

ORGANIZATION = "local"
"""What stands in the names of models where a hosted service has its customer."""


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


class Asked(BaseModel):
    """The body of a request: what is not named here is refused as the protocol does."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Shape = TypeVar("Shape", bound=Asked)


def now() -> int:
    """Return the Unix time in whole seconds."""
    return int(time.time())


def new_id(prefix: str) -> str:
    """Return an id that nobody guesses and that is a plain file name."""
    return f"{prefix}{secrets.token_hex(12)}"


async def body_of(request: Request, shape: type[Shape]) -> Shape:
    """Return the JSON body of `request` as `shape`; ProtocolError (400) if it is none."""
    try:
        values = json.loads(await request.body())
        json.dumps(values, ensure_ascii=False).encode()  # halves of surrogate pairs are no text
    except (ValueError, RecursionError):
        raise ProtocolError(
            400,
            "We could not parse the JSON body of your request. The API expects a JSON payload.",
        ) from None
    try:
        return shape.model_validate(values)
    except RecursionError:
        raise ProtocolError(400, "The body of your request is nested too deeply.") from None
    except ValidationError as problem:
        # Of several ways to be right, the last one says most of what is wrong.
        raise _refusal(problem.errors()[-1]) from None


def _refusal(error: Any) -> ProtocolError:
    keys = [str(part) for part in error["loc"] if isinstance(part, int) or _is_key(part)]
    param = ".".join(keys) or None
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
