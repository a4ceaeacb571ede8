"""`python:package.module:function`: any function from messages to a reply is a model."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

from harness.data.messages import as_protocol
from harness.records import HarnessError, ModelSpec, Reply, Request, canonical_json

THREADS = 8

Function = Callable[[list[dict[str, Any]]], Any]
_Orders = SimpleQueue[Request | None]
_Arrived = SimpleQueue[tuple[str, Reply | KeyboardInterrupt]]


class Provider:
    """Calls the functions in a few threads; see `harness.models.Provider`.

    A function takes the list of messages and returns the text, a `Reply`, or a dict of a reply's
    fields. What it raises becomes the reply's `error`, also SystemExit; but Ctrl-C ends the run.
    """

    options: frozenset[str] = frozenset()
    in_flight = 0

    def identity(self, spec: ModelSpec) -> dict[str, Any]:
        """Return the function's name and the digest of the file that defines it."""
        return {"function": spec.target, "source": _source_digest(spec)}

    def ask(self, batches: Sequence[Sequence[Request]]) -> Iterator[dict[str, Reply]]:
        """Yield each reply as it comes; a call begins once a reply that came before it is kept.

        Whoever takes the replies keeps one before the next is asked for. So a run that is killed
        loses no more than the calls of its threads.
        """
        requests = [request for batch in batches for request in batch]
        functions = {one.model.target: _function(one.model) for one in requests}
        orders: _Orders = SimpleQueue()
        arrived: _Arrived = SimpleQueue()
        _start(min(THREADS, len(requests)), orders, arrived, functions)
        left = iter(requests)
        try:
            for request in islice(left, THREADS):
                orders.put(request)
            for count in range(len(requests) - 1, -1, -1):
                key, reply = arrived.get()
                if isinstance(reply, KeyboardInterrupt):
                    raise reply
                self.in_flight = min(THREADS - 1, count)
                yield {key: reply}
                orders.put(next(left, None))
        finally:
            self.in_flight = 0
            for _ in range(THREADS):
                orders.put(None)

    def close(self) -> None:
        """Nothing stays open."""


def _source_digest(spec: ModelSpec) -> str:
    module, _ = _split(spec)
    try:
        found = find_spec(module)
    except KeyboardInterrupt:
        raise
    except BaseException as problem:  # packages run their own code when they are imported
        raise _unknown(spec, problem) from None
    if found is None:
        raise _unknown(spec, f"there is no module {module}")
    origin = Path(found.origin or "")
    return hashlib.sha256(origin.read_bytes()).hexdigest() if origin.is_file() else ""


def _function(spec: ModelSpec) -> Function:
    module, name = _split(spec)
    try:
        function = getattr(import_module(module), name)
    except KeyboardInterrupt:
        raise
    except BaseException as problem:  # a module runs its own code when it is imported
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


def _start(
    threads: int, orders: _Orders, arrived: _Arrived, functions: Mapping[str, Function]
) -> None:
    for _ in range(threads):
        # Daemons: a run that is interrupted does not wait for the calls in flight.
        Thread(target=_work, args=(orders, arrived, functions), daemon=True).start()


def _work(orders: _Orders, arrived: _Arrived, functions: Mapping[str, Function]) -> None:
    while request := orders.get():
        try:
            reply: Reply | KeyboardInterrupt = _call(functions[request.model.target], request)
        except KeyboardInterrupt as problem:  # it belongs to the thread that waits for the reply
            reply = problem
        arrived.put((request.key, reply))


def _call(function: Function, request: Request) -> Reply:
    started = time.perf_counter()
    try:
        reply = _reply(function(list(map(dict, as_protocol(request.messages)))))
    except KeyboardInterrupt:
        raise
    except BaseException as problem:  # the user's function may raise anything, and call sys.exit
        return Reply(error=f"{request.model.spec} raised {type(problem).__name__}{_said(problem)}")
    if reply.latency_s is None and reply.error is None:
        return replace(reply, latency_s=time.perf_counter() - started)
    return reply


def _said(problem: BaseException) -> str:
    try:
        return f": {problem}"
    except Exception:  # it may be the user's own, with a mistake in its text
        return ""


def _reply(value: Any) -> Reply:
    if isinstance(value, str):
        return Reply(text=value)
    if isinstance(value, dict):
        value = Reply(**value)
    if isinstance(value, Reply):
        canonical_json([dict(call) for call in value.tool_calls])  # the store holds JSON
        return value
    raise TypeError(f"a model returns text, a Reply or a dict, not {type(value).__name__}")
