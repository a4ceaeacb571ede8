"""One thread that owns the loaded models and answers in batches what is waiting together."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.records import (
    Case,
    EvidenceError,
    HarnessError,
    Message,
    ModelSpec,
    Reply,
    Request,
)
from harness.records import digest_of as digest
from harness.serve.wire import ProtocolError

if TYPE_CHECKING:
    from harness.models.guide import Wish
    from harness.models.loaded import Home, Loaded

WINDOW_S = 0.003
"""How long a batch waits for company."""
MOST_ROWS = 64
USUAL_ROOM = MOST_ROWS * 1_024
"""Tokens that rows which go on and those that join them may come to (see `decode.room`): as many
as a batch whose requests set no limit."""
MOST_WAITING = 1_024
"""Replies that may be waited for; a client that comes then is asked to come again, and one that
wants several replies to one prompt already at half of it."""
SMALL_BYTES = 100 * 2**20
"""Weights that one thread gets through as fast as several, which would wait for each other."""
MOST_BASES, MOST_ADAPTERS = 3, 16
"""Kept in memory: bases, and adapters on each of them; those asked longest ago are let go."""


@dataclass(frozen=True)
class _Waiting:
    request: Request
    wish: Wish
    home: Home
    turn: int
    reply: Future[Reply] = field(default_factory=Future)

    @property
    def kind(self) -> tuple[Home, Path | None]:
        """What all requests of one batch have in common."""
        return self.home, self.request.model.adapter


class Batcher:
    """Takes requests from any thread; replies are futures."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []
        self._changed = threading.Condition()
        self._closed = False
        self._numbers, self._turns = count(), count()
        self._models = _Models()
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
        self._thread.start()

    def ask(
        self,
        spec: ModelSpec,
        messages: tuple[Message, ...],
        choices: int,
        wishes: list[Wish],
        tools: tuple[Mapping[str, Any], ...] = (),
    ) -> list[Future[Reply]]:
        """Ask one prompt for as many `choices` as there are wishes; `tools` may be called.

        Raises:
            ProtocolError: too many are waiting (429), or the model cannot be asked at all (500).

        """
        from harness.models.loaded import home_of

        try:
            home = home_of(spec)
        except (HarnessError, EvidenceError) as problem:
            raise broken(problem) from None
        turn = next(self._turns)
        asked = [
            # Who wants many replies to one prompt waits with the later ones for those who came
            # behind: nobody waits for all of them.
            _Waiting(self._request(spec, messages, choice, tools), wish, home, turn + choice)
            for choice, wish in zip(range(choices), wishes, strict=True)
        ]
        with self._changed:
            waiting = sum(not one.reply.cancelled() for one in self._waiting)
            most = MOST_WAITING if choices == 1 else MOST_WAITING // 2
            if waiting + len(asked) > most:
                raise busy()
            self._waiting = sorted([*self._waiting, *asked], key=lambda one: one.turn)
            self._changed.notify()
        return [one.reply for one in asked]

    def close(self) -> None:
        """Finish the batch at work and end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout=5)

    def _request(
        self,
        spec: ModelSpec,
        messages: tuple[Message, ...],
        choice: int,
        tools: tuple[Mapping[str, Any], ...],
    ) -> Request:
        # The first digits seed the draws (`Loaded`); the rest tells equal requests apart.
        seed = digest([spec.sampling.seed, choice, list(messages)])[:16]
        key = f"{seed}{next(self._numbers):x}"
        return Request(key, spec, messages, 0, case=case_with(tools))

    def _run(self) -> None:
        while batch := self._next():
            self._answer(batch)

    def _next(self) -> list[_Waiting]:
        """Wait for a request; return what is waiting for its model; nothing at the end."""
        batch: list[_Waiting] = []
        while not batch:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return []
                kind = self._waiting[0].kind
            time.sleep(WINDOW_S)
            batch = self._taken(kind, MOST_ROWS)
        return batch

    def _taken(self, kind: tuple[Home, Path | None], most: int) -> list[_Waiting]:
        """Take the next requests to one model from the queue, up to a limit, if it is its turn."""
        with self._changed:
            if not self._waiting or self._waiting[0].kind != kind:
                return []
            taken = [one for one in self._waiting if one.kind == kind][:most]
            chosen = set(map(id, taken))
            self._waiting = [one for one in self._waiting if id(one) not in chosen]
        return [one for one in taken if one.reply.set_running_or_notify_cancel()]

    def _answer(self, batch: list[_Waiting]) -> None:
        kind = batch[0].kind
        asked: dict[str, _Waiting] = {}
        wishes: dict[str, Wish] = {}

        def batches() -> Iterator[list[Request] | None]:
            """Yield the batch and, while it goes on, who comes to the same model."""
            joining = batch
            while not self._closed:
                asked.update({one.request.key: one for one in joining})
                wishes.update({one.request.key: one.wish for one in joining})
                yield [one.request for one in joining] or None
                joining = self._taken(kind, MOST_ROWS - len(asked))

        try:
            loaded = self._models.load(*kind)
            for replies in loaded.answers(kind[1], batches(), wishes, USUAL_ROOM):
                for key, reply in replies.items():
                    asked.pop(key).reply.set_result(reply)
                    wishes.pop(key)
            problem = broken(RuntimeError("a reply got lost"))  # nobody may wait for ever
        except (HarnessError, EvidenceError) as reason:
            problem = broken(reason)
        except Exception as reason:  # one bad batch must not end the server
            traceback.print_exc(file=sys.stderr)
            problem = broken(reason)
        _fail([*batch, *asked.values()], problem)


def case_with(tools: tuple[Mapping[str, Any], ...]) -> Case | None:
    """Return what tells a model of the tools that it may call; None if there are none."""
    return Case("serve", "", (), tools=tools) if tools else None


def _fail(batch: list[_Waiting], problem: ProtocolError) -> None:
    for one in batch:
        if not one.reply.done():
            one.reply.set_exception(problem)


def busy() -> ProtocolError:
    """Return the answer to who comes while too many wait."""
    return ProtocolError(
        429,
        "Too many requests are waiting; try again in a second.",
        kind="requests",
        code="rate_limit_exceeded",
        headers={"Retry-After": "1"},
    )


def broken(problem: Exception) -> ProtocolError:
    """Return the answer to who asks what cannot be asked because of `problem`."""
    said = isinstance(problem, HarnessError | EvidenceError)
    message = str(problem) if said else "The server had an error while processing your request."
    return ProtocolError(500, message, kind="server_error")


class _Models:
    """The loaded bases, each with the adapters that were asked last."""

    def __init__(self) -> None:
        self._held: OrderedDict[Home, Loaded] = OrderedDict()
        self._adapters: dict[Home, list[Path]] = {}
        self._threads = 0

    def load(self, home: Home, adapter: Path | None) -> Loaded:
        """Return the base with at least this adapter.

        PEFT loads adapters exactly only before the first forward: a new one loads all again.
        """
        wanted = [adapter] if adapter else []
        held = self._held.get(home)
        if held and held.serves(home, wanted):
            self._held.move_to_end(home)
            return held
        self._let_go(home)
        while len(self._held) >= MOST_BASES:
            self._let_go(next(iter(self._held)))
        others = [path for path in self._adapters.get(home, []) if path not in wanted]
        return self._load(home, [*others, *wanted][-MOST_ADAPTERS:])

    def _load(self, home: Home, adapters: list[Path]) -> Loaded:
        from harness.models.loaded import Loaded

        self._held[home] = Loaded(home, adapters)
        self._share_processors(home)
        self._adapters[home] = adapters  # not before: a damaged adapter must not stay
        return self._held[home]

    def _let_go(self, home: Home) -> None:
        if held := self._held.pop(home, None):
            held.close()

    def _share_processors(self, home: Home) -> None:
        """Leave the other processors to a training and to the clients where the model is small."""
        import torch

        self._threads = self._threads or torch.get_num_threads()
        if isinstance(home.source, Path):
            size = sum(path.stat().st_size for path in home.source.glob("*.safetensors"))
            torch.set_num_threads(1 if size < SMALL_BYTES else self._threads)
