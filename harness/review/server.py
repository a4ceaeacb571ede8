"""The page of pairs on loopback; every vote goes into the store as it is given.

Only pages that this server made may talk to it: the address holds a token, the Host must be our
own and so must the Origin of what is posted.
"""

from __future__ import annotations

import hmac
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from pydantic import ValidationError

from harness.review.ballots import Ballot
from harness.review.page import page
from harness.review.pairs import Pair
from harness.store import Store

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

HOST = "127.0.0.1"
PORT = 8737
"""Tried first: what a browser keeps for this address is there again after a restart."""

_LARGEST = 65_536
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def serve(
    store: Store, run: str, pairs: Sequence[Pair], rater: str, say: Callable[[str], None]
) -> None:
    """Serve the page until the process is told to stop; `say` its address when it can be opened."""
    import uvicorn

    token = secrets.token_urlsafe(24)
    with _listening() as listener:
        port = listener.getsockname()[1]
        config = uvicorn.Config(
            application(store, run, pairs, rater, token, port),
            log_level="error",
            access_log=False,  # it would write the token down
            server_header=False,
        )
        say(f"http://{HOST}:{port}/{token}/")
        say("every vote is stored as it is given; end with Ctrl-C")
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


def _listening() -> socket.socket:
    try:
        return socket.create_server((HOST, PORT))
    except OSError:
        return socket.create_server((HOST, 0))


def application(
    store: Store, run: str, pairs: Sequence[Pair], rater: str, token: str, port: int
) -> Starlette:
    """Return the server's application: the page at `/TOKEN/`, votes posted to `/TOKEN/votes`."""
    from starlette.applications import Starlette
    from starlette.responses import HTMLResponse, PlainTextResponse, Response
    from starlette.routing import Route

    hosts = {f"{name}:{port}" for name in (HOST, "localhost")}
    named = {pair.name: pair for pair in pairs}

    def refused(request: Request) -> Response | None:
        if request.headers.get("host") not in hosts:
            return PlainTextResponse("this is not the host of this page", 403, _HEADERS)
        if not hmac.compare_digest(request.path_params["token"].encode(), token.encode()):
            return PlainTextResponse("open the address that the command printed", 404, _HEADERS)
        return None

    async def show(request: Request) -> Response:
        if problem := refused(request):
            return problem
        votes = [vote for vote in store.votes() if vote.rater == rater and vote.pair in named]
        return HTMLResponse(page(run, pairs, rater, votes, served=True), 200, _HEADERS)

    async def take(request: Request) -> Response:
        if problem := refused(request):
            return problem
        if request.headers.get("origin") not in {f"http://{host}" for host in hosts}:
            return PlainTextResponse("votes come from the page itself", 403, _HEADERS)
        content = await _body(request)
        if content is None or not _stored(store, named, rater, content):
            return PlainTextResponse("this is no vote on a pair of this page", 400, _HEADERS)
        return Response(None, 204, _HEADERS)

    return Starlette(
        routes=[
            Route("/{token}/", show, methods=["GET"]),
            Route("/{token}/votes", take, methods=["POST"]),
        ]
    )


async def _body(request: Request) -> bytes | None:
    """Return what was posted; None if it is too large for a vote."""
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > _LARGEST:
            return None
    return content


def _stored(store: Store, pairs: Mapping[str, Pair], rater: str, content: bytes) -> bool:
    """Store the vote in `content`, or take it back; false if it is none."""
    try:
        ballot = Ballot.model_validate_json(content)
    except ValidationError:
        return False
    if (pair := pairs.get(ballot.pair)) is None:
        return False
    if ballot.choice is None:
        store.drop_vote(pair.name, rater)
    else:
        store.put_votes([ballot.vote(pair, rater)])
    return True
