"""`python:package.module:function`: any function from messages to a reply is a model."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, as_completed
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from harness.data.messages import as_protocol
from harness.records import HarnessError, ModelSpec, Reply, Request, canonical_json

THREADS = 8

Function = Callable[[list[dict[str, Any]]], Any]
_Job = tuple[Future[Reply], Function, Request]


class Provider:
    """Calls the functions in a few threads; see `harness.models.Provider`.

    A function takes the list of messages and returns the text, a `Reply`, or a dict of a reply's
    fields. What it raises becomes the reply's `error`.
    """

    options: frozenset[str] = frozenset()
    in_flight = 0

    def identity(self, spec: ModelSpec) -> dict[str, Any]:
        """Return the function's name and the digest of the file that defines it."""
        return {"function": spec.target, "source": _source_digest(spec)}

    def ask(self, batches: Sequence[Sequence[Request]]) -> Iterator[dict[str, Reply]]:
        """Yield each reply as it comes."""
        requests = [request for batch in batches for request in batch]
        functions = {request.model.target: _function(request.model) for request in requests}
        jobs: list[_Job] = [(Future(), functions[one.model.target], one) for one in requests]
        keys = {future: request.key for future, _, request in jobs}
        _start(jobs)
        try:
            for left, done in zip(range(len(keys) - 1, -1, -1), as_completed(keys), strict=True):
                self.in_flight = min(THREADS, left)
                yield {keys[done]: done.result()}
        finally:
            self.in_flight = 0
            for future in keys:
                future.cancel()

    def close(self) -> None:
        """Nothing stays open."""


def _source_digest(spec: ModelSpec) -> str:
    module, _ = _split(spec)
    try:
        found = find_spec(module)
    except Exception as problem:  # packages run their own code when they are imported
        raise _unknown(spec, problem) from None
    if found is None:
        raise _unknown(spec, f"there is no module {module}")
    origin = Path(found.origin or "")
    return hashlib.sha256(origin.read_bytes()).hexdigest() if origin.is_file() else ""


def _function(spec: ModelSpec) -> Function:
    module, name = _split(spec)
    try:
        function = getattr(import_module(module), name)
    except Exception as problem:  # a module runs its own code when it is imported
        raise _unknown(spec, problem) from None
    if not callable(function):
        raise _unknown(spec, f"{name} is no function")
    return function  # type: ignore[no-any-return]


def _split(spec: ModelSpec) -> tuple[str, str]:
    module, colon, name = spec.target.partition(":")
    if not (module and colon and name) or module.startswith("."):
        raise _unknown(spec, "write it as python:package.module:function")
    return module, name


def _unknown(spec: ModelSpec, problem: object) -> HarnessError:
    return HarnessError(
        f"the model {spec.name!r} ({spec.spec}) cannot be imported: {problem}; install its "
        "package, or run `python -m pytest` in the folder that holds it"
    )


def _start(jobs: Sequence[_Job]) -> None:
    waiting: SimpleQueue[_Job] = SimpleQueue()
    for job in jobs:
        waiting.put(job)
    for _ in range(min(THREADS, len(jobs))):
        # Daemons: a run that is interrupted does not wait for the calls in flight.
        Thread(target=_work, args=(waiting,), daemon=True).start()


def _work(waiting: SimpleQueue[_Job]) -> None:
    with suppress(Empty):
        while True:
            future, function, request = waiting.get_nowait()
            if future.set_running_or_notify_cancel():
                _answer(future, function, request)


def _answer(future: Future[Reply], function: Function, request: Request) -> None:
    try:
        future.set_result(_call(function, request))
    except BaseException as problem:  # an exit belongs to the thread that waits for the reply
        future.set_exception(problem)


def _call(function: Function, request: Request) -> Reply:
    started = time.perf_counter()
    try:
        reply = _reply(function(list(map(dict, as_protocol(request.messages)))))
    except Exception as problem:  # the user's function may raise anything
        return Reply(error=f"{request.model.spec} raised {type(problem).__name__}: {problem}")
    if reply.latency_s is None and reply.error is None:
        return replace(reply, latency_s=time.perf_counter() - started)
    return reply


def _reply(value: Any) -> Reply:
    if isinstance(value, str):
        return Reply(text=value)
    if isinstance(value, dict):
        value = Reply(**value)
    if isinstance(value, Reply):
        canonical_json([dict(call) for call in value.tool_calls])  # the store holds JSON
        return value
    raise TypeError(f"a model returns text, a Reply or a dict, not {type(value).__name__}")
