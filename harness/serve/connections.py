"""Connections that do not wait for their clients for ever, and not all for the same one."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from harness.serve.wire import ProtocolError

HEADERS_S = 20
"""How long a client may take for the headers of a request."""
TAKING_S = 60
"""How long a client may take nothing of its answer."""
MOST = 1_024
"""Connections that are held; for one more the one is closed that has waited longest for its
client."""


def allow_files() -> int:
    """Let this process open as many files as connections need; return how many may be held."""
    try:
        import resource
    except ImportError:  # Windows counts no files
        return MOST
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MOST if hard == resource.RLIM_INFINITY else min(2 * MOST, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MOST
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted // 2


class Connection(H11Protocol):
    """One connection of uvicorn; a client that keeps it waiting loses it."""

    most = MOST

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._headers: asyncio.TimerHandle | None = None
        self._taking: asyncio.TimerHandle | None = None
        self._since = self.loop.time()

    # ------------------------------------------------------------------ asyncio

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._wait_for_headers()
        self._make_room()

    def data_received(self, data: bytes) -> None:
        """Read on; uvicorn itself stops to count the time as soon as anything comes."""
        super().data_received(data)
        self._wait_for_headers()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        self._since = self.loop.time()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        _cancel(self._headers)
        _cancel(self._taking)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Begin to wait until the client takes what was written."""
        super().pause_writing()
        self._taking = self.loop.call_later(TAKING_S, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has taken most of it."""
        _cancel(self._taking)
        super().resume_writing()

    # ------------------------------------------------------------------ waiting

    @property
    def _is_idle(self) -> bool:
        """Whether no request is there that is not answered."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def _is_reading(self) -> bool:
        """Whether the body of a request has not come to its end."""
        return not self._is_idle and self.cycle.more_body

    def _wait_for_headers(self) -> None:
        if not self._is_idle:
            _cancel(self._headers)
            self._headers = None
        elif self._headers is None:
            self._since = self.loop.time()
            self._headers = self.loop.call_later(HEADERS_S, self._too_slow)

    def _too_slow(self) -> None:
        if not self._is_idle or self.transport.is_closing():
            return
        message = f"The headers of the request did not come within {HEADERS_S} seconds."
        self._refuse(ProtocolError(408, message, code="request_timeout"))

    def _make_room(self) -> None:
        if len(self.connections) <= self.most:
            return
        held = [
            one
            for one in self.connections
            if isinstance(one, Connection) and not one.transport.is_closing()
        ]
        if len(held) <= self.most:
            return
        waiting = [one for one in held if one is not self and (one._is_idle or one._is_reading)]
        if waiting:
            min(waiting, key=lambda one: (one._is_reading, one._since)).transport.abort()
        else:
            message = f"All {self.most} connections of this server are being answered."
            self._refuse(ProtocolError(503, message, kind="server_error", code="overloaded"))

    # ------------------------------------------------------------------ refusals

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse(ProtocolError(400, msg, code="invalid_http"))

    def _refuse(self, problem: ProtocolError) -> None:
        """Answer outside of any request, and close."""
        body = json.dumps(problem.body).encode()
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        reason = STATUS_PHRASES[problem.status]
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            for event in (
                h11.Response(status_code=problem.status, headers=headers, reason=reason),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
