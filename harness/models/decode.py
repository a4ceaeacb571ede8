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
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from harness.models.beginning import Beginning

PIECE_TOKENS, LARGE_PIECE_TOKENS = 2_048, 16_384
"""So much of a batch's prompts is read at a time: on a CPU what is worked on stays near it."""
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

    `model` is a causal language model of transformers in eval mode. What all prompts of a batch
    begin with is read once (see `beginning`); the padding stands behind it, on the left of what is
    each prompt's own. Two batches of together `most` tokens or more (see `room`) are not joined.
    """

    def __init__(
        self,
        model: Any,
        batches: Iterable[Sequence[Row]],
        stop: Collection[int],
        pad: int,
        most: float = math.inf,
    ) -> None:
        self._batch = _Batch(model, stop, pad)
        self._waiting = filter(None, batches)
        self._most = most
        self._largest = 0
        self._reading: Sequence[Row] = ()
        self.upcoming: Sequence[Row] = next(self._waiting, ())
        """The next batch; no other one was asked for."""
        self.begun: list[Sequence[Row]] = []
        """The batches that were begun since there was nothing to go on with."""

    def __iter__(self) -> Iterator[list[Ended]]:
        while self.upcoming or self._batch.rows:
            if self.upcoming and self._fits(self.upcoming):
                if not self._batch.rows:
                    self.begun.clear()
                self._reading, self.upcoming = self.upcoming, next(self._waiting, ())
                self.begun.append(self._reading)
                self._batch.read(self._reading)
                self._reading = ()
            if ended := self._batch.draw():
                yield ended
            self._batch.step()

    @property
    def at_work(self) -> list[Row]:
        """The rows that are begun and have not ended."""
        return [*self._batch.living, *self._reading]

    def _fits(self, rows: Sequence[Row]) -> bool:
        living, width = self._batch.living, self._batch.width
        self._largest = max(self._largest, room(rows))
        if not living:
            return True
        together = room([*living, *rows])
        is_small = together < self._most and together <= JOINED * self._largest
        if not (is_small and self._batch.can_grow):
            return False
        longest = max(len(row.tokens) for row in rows) - self._batch.apart(rows)
        read = len(living) * width + len(rows) * longest
        padded = (len(living) + len(rows)) * max(width, longest)
        return padded <= PADDED * read


@dataclass(slots=True)
class Growing:
    """A row with what was generated so far."""

    row: Row
    stop: Collection[int]
    generator: Any
    is_apart: bool
    """Whether its beginning is attended to apart."""
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
    """What the model has read so far, row by row, and the logits of what comes next."""

    def __init__(self, model: Any, stop: Collection[int], pad: int) -> None:
        self._model, self._stop, self._pad = model, stop, pad
        self._rows: list[Growing] = []
        self._tokens: list[int] = []
        self._beginning: Beginning | None = None
        self._cache: Any = None
        self._mask: Any = None
        self._last: Any = None
        self._logits: Any = None

    @property
    def rows(self) -> list[Row]:
        """The rows that have not left."""
        return [one.row for one in self._rows]

    @property
    def living(self) -> list[Row]:
        """The rows that go on."""
        return [one.row for one in self._rows if not one.is_over]

    @property
    def width(self) -> int:
        """How many tokens of each row are in the cache, the padding included."""
        return self._mask.shape[1] if self._rows else 0

    def apart(self, rows: Sequence[Row]) -> int:
        """Return how many first tokens of these rows would not be in the cache, but apart."""
        shared, is_apart = self._begin([list(row.tokens) for row in rows])
        return shared if is_apart else 0

    @property
    def can_grow(self) -> bool:
        """Whether rows can leave and join; the caches of some models do not allow it."""
        from harness.models.room import is_plain

        return self._cache is None or is_plain(self._cache)

    def read(self, rows: Sequence[Row]) -> None:
        """Take in rows and read their prompts; those that are there already keep their place."""
        import torch

        started = time.perf_counter()
        ordered = sorted(rows, key=lambda row: len(row.tokens))
        for guided in filter(None, (row.guide for row in rows)):
            guided.begin()
        with torch.inference_mode():
            is_apart = self._read([list(row.tokens) for row in ordered])
        self._rows += [
            Growing(row, self._stop, torch.Generator().manual_seed(row.seed), is_apart)
            for row in ordered
        ]
        self._share(started, self._rows[-len(rows) :])

    def draw(self) -> list[Ended]:
        """Append the next token of each row that goes on; return the rows that ended."""
        from harness.models.drawing import next_tokens

        started = time.perf_counter()
        growing = [(at, one) for at, one in enumerate(self._rows) if not one.is_over]
        self._tokens = next_tokens(self._logits, self._rows)
        for at, one in growing:
            one.take(self._tokens[at])
        self._share(started, [one for _, one in growing])
        ended = [one for one in self._rows if one.is_over and not one.is_told]
        for one in ended:
            one.is_told = True
        return [Ended(one.row, one.tokens, one.seconds) for one in ended]

    def step(self) -> None:
        """Read the tokens that were drawn."""
        import torch

        started = time.perf_counter()
        kept = [at for at, one in enumerate(self._rows) if not one.is_over]
        with torch.inference_mode():
            if not kept or (self.can_grow and len(kept) <= KEPT_SHARE * len(self._rows)):
                self._keep(_closed_up(kept))
            if kept:
                self._read_drawn()
        self._share(started, [one for one in self._rows if not one.is_over])

    def _share(self, started: float, rows: Sequence[Growing]) -> None:
        for one in rows:
            one.seconds += (time.perf_counter() - started) / len(rows)

    def _keep(self, places: list[int]) -> None:
        """Drop all rows but those at `places`."""
        import torch

        self._rows = [self._rows[at] for at in places]
        self._tokens = [self._tokens[at] for at in places]
        if not places:
            self._cache = self._mask = self._last = self._logits = None
            return
        chosen = torch.tensor(places, device=self._model.device)
        self._cache.batch_select_indices(chosen)
        self._mask = self._mask[chosen]
        self._last = self._last[chosen]

    def _read_drawn(self) -> None:
        import torch

        device = self._model.device
        # Rows that ended stay where they are: the context may end there, too.
        lives = torch.tensor([[int(not one.is_over)] for one in self._rows], device=device)
        self._mask = torch.cat([self._mask, torch.ones_like(self._last)], dim=-1)
        self._last = self._last + lives
        ids = torch.tensor(self._tokens, device=device)[:, None]
        apart = [one.is_apart for one in self._rows]
        self._cache, self._logits = self._forward(self._cache, ids, self._last, self._mask, apart)

    def _read(self, prompts: list[list[int]]) -> bool:
        """Read prompts, sorted by length, what is each one's own a piece at a time.

        Return whether what they begin with is attended to apart.
        """
        import torch

        from harness.models.room import Assembly, is_plain

        shared, is_apart = self._begin(prompts)
        beginning = self._read_beginning(prompts[0][:shared], is_apart) if shared else None
        shared = shared if beginning else 0
        hidden = shared if is_apart else 0
        old = len(self._rows)
        length = max(self._mask.shape[1] if old else 0, len(prompts[-1]) - hidden)
        whole = Assembly(old + len(prompts), length)
        parts = []
        if old:
            whole.add(self._cache)
            self._cache = None  # the memory of two batches is not needed
            parts.append((self._mask, self._last, self._logits))

        def read(piece: list[list[int]], cache: Any) -> Any:
            ids, positions, mask = self._padded(piece, shared)
            mask, apart = mask[:, hidden:], [is_apart] * len(piece)
            cache, logits = self._forward(cache, ids, positions, mask, apart)
            parts.append((mask, positions[:, -1:], logits))
            return cache

        most = PIECE_TOKENS if self._model.device.type == "cpu" else LARGE_PIECE_TOKENS
        for piece in _pieces(prompts, shared, most):
            begun = None
            if beginning:
                width = len(piece[-1]) - shared
                begun = whole.begun(beginning.cache, shared - hidden, len(piece), width)
            cache = read(piece, begun)
            if not is_plain(cache):  # such a cache cannot be put together
                if len(piece) < len(prompts):
                    parts.clear()
                    cache = read(prompts, None)
                break
            if not beginning:
                whole.add(cache)
        else:
            cache.layers = whole.layers()
        masks, lasts, logits = zip(*parts, strict=True)
        self._cache, self._last, self._logits = cache, torch.cat(lasts), torch.cat(logits)
        self._mask = torch.cat([_left_padded(mask, length) for mask in masks])
        return is_apart

    def _padded(self, prompts: list[list[int]], shared: int) -> tuple[Any, Any, Any]:
        """Return tokens and positions of what is each prompt's own, and the mask of all of it.

        The padding stands between what is shared and what is each one's own.
        """
        import torch

        device, longest = self._model.device, max(map(len, prompts))
        gaps = [longest - len(prompt) for prompt in prompts]
        own = [
            [self._pad] * gap + prompt[shared:] for gap, prompt in zip(gaps, prompts, strict=True)
        ]
        seen = [[1] * shared + [0] * gap + [1] * (longest - shared - gap) for gap in gaps]
        mask = torch.tensor(seen, device=device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, shared:]
        return torch.tensor(own, device=device), positions, mask

    def _begin(self, prompts: list[list[int]]) -> tuple[int, bool]:
        """Return how many first tokens are read once for all prompts, and whether they stay apart.

        One beginning is apart at a time. Where rows that go on need it, another one is copied.
        """
        from harness.models.beginning import LEAST, is_enabled

        shared = _shared_length(prompts) if len(prompts) > 1 else 0
        is_needed = any(one.is_apart and not one.is_over for one in self._rows)
        known = self._beginning.tokens if self._beginning else []
        if known and (is_needed or shared < len(known) + LEAST) and _all_begin(prompts, known):
            return len(known), True
        return shared, shared >= LEAST and not is_needed and is_enabled(self._model)

    def _read_beginning(self, tokens: list[int], is_apart: bool) -> Beginning | None:
        """Read what all prompts begin with; None: nothing can follow it in the model's cache."""
        import torch

        from harness.models.beginning import Beginning
        from harness.models.room import is_plain

        if is_apart and self._beginning and self._beginning.tokens == tokens:
            return self._beginning
        ids = torch.tensor([tokens], device=self._model.device)
        cache = self._model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
        if not is_plain(cache):  # a sliding window would count the padding
            return None
        beginning = Beginning(tokens, cache)
        if is_apart:
            self._beginning = beginning
        return beginning

    def _forward(
        self, cache: Any, ids: Any, positions: Any, mask: Any, apart: Sequence[bool]
    ) -> tuple[Any, Any]:
        """Return the cache and the logits of what follows the last of `ids`, row by row.

        Rows of which `apart` is true have read the beginning before what is in `cache`.
        """
        seen: dict[str, Any] = {"attention_mask": mask}
        if (known := self._beginning) and any(apart):
            seen = {
                "attention_mask": known.mask(mask, ids.shape[1]),
                "beginning": known.of(apart),
            }
        out = self._model(
            input_ids=ids,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **seen,
        )
        return out.past_key_values, out.logits[:, -1].float()


