"""Batched generation with one local model: exact, seeded per request, no work on finished rows.

Why not `model.generate`: it goes on with every row until the last one ends, computes a few-shot
prefix once per row, and draws one stream of random numbers for the whole batch. Here rows leave
when they end, and the next batch joins those that go on where that pads neither much.

A batch is of one model: PEFT can answer for base and adapters in one batch (`adapter_names`), but
their prompts seldom begin alike. Measured on one core, 24 shipped tickets x (base + candidate) with
the same replies: 4.1 s apart, 5.2 s apart without a shared beginning, 5.6 s mixed (CPU time).
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

KEPT_SHARE = 0.9
"""Finished rows leave the batch when at most this share of its rows still lives."""
JOINED, PADDED = 1.1, 1.25
"""A batch joins rows that go on where both together come to at most so many times the tokens of the
largest batch so far, and to at most so many times what they take apart."""


class Guide(Protocol):
    """Follows a row while it grows: says which tokens may come next and when it is over."""

    @property
    def done(self) -> bool:
        """Whether nothing more is wanted."""

    def begin(self) -> None:
        """Start from nothing; a batch that the memory does not hold is begun again."""

    def fits(self, token: int) -> bool:
        """Whether `token` may come next."""

    def take(self, token: int) -> None:
        """Hear that `token` has come."""


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One prompt: its tokens (at least one), how many may follow, and how they are drawn.

    `temperature` 0 is greedy; `seed` (64 bits) belongs to this row alone, whatever its batch.
    `top_p` in [0, 1]: only the likeliest tokens that together have this share are drawn, at least
    one.
    """

    tokens: Sequence[int]
    limit: int
    temperature: float = 0.0
    seed: int = 0
    top_p: float = 1.0
    guide: Guide | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """A row and what was generated for it: up to a stop token, which is there too, or its limit.

    `tokens` is None where the memory does not hold the row alone. `seconds` is its share of the
    time, without that of attempts for which the memory was too small.
    """

    row: Row
    tokens: list[int] | None
    seconds: float


