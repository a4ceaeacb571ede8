"""What a local model has read of a batch, row by row, in one cache.

Prompts are read a piece at a time straight into the cache of the batch, what they all begin with
once (see `beginning`). The padding stands behind that, on the left of what is each prompt's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import takewhile
from operator import and_
from typing import Any

import torch

from harness.models.beginning import LEAST, Beginning, is_enabled
from harness.models.room import Assembly, is_plain

PIECE_TOKENS, LARGE_PIECE_TOKENS = 2_048, 16_384
"""So much of a batch's prompts is read at a time: on a CPU what is worked on stays near it."""


class Context:
    """The rows that a model has read, and the `logits`, (rows, vocabulary), of what comes next."""

    def __init__(self, model: Any, pad: int) -> None:
        """Hold nothing yet; `model` is a causal language model of transformers in eval mode."""
        self._model, self._pad = model, pad
        self._beginning: Beginning | None = None
        self._apart: list[bool] = []
        """Which rows have read the beginning before what is in the cache."""
        self._lives: list[bool] = []
        self._clear()

    def _clear(self) -> None:
        self._cache: Any = None
        self._mask = self._last = torch.empty((0, 0), dtype=torch.long)
        self.logits = torch.empty((0, 0))

    @cached_property
    def can_change(self) -> bool:
        """Whether rows can leave and join; the caches of some models do not allow it."""
        return is_plain(self._read_alone([self._pad]))

    @property
    def width(self) -> int:
        """How many tokens of each row are in the cache, the padding included."""
        return self._mask.shape[1]

    def apart(self, prompts: Sequence[list[int]]) -> int:
        """Return how many first tokens of these prompts would not be in the cache, but apart."""
        shared, is_apart = self._shared(prompts)
        return shared if is_apart else 0

    @torch.inference_mode()
    def read(self, prompts: list[list[int]]) -> None:
        """Read more prompts, sorted by length; the rows that are there keep their place."""
        shared, is_apart = self._shared(prompts)
        if self.can_change:
            beginning = self._read_beginning(prompts[0][:shared], is_apart) if shared else None
            self._read_in_pieces(prompts, beginning, is_apart)
        else:
            self._read_at_once(prompts)
        self._apart += [is_apart] * len(prompts)
        self._lives += [True] * len(prompts)

    @torch.inference_mode()
    def append(self, tokens: Sequence[int], lives: Sequence[bool]) -> None:
        """Read one more token of each row; a row that does not live stays where its text ends."""
        device, self._lives = self._model.device, list(lives)
        # The context may end there, too.
        self._last = self._last + torch.tensor(lives, device=device)[:, None]
        self._mask = torch.cat([self._mask, torch.ones_like(self._last)], dim=-1)
        ids = torch.tensor(tokens, device=device)[:, None]
        self._cache, self.logits = self._forward(
            self._cache, ids, self._last, self._mask, self._apart
        )

    @torch.inference_mode()
    def keep(self, places: Sequence[int]) -> None:
        """Drop all rows but those at `places`, in this order; `append` tells what comes next."""
        self._apart = [self._apart[at] for at in places]
        self._lives = [self._lives[at] for at in places]
        if not places:
            self._clear()
            return
        chosen = torch.tensor(places, device=self._model.device)
        self._cache.batch_select_indices(chosen)
        self._mask, self._last = self._mask[chosen], self._last[chosen]
        self.logits = torch.empty((0, 0))

    def _shared(self, prompts: Sequence[list[int]]) -> tuple[int, bool]:
        """Return how many first tokens are read once for all prompts, and whether they stay apart.

        One beginning is apart at a time. Where living rows need it, another one is copied.
        """
        shared = _shared_length(prompts) if len(prompts) > 1 and self.can_change else 0
        is_needed = any(map(and_, self._apart, self._lives))
        known = self._beginning.tokens if self._beginning else []
        if known and (is_needed or shared < len(known) + LEAST) and _all_begin(prompts, known):
            return len(known), True
        return shared, shared >= LEAST and not is_needed and is_enabled(self._model)

    @torch.inference_mode()
    def _read_alone(self, tokens: list[int]) -> Any:
        """Return the cache of one row that has read these tokens."""
        ids = torch.tensor([tokens], device=self._model.device)
        return self._model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values

    def _read_beginning(self, tokens: list[int], is_apart: bool) -> Beginning:
        if is_apart and self._beginning and self._beginning.tokens == tokens:
            return self._beginning
        beginning = Beginning(tokens, self._read_alone(tokens))
        if is_apart:
            self._beginning = beginning
        return beginning

    def _read_in_pieces(
        self, prompts: list[list[int]], beginning: Beginning | None, is_apart: bool
    ) -> None:
        shared = len(beginning.tokens) if beginning else 0
        hidden = shared if is_apart else 0
        length = max(self.width, len(prompts[-1]) - hidden)
        whole = Assembly(len(self._apart) + len(prompts), length)
        parts = []
        if self._apart:
            whole.add(self._cache)
            self._cache = None  # the memory of two batches is not needed
            parts.append((self._mask, self._last, self.logits))
        most = PIECE_TOKENS if self._model.device.type == "cpu" else LARGE_PIECE_TOKENS
        for piece in _pieces(prompts, shared, most):
            begun = None
            if beginning:
                width = len(piece[-1]) - shared
                begun = whole.begun(beginning.cache, shared - hidden, len(piece), width)
            ids, positions, mask = self._padded(piece, shared)
            mask, apart = mask[:, hidden:], [is_apart] * len(piece)
            cache, logits = self._forward(begun, ids, positions, mask, apart)
            parts.append((mask, positions[:, -1:], logits))
            if not beginning:
                whole.add(cache)
        cache.layers = whole.layers()
        self._cache = cache
        self._mask = torch.cat([_left_padded(mask, length) for mask, _, _ in parts])
        self._last = torch.cat([last for _, last, _ in parts])
        self.logits = torch.cat([said for _, _, said in parts])

    def _read_at_once(self, prompts: list[list[int]]) -> None:
        """Read prompts where nothing was read, into the cache as the model makes it."""
        ids, positions, self._mask = self._padded(prompts, 0)
        apart = [False] * len(prompts)
        self._cache, self.logits = self._forward(None, ids, positions, self._mask, apart)
        self._last = positions[:, -1:]

    def _padded(
        self, prompts: list[list[int]], shared: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return tokens and positions of what is each prompt's own, and the mask of all of it.

        The padding stands between what is shared and what is each one's own.
        """
        device, longest = self._model.device, max(map(len, prompts))
        gaps = [longest - len(prompt) for prompt in prompts]
        own = [
            [self._pad] * gap + prompt[shared:] for gap, prompt in zip(gaps, prompts, strict=True)
        ]
        seen = [[1] * shared + [0] * gap + [1] * (longest - shared - gap) for gap in gaps]
        mask = torch.tensor(seen, device=device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, shared:]
        return torch.tensor(own, device=device), positions, mask

    def _forward(
        self,
        cache: Any,
        ids: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor,
        apart: Sequence[bool],
    ) -> tuple[Any, torch.Tensor]:
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


def _left_padded(mask: torch.Tensor, length: int) -> torch.Tensor:
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