def _closed_up(places: list[int]) -> list[int]:
    """Return the places so that only those move that lie beyond as many as there are."""
    staying, beyond = {at for at in places if at < len(places)}, iter(reversed(places))
    return [at if at in staying else next(beyond) for at in range(len(places))]


def _left_padded(mask: Any, length: int) -> Any:
    import torch

    return torch.nn.functional.pad(mask, (length - mask.shape[1], 0))


def _pieces(prompts: list[list[int]], shared: int, most: int) -> Iterator[list[list[int]]]:
    """Split prompts, sorted by length, so that at most so many tokens are read together."""
    start = 0
    while start < len(prompts):
        end = start + 1
        while end < len(prompts) and (end + 1 - start) * (len(prompts[end]) - shared) <= most:
            end += 1
        yield prompts[start:end]
        start = end


def _all_begin(prompts: Sequence[list[int]], tokens: list[int]) -> bool:
    """Whether all prompts begin with these tokens and go on."""
    length = len(tokens)
    return all(len(prompt) > length and prompt[:length] == tokens for prompt in prompts)


def _shared_length(prompts: Sequence[list[int]]) -> int:
    """Return how many first tokens are the same in all prompts, one token left to each."""
    # What the first and the last in their order share, all share.
    same = takewhile(lambda pair: pair[0] == pair[1], zip(min(prompts), max(prompts), strict=False))
    return min(sum(1 for _ in same), min(map(len, prompts)) - 1)
