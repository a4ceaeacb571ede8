"""Batched generation with one local model: exact, seeded per request, no work on finished rows.

Why not `model.generate`: it goes on with every row until the last one ends, computes a few-shot
prefix once per row, and draws one stream of random numbers for the whole batch.

A batch is of one model: PEFT can answer for base and adapters in one batch (`adapter_names`), but
their prompts seldom begin alike. Measured on one core, 24 shipped tickets x (base + candidate) with
the same replies: 4.1 s apart, 5.2 s apart without a shared beginning, 5.6 s mixed (CPU time).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Protocol

PIECE_ROWS = 32
FILLED_SHARE = 0.8
"""Where less of a batch's tokens is not padding, its prompts are read in pieces."""
KEPT_SHARE = 0.8
"""Finished rows leave the batch when at most this share of its rows still lives."""


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


@dataclass(frozen=True, slots=True)
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


def text_of(tokenizer: Any, tokens: Sequence[int]) -> str:
    """Return what the model said in `tokens`, spaces as they are."""
    text: str = tokenizer.decode(
        tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return text


def generate(model: Any, rows: Sequence[Row], stop: Collection[int], pad: int) -> list[list[int]]:
    """Return the generated tokens of each row; they end with a `stop` token or at the limit.

    `model` is a causal language model of transformers in eval mode. What all prompts begin with
    is computed once; the padding stands behind it, on the left of what is each prompt's own.
    """
    import torch

    with torch.inference_mode():
        for guided in filter(None, (row.guide for row in rows)):
            guided.begin()
        batch = _Batch(model, rows, pad)
        replies: list[list[int]] = [[] for _ in rows]
        living = list(range(len(rows)))  # in the order of the batch
        while True:
            tokens = batch.draw()
            for row, token in zip(living, tokens, strict=True):
                if not _ended(replies[row], rows[row], stop):
                    _append(replies[row], token, rows[row])
            kept = [
                at for at, row in enumerate(living) if not _ended(replies[row], rows[row], stop)
            ]
            if not kept:
                return replies
            if len(kept) <= KEPT_SHARE * len(living) and batch.keep(kept):
                living = [living[at] for at in kept]
                tokens = [tokens[at] for at in kept]
            batch.step(tokens)


def _append(reply: list[int], token: int, row: Row) -> None:
    reply.append(token)
    if row.guide:
        row.guide.take(token)


def _ended(reply: Sequence[int], row: Row, stop: Collection[int]) -> bool:
    if row.guide and row.guide.done:
        return True
    return len(reply) >= row.limit or (bool(reply) and reply[-1] in stop)


class _Batch:
    """What the model has read so far, row by row, and the logits of what comes next."""

    def __init__(self, model: Any, rows: Sequence[Row], pad: int) -> None:
        import torch

        self._model = model
        self._rows = list(rows)
        self._generators = [torch.Generator().manual_seed(row.seed) for row in rows]
        self._cache: Any = None
        self._mask: Any = None
        self._last: Any = None
        self._logits: Any = None
        prompts = [list(row.tokens) for row in rows]
        shared = self._read_shared(prompts)
        self._read(prompts, shared, pad)

    def draw(self) -> list[int]:
        """Return the next token of each row."""
        tokens: list[int] = self._logits.argmax(-1).tolist()
        for at, row in enumerate(self._rows):
            if row.temperature > 0 or (row.guide and not row.guide.done):
                tokens[at] = _chosen(self._logits[at], row, self._generators[at])
        return tokens

    def keep(self, places: list[int]) -> bool:
        """Drop all rows but those at `places`; False where the model's cache does not allow it."""
        import torch

        from harness.models.room import is_plain

        if not is_plain(self._cache):
            return False
        chosen = torch.tensor(places, device=self._model.device)
        self._cache.batch_select_indices(chosen)
        self._mask = self._mask[chosen]
        self._last = self._last[chosen]
        self._rows = [self._rows[at] for at in places]
        self._generators = [self._generators[at] for at in places]
        return True

    def step(self, tokens: list[int]) -> None:
        """Read one more token per row."""
        import torch

        self._mask = torch.cat([self._mask, torch.ones_like(self._last)], dim=-1)
        ids = torch.tensor(tokens, device=self._model.device)[:, None]
        self._forward(ids, self._last + 1, self._mask)

    def _read_shared(self, prompts: list[list[int]]) -> int:
        """Read what all prompts begin with, once; return its length (0: nothing was read)."""
        import torch

        from harness.models.room import is_plain

        shared = _shared_length(prompts) if len(prompts) > 1 else 0
        if not shared:
            return 0
        ids = torch.tensor([prompts[0][:shared]], device=self._model.device)
        cache = self._model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
        if not is_plain(cache):
            return 0  # a sliding window would count the padding
        self._cache = cache
        return shared

    def _read(self, prompts: list[list[int]], shared: int, pad: int) -> None:
        """Read what is each prompt's own, those of similar length together."""
        import torch

        from harness.models.room import Assembly, is_plain

        device, beginning, longest = self._model.device, self._cache, max(map(len, prompts))
        gaps = [longest - len(prompt) for prompt in prompts]
        rests = [[pad] * gap + prompt[shared:] for gap, prompt in zip(gaps, prompts, strict=True)]
        ids = torch.tensor(rests, device=device)
        self._mask = torch.ones(len(prompts), longest, dtype=torch.long, device=device)
        for at, gap in enumerate(gaps):
            self._mask[at, shared : shared + gap] = 0
        positions = (self._mask.cumsum(-1) - 1).clamp(min=0)[:, shared:]

        def read(piece: Any, gap: int) -> None:
            mask = [self._mask[piece, :shared], self._mask[piece, shared + gap :]]
            self._cache = _repeated(beginning, len(piece))
            self._forward(ids[piece, gap:], positions[piece, gap:], torch.cat(mask, dim=-1))

        whole, logits = Assembly(len(prompts), longest), ids.new_empty(0)
        pieces = _pieces([len(prompt) - shared for prompt in prompts])
        for places in pieces:
            piece = torch.tensor(places, device=device)
            read(piece, min(gaps[at] for at in places))
            if not is_plain(self._cache):  # such a cache cannot be put together
                if len(pieces) > 1:
                    read(torch.arange(len(prompts), device=device), 0)
                return
            whole.add(piece, self._cache, shared)
            if not logits.numel():
                logits = self._logits.new_empty(len(prompts), self._logits.shape[-1])
            logits[piece] = self._logits
        self._cache.layers, self._logits, self._last = whole.layers(), logits, positions[:, -1:]

    def _forward(self, ids: Any, positions: Any, mask: Any) -> None:
        out = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._cache = out.past_key_values
        self._last = positions[:, -1:]
        self._logits = out.logits[:, -1].float()


def _repeated(cache: Any, rows: int) -> Any:
    """Return a copy of what one row read for so many rows; None where nothing was read."""
    if cache is None:
        return None
    copied = deepcopy(cache)
    copied.batch_repeat_interleave(rows)
    return copied


def _pieces(lengths: Sequence[int]) -> list[list[int]]:
    """Return places of rows that are read together, so that they do not pad each other much."""
    if sum(lengths) >= FILLED_SHARE * len(lengths) * max(lengths):
        return [list(range(len(lengths)))]
    ordered = sorted(range(len(lengths)), key=lengths.__getitem__)
    return [ordered[start : start + PIECE_ROWS] for start in range(0, len(ordered), PIECE_ROWS)]


def _chosen(logits: Any, row: Row, generator: Any) -> int:
    tried = _tried(logits, row, generator)
    if row.guide is None or row.guide.done:
        return next(tried)
    return next(filter(row.guide.fits, tried), int(logits.argmax()))


def _tried(logits: Any, row: Row, generator: Any) -> Iterator[int]:
    """Yield tokens as they are drawn, none of them put back; then, or if greedy, the likeliest."""
    import torch

    if row.temperature > 0:
        shares = _nucleus(torch.softmax(logits.cpu() / row.temperature, dim=-1), row.top_p)
        # One is enough nearly always. Where it does not fit, starting anew leaves the others
        # their proportions.
        for count in (1, int((shares > 0).sum())):
            yield from torch.multinomial(shares, count, generator=generator).tolist()
    else:
        yield int(logits.argmax())
    yield from torch.argsort(logits, descending=True).tolist()


def _nucleus(shares: Any, top_p: float) -> Any:
    """Return the shares with 0 for all but the likeliest that together have `top_p`."""
    if top_p >= 1:
        return shares
    ordered, places = shares.sort(descending=True)
    before = ordered.cumsum(-1) - ordered
    return shares.index_fill(-1, places[(before >= top_p) & (before > 0)], 0.0)


def _shared_length(prompts: Sequence[Sequence[int]]) -> int:
    """Return how many first tokens are the same in all prompts, one token left to each."""
    same = takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False))
    return min(sum(1 for _ in same), min(map(len, prompts)) - 1)
