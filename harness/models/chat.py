"""`openai:NAME`: any endpoint that speaks the OpenAI chat protocol, asked concurrently."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from json import JSONDecodeError
from queue import Empty, SimpleQueue
from typing import Any

from harness.data.messages import as_protocol
from harness.models import endpoint, fields
from harness.models.completion import reply_of, unreadable
from harness.models.endpoint import Endpoint
from harness.models.failures import CallFailed, Kind, failure_of
from harness.models.lane import Lane, Tries
from harness.models.refusals import LIMITS, Refusals, Refused, has_way_out, refused_fields
from harness.models.secrecy import LOGGERS, LogMask
from harness.records import Message, ModelSpec, Reply, Request

ERROR_CHARACTERS = 500
TURN_S = 0.0005
"""How long a thread may keep another one waiting: at Python's 5 ms a tenth fewer calls leave."""


class Provider:
    """One event loop in one thread, a client per account; see `harness.models.Provider`.

    Options, beside the fields of a request in `endpoint.BODY_OPTIONS`: `base_url`; `headers`, a
    table; `api_key_env`, the name of the environment variable that holds the key; `api_version`
    for Azure; `omit` and `rename`, of the fields that are sent by default; `max_concurrency` and
    `timeout_s` (of one call, seconds), which decide no reply. A key is read when it is needed and
    never shown.
    """

    options = endpoint.BODY_OPTIONS | endpoint.PLACE_OPTIONS | endpoint.WAY_OPTIONS | fields.OPTIONS

    def __init__(self, refusals: Refusals) -> None:
        """Ask; what services refuse is read from `refusals`, and added to them."""
        self._refusals = refusals
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._accounts: dict[Endpoint, _Account] = {}

    def identity(self, spec: ModelSpec) -> dict[str, Any]:
        """Return the endpoint, the model's name there, and what goes into every request."""
        return endpoint.identity_of(spec)

    def ask(self, batches: Sequence[Sequence[Request]]) -> Iterator[dict[str, Reply]]:
        """Yield replies as they come, all that are there at once.

        Whoever wants the next ones has stored these: until then their calls count as in flight,
        so that no more replies than may be in flight are lost with the process.
        """
        planned = self._by_account([request for batch in batches for request in batch])
        waiting = sum(map(len, planned.values()))
        loop, inbox = self._running_loop(), _Inbox()
        wave = asyncio.run_coroutine_threadsafe(_ask_all(planned, inbox), loop)
        # A wave that breaks must not leave anybody waiting for it.
        wave.add_done_callback(lambda _: inbox.end())
        arrived: Sequence[_Answer] = ()
        try:
            with _quick_turns(), _large_bodies():
                while waiting:
                    arrived = inbox.wait()
                    if not arrived:
                        wave.result()
                        raise RuntimeError("calls got lost on their way")
                    waiting -= len(arrived)
                    yield {one.key: one.reply for one in arrived}
                    loop.call_soon_threadsafe(_let_go, arrived)
                    arrived = ()
        finally:
            wave.cancel()
            loop.call_soon_threadsafe(_let_go, arrived)
            loop.call_soon_threadsafe(inbox.clear)

    @property
    def in_flight(self) -> int:
        """How many calls have left and are not stored yet."""
        return sum(account.lane.pace.in_flight for account in self._accounts.values())

    def close(self) -> None:
        """Close the connections and end the thread."""
        if self._loop is None or self._thread is None:
            return
        for account in self._accounts.values():
            asyncio.run_coroutine_threadsafe(account.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._accounts, self._loop, self._thread = {}, None, None

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=_run_loop, args=(self._loop,), name="harness-chat", daemon=True
            )
            self._thread.start()
        return self._loop

    def _by_account(self, requests: Sequence[Request]) -> dict[_Account, list[_Errand]]:
        planned: dict[_Account, list[_Errand]] = {}
        tables: dict[tuple[int, str, str], _Table] = {}  # one table serves thousands of requests
        for request in requests:
            spec = request.model
            if (known := (id(spec.options), spec.target, spec.thinking)) not in tables:
                tables[known] = _Table(spec, self._account(spec), self._refusals)
            table = tables[known]
            planned.setdefault(table.account, []).append((request, table))
        return planned

    def _account(self, spec: ModelSpec) -> _Account:
        place, limit = endpoint.endpoint_of(spec), endpoint.concurrency_of(spec)
        if place not in self._accounts:
            self._accounts[place] = _Account(place, limit)
        account = self._accounts[place]
        account.lane.pace.limit = min(account.lane.pace.limit, limit)
        return account