def text_of(tokenizer: Any, tokens: Sequence[int]) -> str:
    """Return what the model said in `tokens`, spaces as they are."""
    text: str = tokenizer.decode(
        tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return text


def room(rows: Iterable[Row]) -> int:
    """Return how many tokens `rows` can come to in one batch, the padding included."""
    sizes = [len(row.tokens) + row.limit for row in rows]
    return len(sizes) * max(sizes, default=0)


class Stream:
    """Generates for batches in their order; iterating yields rows as they end.

    `model` is a causal language model of transformers in eval mode. Two batches of together `most`
    tokens or more (see `room`) are not joined, and those of up to `usual` always. A batch of None
    stands for what may yet come: while rows grow it is asked for again, else it is the end.
    """

    def __init__(
        self,
        model: Any,
        batches: Iterable[Sequence[Row] | None],
        stop: Collection[int],
        pad: int,
        most: float = math.inf,
        usual: int = 0,
    ) -> None:
        self._batch = _Batch(model, stop, pad)
        self._waiting = iter(batches)
        self._most, self._usual = most, usual
        self._largest = 0
        self._reading: Sequence[Row] = ()
        self.upcoming: Sequence[Row] = self._next()
        """The next batch; no other one was taken."""
        self.begun: list[Sequence[Row]] = []
        """The batches that were begun since there was nothing to go on with."""

    def __iter__(self) -> Iterator[list[Ended]]:
        while self.upcoming or self._batch.rows:
            if self.upcoming and self._fits(self.upcoming):
                if not self._batch.rows:
                    self.begun.clear()
                self._reading, self.upcoming = self.upcoming, self._next()
                self.begun.append(self._reading)
                self._batch.read(self._reading)
                self._reading = ()
            if ended := self._batch.draw():
                yield ended
            self._batch.step()
            self.upcoming = self.upcoming or self._next()

    @property
    def at_work(self) -> list[Row]:
        """The rows that are begun and have not ended."""
        return [*self._batch.living, *self._reading]

    def _next(self) -> Sequence[Row]:
        """Return the next batch that has rows; none where there is none now."""
        return next((rows for rows in self._waiting if rows is None or rows), None) or ()

    def _fits(self, rows: Sequence[Row]) -> bool:
        living = self._batch.living
        self._largest = max(self._largest, room(rows))
        if not living:
            return True
        together = room([*living, *rows])
        if together >= self._most:
            return False
        if together <= self._usual and self._batch.can_change:
            return True
        return together <= JOINED * self._largest and self._batch.takes(rows)


@dataclass(slots=True)
class Growing:
    """A row with what was generated so far."""

    row: Row
    stop: Collection[int]
    generator: Any
    tokens: list[int] = field(default_factory=list)
    seconds: float = 0.0
    is_told: bool = False

    @property
    def is_over(self) -> bool:
        """Whether it goes no further: its guide, its limit or a stop token says so."""
        if self.row.guide and self.row.guide.done:
            return True
        full = len(self.tokens) >= self.row.limit
        return full or (bool(self.tokens) and self.tokens[-1] in self.stop)

    def take(self, token: int) -> None:
        """Append a token."""
        self.tokens.append(token)
        if self.row.guide:
            self.row.guide.take(token)


class _Batch:
    """The rows that are generated for together, side by side in one context."""

    def __init__(self, model: Any, stop: Collection[int], pad: int) -> None:
        from harness.models.context import Context

        self._context = Context(model, pad)
        self._stop = stop
        self._rows: list[Growing] = []
        self._tokens: list[int] = []

    @property
    def rows(self) -> list[Row]:
        """The rows that have not left."""
        return [one.row for one in self._rows]

    @property
    def living(self) -> list[Row]:
        """The rows that go on."""
        return [one.row for one in self._rows if not one.is_over]

    @property
    def can_change(self) -> bool:
        """Whether rows can join those that go on."""
        return self._context.can_change

    def takes(self, rows: Sequence[Row]) -> bool:
        """Whether these rows can join those that go on, and pad neither much."""
        if not self.can_change:
            return False
        prompts = [list(row.tokens) for row in rows]
        living, width = len(self.living), self._context.width
        longest = max(map(len, prompts)) - self._context.apart(prompts)
        read = living * width + len(prompts) * longest
        return (living + len(prompts)) * max(width, longest) <= PADDED * read

    def read(self, rows: Sequence[Row]) -> None:
        """Take in rows and read their prompts; those that are there already keep their place."""
        import torch

        started = time.perf_counter()
        ordered = sorted(rows, key=lambda row: len(row.tokens))
        for guided in filter(None, (row.guide for row in rows)):
            guided.begin()
        self._context.read([list(row.tokens) for row in ordered])
        self._rows += [
            Growing(row, self._stop, torch.Generator().manual_seed(row.seed)) for row in ordered
        ]
        self._share(started, self._rows[-len(rows) :])

    def draw(self) -> list[Ended]:
        """Append the next token of each row that goes on; return the rows that ended."""
        from harness.models.drawing import next_tokens

        started = time.perf_counter()
        growing = {at: one for at, one in enumerate(self._rows) if not one.is_over}
        self._tokens = next_tokens(self._context.logits, growing)
        for at, one in growing.items():
            one.take(self._tokens[at])
        self._share(started, growing.values())
        ended = [one for one in self._rows if one.is_over and not one.is_told]
        for one in ended:
            one.is_told = True
        return [Ended(one.row, one.tokens, one.seconds) for one in ended]

    def step(self) -> None:
        """Read the tokens that were drawn."""
        started = time.perf_counter()
        kept = [at for at, one in enumerate(self._rows) if not one.is_over]
        if not kept or (self._context.can_change and len(kept) <= KEPT_SHARE * len(self._rows)):
            places = _closed_up(kept)
            self._rows = [self._rows[at] for at in places]
            self._tokens = [self._tokens[at] for at in places]
            self._context.keep(places)
        if kept:
            self._context.append(self._tokens, [not one.is_over for one in self._rows])
        self._share(started, [one for one in self._rows if not one.is_over])

    def _share(self, started: float, rows: Collection[Growing]) -> None:
        for one in rows:
            one.seconds += (time.perf_counter() - started) / len(rows)


def _closed_up(places: list[int]) -> list[int]:
    """Return the places so that only those move that lie beyond as many as there are."""
    staying, beyond = {at for at in places if at < len(places)}, iter(reversed(places))
    return [at if at in staying else next(beyond) for at in range(len(places))]
