"""Who may ask, and how much: the token, the names of the server, the size of a request."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from harness.records import HarnessError
from harness.serve.wire import ProtocolError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BODY = 4 * 2**20
"""Bytes of a request that is no upload: while its JSON is parsed nothing else goes on."""

MULTIPART_ROOM = 2**16
"""Bytes of an upload beside its file."""

_DRAINED = 4
"""Times its limit that a body is read on before the answer: a client that is still sending might
not read it otherwise."""


PATIENCE_S, SLOWEST = 30, 8_192
"""Seconds that the body of a request may take, and the bytes that give it one second more."""


@dataclass(frozen=True)
class Access:
    """Where the server listens and what it asks for.

    `token` is None where everybody on this machine may ask. `most_file` counts bytes.
    """

    host: str
    token: str | None
    most_file: int

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the server."""
        return _is_loopback(self.host)


def refuse_open(access: Access) -> None:
    """Raise HarnessError if strangers could use the server."""
    if not access.local and not access.token:
        raise HarnessError(
            f"--host {access.host} lets other machines in; give the name of an environment "
            "variable that holds a token with --token-env, or listen on 127.0.0.1"
        )


def token_in(variable: str) -> str | None:
    """Take the token out of an environment variable; None without the name of one.

    Nothing that the server starts inherits it.

    Raises:
        HarnessError: the variable is empty.

    """
    if not variable:
        return None
    if not (token := os.environ.pop(variable, "").strip()):
        raise HarnessError(
            f"--token-env {variable}: the variable is empty; set it to the token to ask for"
        )
    return token


class Guard:
    """Stands before the application and lets in what may come in."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access
        self._names = {"localhost"}
        if not access.local:
            self._names |= {access.host.lower(), socket.gethostname().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request and pass it on; with a wrong one only its body is read."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        measured = _Measured(receive, self._limit(scope["path"]))
        scope["drain"] = measured.drain
        try:
            headers = _headers(scope)
            self._refuse_names(headers)
            self._refuse_stranger(headers)
            measured.refuse_announced(headers.get("content-length", ""))
            await self._app(scope, measured.receive, send)
        except ProtocolError as problem:
            await measured.drain()
            await answer_of(problem)(scope, receive, send)

    def _limit(self, path: str) -> int:
        upload = path.rstrip("/") == "/v1/files"
        return self._access.most_file + MULTIPART_ROOM if upload else MOST_BODY

    def _refuse_names(self, headers: Mapping[str, str]) -> None:
        """Keep pages of other sites out, also those whose name was made to lead here."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._is_own(host):
            raise ProtocolError(
                403,
                f"This server does not go by the name {host[:80]!r} (Host).",
                code="host_not_allowed",
            )
        if origin is not None and urlsplit(origin).netloc != host:
            raise ProtocolError(
                403,
                f"Pages from {origin[:80]!r} may not use this server (Origin).",
                code="origin_not_allowed",
            )

    def _is_own(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._names or _is_loopback(name):
            return True
        # A name can be made to lead anywhere, an address cannot.
        return not self._access.local and _is_address(name)

    def _refuse_stranger(self, headers: Mapping[str, str]) -> None:
        token = self._access.token
        if token is None:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        known = hmac.compare_digest(given.strip().encode(), token.encode())
        if scheme.lower() != "bearer" or not known:
            raise ProtocolError(
                401,
                "Incorrect API key provided: this server was started with a token.",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )


class _Measured:
    """Reads the body of one request and gives up when it is too long or too slow."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive, self._limit = receive, limit
        self._read, self._over = 0, False
        self._began = time.monotonic()

    def refuse_announced(self, length: str) -> None:
        if length.isdigit() and int(length) > self._limit:
            raise self._too_large()

    async def receive(self) -> Message:
        message = await self._next()
        if self._read > self._limit:
            raise self._too_large()
        return message

    async def drain(self) -> None:
        with suppress(ProtocolError):
            while not self._over and self._read <= _DRAINED * self._limit:
                await self._next()

    async def _next(self) -> Message:
        if self._over:  # what comes now is only that the client leaves
            return await self._receive()
        left = self._began + PATIENCE_S + self._read / SLOWEST - time.monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), max(left, 0))
        except TimeoutError:
            raise _too_slow() from None
        self._read += len(message.get("body", b""))
        self._over = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    def _too_large(self) -> ProtocolError:
        return ProtocolError(
            413,
            f"The request is too large: this server takes at most {self._limit:,} bytes here.",
            code="request_too_large",
        )


def _too_slow() -> ProtocolError:
    return ProtocolError(
        408,
        f"The body of the request comes too slowly: this server waits for {PATIENCE_S} seconds, "
        f"and for one more for every {SLOWEST:,} bytes.",
        code="request_timeout",
        headers={"Connection": "close"},
    )


def answer_of(problem: ProtocolError) -> Any:
    """Return the answer that tells of `problem`."""
    from starlette.responses import JSONResponse

    return JSONResponse(problem.body, problem.status, problem.headers)


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    return _is_address(host) and ipaddress.ip_address(host).is_loopback


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