@contextmanager
def _quick_turns() -> Iterator[None]:
    """Let threads wait less for each other: the one with the calls has little to do at a time."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(TURN_S)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


@contextmanager
def _large_bodies() -> Iterator[None]:
    """Let a prompt be longer than 1 MB, where a user's filters make aiohttp's warning an error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sending a large body", ResourceWarning)
        yield


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


@dataclass(frozen=True, slots=True)
class _Answer:
    """The reply of a call, and the lane in which the call still has its place."""

    key: str
    reply: Reply
    lane: Lane | None


def _let_go(answers: Iterable[_Answer]) -> None:
    for answer in answers:
        if answer.lane:
            answer.lane.leave()


class _Inbox:
    """Takes the answers of a wave from the thread of the loop to the one that waits for them."""

    def __init__(self) -> None:
        self._answers: SimpleQueue[_Answer | None] = SimpleQueue()

    def put(self, answer: _Answer) -> None:
        """Add an answer."""
        self._answers.put(answer)

    def end(self) -> None:
        """Say that no more answers come."""
        self._answers.put(None)

    def wait(self) -> list[_Answer]:
        """Wait for an answer; return all that are there, none if no more will come."""
        first = self._answers.get()
        return [first, *self._there()] if first else []

    def clear(self) -> None:
        """Give up what nobody waits for any more."""
        _let_go(self._there())

    def _there(self) -> Iterator[_Answer]:
        with suppress(Empty):
            while answer := self._answers.get_nowait():
                yield answer
            self.end()


class _Account:
    """A service that is asked with one key: its client, its pace, and what hides the key."""

    def __init__(self, place: Endpoint, limit: int) -> None:
        self.place = place
        self.client = place.client()
        self.lane = Lane(limit)
        self.mask = place.mask
        self._filter = LogMask(self.mask)
        for name in LOGGERS:
            logging.getLogger(name).addFilter(self._filter)

    async def close(self) -> None:
        """Close the connections."""
        for name in LOGGERS:
            logging.getLogger(name).removeFilter(self._filter)
        await self.client.close()


class _Table:
    """A model's table, read: the account that it is asked with, and what every body holds."""

    def __init__(self, spec: ModelSpec, account: _Account, refusals: Refusals) -> None:
        self.account = account
        self.timeout_s = endpoint.timeout_of(spec)
        self._fields = endpoint.body_options(spec)
        self._choice = endpoint.choice_of(spec)
        self._place = endpoint.place_of(spec)
        self._refusals = refusals
        self._refused: Refused | None = None
        self._names: dict[str, str] = {}

    @property
    def names(self) -> dict[str, str]:
        """The fields that are sent by default now, with the names that they are sent under."""
        refused = self._refusals.of(self._place)
        if refused is not self._refused:
            self._refused, self._names = refused, self._choice.names(refused)
        return self._names

    def body(self, request: Request, names: Mapping[str, str]) -> dict[str, Any]:
        """Return what is sent for `request`, with these `names` of fields."""
        sampling = request.model.sampling
        values = {
            "temperature": sampling.temperature,
            "seed": sampling.seed + request.trial,
            **dict.fromkeys(LIMITS, sampling.max_tokens),
        }
        body: dict[str, Any] = {
            "model": request.model.target,
            "messages": [_sendable(message) for message in as_protocol(request.messages)],
            **{sent: values[name] for name, sent in names.items()},
        }
        if request.case and request.case.tools:
            body["tools"] = [dict(tool) for tool in request.case.tools]
        return {**body, **self._fields}

    def refused(self, problem: CallFailed, names: Mapping[str, str]) -> frozenset[str]:
        """Return which of the fields that we sent by ourselves the service does not know."""
        if problem.kind is not Kind.PERMANENT or problem.status not in (400, 422):
            return frozenset()
        return refused_fields(problem.error, self._choice.ours(names))

    def advised(self, problem: CallFailed, names: Mapping[str, str]) -> str:
        """Return what went wrong, with a way out where it is about a field that nobody chose."""
        said, ours = str(problem), sorted(self._choice.ours(names))
        named = [name for name in ours if re.search(rf"(?<![\w.\]-]){name}(?![\w\[])", said)]
        if not named or problem.kind is not Kind.PERMANENT or problem.status not in (400, 422):
            return said
        fields = " and ".join(named)
        return f"{said} (the model's table can set, `omit` or `rename` {fields})"

    def learn(self, refused: Iterable[str]) -> None:
        """Send no more of what is `refused` to this model."""
        self._refusals.learn(self._place, refused)


