"""The next token of every row of a batch: its likeliest one, or one drawn as its request wishes.

All rows are drawn together, each by one number from its own generator: a `multinomial` per row
takes 3 ms on a CPU where a model knows 150,000 tokens, ten times a step of a batch on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from harness.models.decode import Growing, Row


def next_tokens(logits: torch.Tensor, rows: Sequence[Growing]) -> list[int]:
    """Return what comes next in each row, given its logits of shape (rows, vocabulary).

    Of a row that is over it is the likeliest token.
    """
    tokens: list[int] = logits.argmax(-1).tolist()
    going = [at for at, one in enumerate(rows) if not one.is_over]
    if hot := [at for at in going if rows[at].row.temperature > 0]:
        drawn = _drawn(_shares(logits[hot], [rows[at].row for at in hot]), [rows[at] for at in hot])
        for at, token in zip(hot, drawn, strict=True):
            tokens[at] = token
    for at in going:
        guide = rows[at].row.guide
        if guide and not guide.fits(tokens[at]):
            others = filter(guide.fits, _others(logits[at], rows[at]))
            tokens[at] = next(others, int(logits[at].argmax()))
    return tokens


def _shares(logits: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    """Return the probability of each token, (rows, vocabulary), not normed where `top_p` cuts."""
    heat = torch.tensor([[row.temperature] for row in rows]).to(logits)
    # From the highest logit down and never divided by 0: no temperature makes NaN of them.
    below = logits - logits.max(-1, keepdim=True).values
    shares = torch.softmax(below / heat.clamp(min=torch.finfo(heat.dtype).tiny), dim=-1)
    if all(row.top_p >= 1 for row in rows):
        return shares
    ordered, places = shares.sort(descending=True)
    before = ordered.cumsum(-1) - ordered
    most = torch.tensor([[row.top_p] for row in rows]).to(logits)
    is_cut = (before >= most) & (before > 0)
    return shares.scatter(-1, places, ordered.masked_fill(is_cut, 0.0))


def _drawn(shares: torch.Tensor, rows: Sequence[Growing]) -> list[int]:
    """Draw a token of each row: where the running sum of its shares reaches a random level."""
    levels = [1 - torch.rand((), dtype=torch.float64, generator=one.generator) for one in rows]
    exact = torch.float32 if shares.device.type == "mps" else torch.float64
    sums = shares.cumsum(-1, dtype=exact)
    reached = torch.stack(levels).to(sums)[:, None] * sums[:, -1:]
    # Only in a row of NaN nothing is reached.
    places = torch.searchsorted(sums, reached).clamp(max=shares.shape[-1] - 1)
    found: list[int] = places[:, 0].tolist()
    return found


def _others(logits: torch.Tensor, one: Growing) -> Iterator[int]:
    """Yield tokens as they are drawn, none of them put back; then, or if greedy, the likeliest.

    That the first one drawn did not fit leaves the others their proportions.
    """
    if one.row.temperature > 0:
        shares = _shares(logits[None], [one.row])[0].cpu()
        count = int((shares > 0).sum())
        yield from torch.multinomial(shares, count, generator=one.generator).tolist()
    yield from torch.argsort(logits, descending=True).tolist()
