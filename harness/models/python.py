"""`python:package.module:function`: any function from messages to a reply is a model."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness.records import HarnessError, ModelSpec, Reply, Request

THREADS = 8

Function = Callable[[list[dict[str, Any]]], Any]


class Provider:
    """Calls the functions in a few threads; see `harness.models.Provider`.

    A function takes the list of messages and returns the text, a `Reply`, or a dict of a reply's
    fields. What it raises becomes the reply's `error`.
    """

    options: frozenset[str] = frozenset()

    def identity(self, spec: ModelSpec) -> dict[str, Any]:
        """Return the function's name and the digest of the file that defines it."""
        return {"function": spec.target, "source": _source_digest(spec)}

    def ask(self, batches: Sequence[Sequence[Request]]) -> Iterator[dict[str, Reply]]:
        """Yield each reply as it comes."""
        functions = {
            request.model.target: _function(request.model) for batch in batches for request in batch
        }
        pool = ThreadPoolExecutor(THREADS)
        try:
            asked: dict[Future[Reply], str] = {
                pool.submit(_call, functions[request.model.target], request): request.key
                for batch in batches
                for request in batch
            }
            for done in as_completed(asked):
                yield {asked[done]: done.result()}
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

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


def _call(function: Function, request: Request) -> Reply:
    started = time.perf_counter()
    try:
        reply = _reply(function([dict(message) for message in request.messages]))
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
    if isinstance(value, Reply) and isinstance(value.text, str):
        return value
    raise TypeError(f"a model returns text, a Reply or a dict, not {type(value).__name__}")