def _sendable(message: Message) -> dict[str, Any]:
    return {key: value for key, value in message.items() if key in fields.MESSAGE_KEYS}


_Errand = tuple[Request, _Table]


async def _ask_all(planned: Mapping[_Account, Sequence[_Errand]], inbox: _Inbox) -> None:
    try:
        async with asyncio.TaskGroup() as lanes:
            for account, errands in planned.items():
                lanes.create_task(_ask_account(account, errands, inbox))
    except asyncio.CancelledError:
        inbox.clear()
        raise


async def _ask_account(account: _Account, errands: Sequence[_Errand], inbox: _Inbox) -> None:
    """Send the requests in their order, each as soon as there is room for it."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    async with asyncio.TaskGroup() as calls:
        for request, table in errands:
            await account.lane.turn()
            call = _Call(request, table, queue_s=loop.time() - started)
            calls.create_task(call.answer(inbox))


@dataclass(eq=False, slots=True)
class _Call:
    """A request on its way; it has its first turn already."""

    request: Request
    table: _Table
    queue_s: float
    attempts: int = 0
    names: Mapping[str, str] = field(default_factory=dict)
    refused: frozenset[str] = frozenset()

    async def answer(self, inbox: _Inbox) -> None:
        """Put the reply into `inbox`; whatever goes wrong is its `error`."""
        lane: Lane | None = self.table.account.lane
        try:
            reply = await self._persistently()
        except CallFailed as problem:
            told = self.table.advised(problem, self.names)
            reply, lane = _reply_of(problem.kind, self.table.account.mask(told)), None
        reply = replace(reply, queue_s=self.queue_s, attempts=self.attempts)
        inbox.put(_Answer(self.request.key, reply, lane))

    async def _persistently(self) -> Reply:
        from tenacity import AsyncRetrying, retry_if_exception

        tries = Tries()
        retry = retry_if_exception(tries.again)
        return await AsyncRetrying(retry=retry, wait=tries.wait, reraise=True)(self._once)

    def _learns(self, problem: CallFailed) -> bool:
        """Return whether the call can do without what the service refuses; each field once."""
        refused = self.table.refused(problem, self.names)
        if refused <= self.refused or not has_way_out(refused | self.refused):
            return False
        self.refused |= refused
        self.table.learn(refused)
        return True

    async def _once(self) -> Reply:
        """Return the reply; then the call keeps its place in the lane until it is let go."""
        loop, lane = asyncio.get_running_loop(), self.table.account.lane
        if self.attempts:
            waiting = loop.time()
            await lane.turn()
            self.queue_s += loop.time() - waiting
        self.attempts += 1
        started = loop.time()
        try:
            return reply_of(await self._sent(), loop.time() - started)
        except CallFailed as problem:
            if self._learns(problem):  # then it can be sent again at once
                problem = CallFailed(Kind.TRANSIENT, str(problem), pause_s=0.0)
            lane.leave(problem)
            raise problem from None
        except asyncio.CancelledError:
            lane.leave(CallFailed(Kind.TRANSIENT, "broken off"))
            raise

    async def _sent(self) -> object:
        """Return the answer: its JSON, or its text where it is not declared as JSON.

        Raises:
            CallFailed: none came, or one with an error status.

        """
        client, timeout_s = self.table.account.client, self.table.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                self.names = self.table.names
                body = self.table.body(self.request, self.names)
                return await client.post("/chat/completions", cast_to=object, body=body)
        except JSONDecodeError as problem:
            raise unreadable(problem.doc) from None
        except Exception as problem:  # a server may answer anything at all
            raise failure_of(problem, timeout_s) from None


def _reply_of(kind: Kind, text: str) -> Reply:
    if kind is Kind.CONTENT_FILTER:
        return Reply(finish_reason="content_filter")
    return Reply(error="".join(c if c.isprintable() else " " for c in text)[:ERROR_CHARACTERS])
