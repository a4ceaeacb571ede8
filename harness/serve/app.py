"""The routes of the server, and its life."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from inspect import iscoroutinefunction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.records import HarnessError
from harness.serve import catalog, chat, counting
from harness.serve.batching import Batcher
from harness.serve.catalog import Served
from harness.serve.files import Files, upload
from harness.serve.guard import Access, Guard, answer_of, refuse_open
from harness.serve.jobs import QUEUED, VALIDATING, JobRequest, Jobs, Worker, new_job
from harness.serve.prompts import Conversation, Lanes, Prompts
from harness.serve.state import State, StorageError, storing
from harness.serve.training import Training, base_of, model_of
from harness.serve.wire import ProtocolError, Wire, body_of, gone, now, paged, while_connected
from harness.text import line

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from harness.config import Settings

_USUAL_PAGE, _USUAL_CHECKPOINTS = 20, 10
_MOST_PAGE = 10_000
_PATIENCE_S = 5
"""How long answers may still take when the server ends."""
_KEPT_S = 120
"""How long a connection is kept for the next request: scripts poll every few seconds, and one that
comes while its connection is being closed would fail."""


def serve(
    root: Path, settings: Settings, aliases: Sequence[str], access: Access, port: int
) -> None:
    """Serve the project in `root` until a signal ends it.

    Raises:
        HarnessError: an alias, the address or the folder is wrong, or strangers could come in.

    """
    refuse_open(access)
    started = now()
    bases = catalog.bases(aliases, settings, root, started)
    with _listening(access.host, port) as listener:
        home = root / settings.store
        candidates = catalog.candidates(settings, root, started)
        service = Service(root, home, bases, candidates, access, settings.key_variables)
        _say(access.host, listener.getsockname()[1], bases)
        _run(service, listener)


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2_048)
    except (OSError, OverflowError) as problem:
        raise HarnessError(
            f"--host {host} --port {port}: the server cannot listen there: {problem}; "
            "choose another port, or 0 for any that is free"
        ) from None


def _say(host: str, port: int, bases: Sequence[Served]) -> None:
    shown = f"[{host}]" if ":" in host else host
    names = line(", ".join(f"{one.name} ({one.spec.spec})" for one in bases))
    sys.stdout.write(f"serving {names}\nOPENAI_BASE_URL=http://{shown}:{port}/v1\n")
    sys.stdout.flush()


def _run(service: Service, listener: socket.socket) -> None:
    import uvicorn

    from harness.serve.connections import Connection, allow_files

    Connection.most = allow_files()

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: Any) -> None:
            # Ctrl-C reaches the training, too: that it ends is no failure of its job.
            service.jobs.close()
            super().handle_exit(sig, frame)

    # uvicorn sends itself the signal again when it is done: that must not end us in the middle.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    config = uvicorn.Config(
        service.application(),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_PATIENCE_S,
        timeout_keep_alive=_KEPT_S,
        http=Connection,
        ws="none",
    )
    Server(config).run(sockets=[listener])


@dataclass(frozen=True)
class _Route:
    path: str
    method: str
    answer: Callable[[Request], Any]


class Service:
    """All parts of the server, and what its routes do with them."""

    def __init__(
        self,
        root: Path,
        home: Path,
        bases: Sequence[Served],
        candidates: Sequence[Served],
        access: Access,
        keys: Collection[str] = (),
    ) -> None:
        """Serve `bases` and `candidates`; `keys` names variables that no training gets."""
        self._root, self._home, self._access = root, home, access
        self._served = {one.name: one for one in (*candidates, *bases)}
        self._state = State(home / "serve")
        self._files = Files(self._state)
        self._files.sweep()
        self.jobs = Jobs(self._state)
        self._training = Training(self.jobs, self._files, root, home, keys)
        self._batcher, self._lanes = Batcher(), Lanes()
        self._prompts = Prompts(self._lanes, self._batcher)

    def application(self) -> Guard:
        """Return the application, its guard before it."""
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.requests import ClientDisconnect
        from starlette.routing import Route

        app = Starlette(
            routes=[
                Route(route.path, _endpoint(route.answer), methods=[route.method])
                for route in self._routes()
            ],
            exception_handlers={
                ProtocolError: _refused,
                HTTPException: _not_there,
                StorageError: _unstored,
                ClientDisconnect: _left,
                Exception: _broken,
            },
            lifespan=self._life,
        )
        return Guard(app, self._access)

    @asynccontextmanager
    async def _life(self, app: Starlette) -> AsyncIterator[None]:
        Worker(self.jobs, VALIDATING, self._training.validate).start()
        Worker(self.jobs, QUEUED, self._training.train).start()
        yield
        self.jobs.close()
        self._lanes.close()
        self._batcher.close()
        self._state.close()

    def _routes(self) -> Sequence[_Route]:
        job = "/v1/fine_tuning/jobs/{name}"
        return (
            _Route("/v1/models", "GET", self._list_models),
            _Route("/v1/models/{name:path}", "GET", self._show_model),
            _Route("/v1/models/{name:path}", "DELETE", self._delete_model),
            _Route("/v1/chat/completions", "POST", self._chat),
            _Route("/v1/responses/input_tokens", "POST", self._count),
            _Route("/v1/files", "POST", self._upload),
            _Route("/v1/files", "GET", self._list_files),
            _Route("/v1/files/{name}", "GET", self._show_file),
            _Route("/v1/files/{name}", "DELETE", self._delete_file),
            _Route("/v1/files/{name}/content", "GET", self._content),
            _Route("/v1/fine_tuning/jobs", "POST", self._create_job),
            _Route("/v1/fine_tuning/jobs", "GET", self._list_jobs),
            _Route(job, "GET", self._show_job),
            _Route(f"{job}/cancel", "POST", self._cancel),
            _Route(f"{job}/pause", "POST", self._pause),
            _Route(f"{job}/resume", "POST", self._resume),
            _Route(f"{job}/events", "GET", self._events),
            _Route(f"{job}/checkpoints", "GET", self._checkpoints),
        )

    # ------------------------------------------------------------------ models

    def _find(self, name: str) -> Served:
        if name in self._served:
            return self._served[name]
        if job := self.jobs.maker(name):
            spec = model_of(job, name, self._home)
            return Served(name, spec, job.finished_at or job.created_at, base=False)
        raise ProtocolError(
            404,
            f"The model `{name[:200]}` does not exist or you do not have access to it.",
            param="model",
            code="model_not_found",
        )

    def _list_models(self, request: Request) -> Wire:
        made = [self._find(job.model_name) for job in self.jobs.all() if job.answers]
        return {"object": "list", "data": [one.wire for one in (*self._served.values(), *made)]}

    def _show_model(self, request: Request) -> Wire:
        return self._find(request.path_params["name"]).wire

    def _delete_model(self, request: Request) -> Wire:
        name = request.path_params["name"]
        self._find(name)
        job = self.jobs.maker(name)
        if job is None:
            raise ProtocolError(
                403,
                f"The model `{name}` is no fine-tuned one and cannot be deleted.",
                param="model",
            )
        self.jobs.move(job.id, [job.status], deleted=True)
        return {"id": name, "object": "model", "deleted": True}

    # ------------------------------------------------------------------ chat

    async def _chat(self, request: Request) -> Wire | Response:
        from starlette.responses import StreamingResponse

        asked = await body_of(request, chat.ChatRequest)
        served = await asyncio.to_thread(self._find, asked.model)
        if not asked.stream:
            return await while_connected(request, chat.complete(asked, served, self._prompts))
        events = await while_connected(request, chat.stream(asked, served, self._prompts))
        return StreamingResponse(events, media_type="text/event-stream")

    async def _count(self, request: Request) -> Wire:
        asked = await body_of(request, counting.CountRequest)
        served = await asyncio.to_thread(self._find, asked.model)
        return await self._lanes.run(
            Conversation(asked.messages), lambda: counting.count(asked, served, self._root)
        )

    # ------------------------------------------------------------------ files

    async def _upload(self, request: Request) -> Wire:
        with storing():  # what is too large for the memory is put aside as it comes
            async with request.form(max_files=1, max_fields=10) as form:
                return await asyncio.to_thread(upload, form, self._files, self._access.most_file)

    def _list_files(self, request: Request) -> Wire:
        purpose, order = (request.query_params.get(key) for key in ("purpose", "order"))
        files = [file for file in self._files.all() if purpose in (None, file["purpose"])]
        return paged(request, files if order == "asc" else files[::-1], _MOST_PAGE, _MOST_PAGE)

    def _show_file(self, request: Request) -> Wire:
        return self._files.find(request.path_params["name"])

    def _delete_file(self, request: Request) -> Wire:
        name = request.path_params["name"]
        self._files.delete(name)
        return {"id": name, "object": "file", "deleted": True}

    def _content(self, request: Request) -> Response:
        from starlette.responses import FileResponse

        path = self._files.path(request.path_params["name"])
        return FileResponse(path, media_type="application/octet-stream")

    # ------------------------------------------------------------------ jobs

    async def _create_job(self, request: Request) -> Wire:
        asked = await body_of(request, JobRequest)
        return await asyncio.to_thread(self._created, asked)

    def _created(self, asked: JobRequest) -> Wire:
        served = self._served.get(asked.model)
        if served is None or not served.base:
            raise ProtocolError(
                400,
                f"Model {asked.model[:200]} is not available for fine-tuning or does not exist.",
                param="model",
                code="model_not_available",
            )
        job = new_job(asked, base_of(served.spec))
        self._refuse_bad_file(asked.training_file, "training_file")
        if asked.validation_file is not None:
            self._refuse_bad_file(asked.validation_file, "validation_file")
        self.jobs.add(job)
        return job.wire

    def _refuse_bad_file(self, name: str, param: str) -> None:
        try:
            purpose = self._files.find(name)["purpose"]
        except ProtocolError:
            raise ProtocolError(
                400,
                f"invalid {param}: {name[:80]} does not exist.",
                param=param,
                code=f"invalid_{param}",
            ) from None
        if purpose != "fine-tune":
            raise ProtocolError(
                400,
                f"invalid {param}: {name} has the purpose {purpose!r}, not 'fine-tune'.",
                param=param,
                code=f"invalid_{param}",
            )

    def _list_jobs(self, request: Request) -> Wire:
        wanted = _metadata(request)
        jobs = [job.wire for job in reversed(self.jobs.all()) if wanted(job.metadata)]
        return paged(request, jobs, _USUAL_PAGE, _MOST_PAGE)

    def _show_job(self, request: Request) -> Wire:
        return self.jobs.find(request.path_params["name"]).wire

    def _cancel(self, request: Request) -> Wire:
        return self.jobs.cancel(request.path_params["name"]).wire

    def _pause(self, request: Request) -> Wire:
        return self.jobs.pause(request.path_params["name"]).wire

    def _resume(self, request: Request) -> Wire:
        return self.jobs.resume(request.path_params["name"]).wire

    def _events(self, request: Request) -> Wire:
        events = self.jobs.events(request.path_params["name"])
        return paged(request, events, _USUAL_PAGE, _MOST_PAGE)

    def _checkpoints(self, request: Request) -> Wire:
        checkpoints = self.jobs.find(request.path_params["name"]).checkpoints
        return paged(request, checkpoints, _USUAL_CHECKPOINTS, _MOST_PAGE)


def _metadata(request: Request) -> Callable[[dict[str, str] | None], bool]:
    """Return the filter of the query: `metadata[KEY]=VALUE`, or `metadata=null` for none."""
    query = request.query_params.multi_items()
    if ("metadata", "null") in query:
        return lambda metadata: metadata is None
    pairs = {
        (key[len("metadata[") : -1], value)
        for key, value in query
        if key.startswith("metadata[") and key.endswith("]")
    }
    return lambda metadata: pairs <= set((metadata or {}).items())


def _endpoint(answer: Callable[[Request], Any]) -> Callable[[Request], Any]:
    """Return the endpoint of a route; what is no coroutine may wait for the disk, in a thread."""
    from starlette.responses import JSONResponse, Response

    def whole(value: Any) -> Response:
        return value if isinstance(value, Response) else JSONResponse(value)

    async def endpoint(request: Request) -> Response:
        if iscoroutinefunction(answer):
            return whole(await answer(request))
        return await asyncio.to_thread(lambda: whole(answer(request)))

    return endpoint


async def _refused(request: Request, problem: Any) -> Response:
    await request.scope["drain"]()
    response: Response = answer_of(problem)
    return response


async def _not_there(request: Request, problem: Any) -> Response:
    message = {
        404: f"Invalid URL ({request.method} {request.url.path[:200]})",
        405: f"Not allowed to {request.method} on {request.url.path[:200]}",
    }.get(problem.status_code, str(problem.detail))
    code = {404: "unknown_url", 405: "method_not_allowed"}.get(problem.status_code)
    return await _refused(
        request, ProtocolError(problem.status_code, message, code=code, headers=problem.headers)
    )


async def _left(request: Request, problem: Exception) -> Response:
    # Nobody hears it, and no log need be filled.
    return await _refused(request, gone())


async def _unstored(request: Request, problem: Exception) -> Response:
    said = str(problem)
    return await _refused(
        request,
        ProtocolError(
            500, f"{said[:1].upper()}{said[1:]}.", kind="server_error", code="storage_error"
        ),
    )


async def _broken(request: Request, problem: Exception) -> Response:
    traceback.print_exception(problem, file=sys.stderr)
    message = "The server had an error while processing your request."
    response: Response = answer_of(ProtocolError(500, message, kind="server_error"))
    return response
