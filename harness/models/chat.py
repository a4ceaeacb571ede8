"""`openai:NAME`: any endpoint that speaks the OpenAI chat protocol, asked concurrently."""

from __future__ import annotations

import asyncio
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from harness.records import HarnessError, ModelSpec, Reply, Request, canonical_json

if TYPE_CHECKING:
    from openai import AsyncOpenAI

OPENAI_URL = "https://api.openai.com/v1"
OPENAI_KEY = "OPENAI_API_KEY"
CONCURRENCY = 64
ATTEMPTS = 6
WAIT_SECONDS = 30.0
TIMEOUT_SECONDS = 120.0
ERROR_CHARACTERS = 500


class Provider:
    """One event loop in one thread, one client per endpoint; see `harness.models.Provider`.

    Options: `base_url`; `headers`, a table; `api_key_env`, the name of the environment variable
    that holds the key. A key is read when it is needed and never shown.
    """

    options = frozenset({"base_url", "headers", "api_key_env"})

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._clients: dict[str, AsyncOpenAI] = {}

    def identity(self, spec: ModelSpec) -> dict[str, Any]:
        """Return the endpoint and the model's name there."""
        return {"base_url": _base_url(spec), "model": spec.target}

    def ask(self, batches: Sequence[Sequence[Request]]) -> Iterator[dict[str, Reply]]:
        """Yield replies as they come, all that are there at once."""
        requests = [request for batch in batches for request in batch]
        calls = [_Call(request, self._client(request.model)) for request in requests]
        answers: SimpleQueue[tuple[str, Reply]] = SimpleQueue()
        wave = asyncio.run_coroutine_threadsafe(_ask_all(calls, answers), self._running_loop())
        try:
            waiting = len(calls)
            while waiting:
                arrived = [answers.get()]
                while not answers.empty():
                    arrived.append(answers.get())
                waiting -= len(arrived)
                yield dict(arrived)
        finally:
            wave.cancel()

    def close(self) -> None:
        """Close the connections and end the thread."""
        if self._loop is None:
            return
        for client in self._clients.values():
            asyncio.run_coroutine_threadsafe(client.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._clients, self._loop = {}, None

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(
                target=_run_loop, args=(self._loop,), name="harness-chat", daemon=True
            ).start()
        return self._loop

    def _client(self, spec: ModelSpec) -> AsyncOpenAI:
        from openai import AsyncOpenAI

        url, headers = _base_url(spec), _headers(spec)
        known = canonical_json([url, headers, spec.options.get("api_key_env")])
        if known not in self._clients:
            self._clients[known] = AsyncOpenAI(
                api_key=_api_key(spec),
                base_url=url,
                default_headers=headers,
                max_retries=0,
                timeout=TIMEOUT_SECONDS,
            )
        return self._clients[known]


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


def _base_url(spec: ModelSpec) -> str:
    url = spec.options.get("base_url") or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL
    if not isinstance(url, str) or not re.match(r"https?://[^/]", url):
        raise HarnessError(
            f"the model {spec.name!r} ({spec.spec}) has the base_url {url!r}; "
            "write one that begins with http:// or https://"
        )
    return url.rstrip("/")


def _headers(spec: ModelSpec) -> dict[str, str]:
    headers = spec.options.get("headers", {})
    if not isinstance(headers, Mapping):
        raise HarnessError(
            f"the model {spec.name!r} ({spec.spec}) has headers that are no table of texts"
        )
    return {str(name): str(value) for name, value in headers.items()}


def _api_key(spec: ModelSpec) -> str:
    variable = str(spec.options.get("api_key_env", OPENAI_KEY))
    key = os.environ.get(variable, "").strip()
    needs_one = "api_key_env" in spec.options or _base_url(spec) == OPENAI_URL
    if not key and needs_one:
        raise HarnessError(
            f"the model {spec.name!r} ({spec.spec}) needs a key: set the environment variable "
            f"{variable}, or name another one with api_key_env"
        )
    return key or "none"


class _Call:
    """A request with the client that sends it."""

    def __init__(self, request: Request, client: AsyncOpenAI) -> None:
        self.request = request
        self._client = client

    async def send(self) -> Reply:
        """Return the reply; whatever goes wrong is its `error`."""
        try:
            return await self._persistently()
        except Exception as problem:  # a server may answer anything at all
            return Reply(error=self._scrubbed(_message(problem)))

    async def _persistently(self) -> Reply:
        from tenacity import (
            AsyncRetrying,
            retry_if_exception,
            stop_after_attempt,
            wait_random_exponential,
        )

        retrying = AsyncRetrying(
            retry=retry_if_exception(_passes),
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.5, max=WAIT_SECONDS),
            reraise=True,
        )
        return await retrying(self._once)

    async def _once(self) -> Reply:
        started = time.perf_counter()
        completion = await self._client.chat.completions.create(**_body(self.request))
        return _reply(completion, time.perf_counter() - started)

    def _scrubbed(self, text: str) -> str:
        secrets = [self._client.api_key, *_headers(self.request.model).values()]
        for secret in sorted((s for s in secrets if len(s) >= 4), key=len, reverse=True):
            text = text.replace(secret, "***")
        return "".join(c if c.isprintable() else " " for c in text)[:ERROR_CHARACTERS]


async def _ask_all(calls: Sequence[_Call], answers: SimpleQueue[tuple[str, Reply]]) -> None:
    free = asyncio.Semaphore(CONCURRENCY)

    async def ask(call: _Call) -> None:
        async with free:
            answers.put((call.request.key, await call.send()))

    await asyncio.gather(*map(ask, calls))


def _body(request: Request) -> dict[str, Any]:
    sampling = request.model.sampling
    # OpenAI's newer models refuse max_tokens; most compatible servers know nothing else.
    limit = "max_completion_tokens" if _base_url(request.model) == OPENAI_URL else "max_tokens"
    return {
        "model": request.model.target,
        "messages": [dict(message) for message in request.messages],
        "temperature": sampling.temperature,
        "seed": sampling.seed + request.trial,
        limit: sampling.max_tokens,
    }


def _passes(problem: BaseException) -> bool:
    """Whether a second try may succeed."""
    from openai import APIConnectionError, APIStatusError

    if isinstance(problem, APIStatusError):
        return problem.status_code in (408, 409, 429) or problem.status_code >= 500
    return isinstance(problem, APIConnectionError)


def _message(problem: Exception) -> str:
    from openai import APIStatusError

    if isinstance(problem, APIStatusError):
        body = problem.body
        said = body.get("message") if isinstance(body, dict) else None
        return f"the server answered {problem.status_code}: {said or problem.message}"
    return f"{type(problem).__name__}: {problem}"


def _reply(completion: Any, latency_s: float) -> Reply:
    try:
        choice = completion.choices[0]
        text, calls = choice.message.content or "", choice.message.tool_calls or ()
        used, finish_reason = completion.usage, choice.finish_reason
    except (AttributeError, IndexError, TypeError):
        return Reply(error="the server's answer is no chat completion")
    if not isinstance(text, str):
        return Reply(error="the server's answer holds no text")
    return Reply(
        text=text,
        prompt_tokens=_count(used, "prompt_tokens"),
        completion_tokens=_count(used, "completion_tokens"),
        latency_s=latency_s,
        finish_reason=finish_reason if isinstance(finish_reason, str) else None,
        tool_calls=tuple(call.model_dump(mode="json") for call in calls),
    )


def _count(usage: Any, name: str) -> int | None:
    value = getattr(usage, name, None)
    return value if isinstance(value, int) else None
