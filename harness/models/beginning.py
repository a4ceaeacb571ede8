"""What all prompts of a batch begin with: read once, and attended to once for all rows.

A step attends to every row's own tokens apart from the beginning that they share, and joins both
by their log-sum-exp: with s1 and s2 the log-sum-exp of the scores of each part, attention to all
is the mean of both, weighted by exp(s1) and exp(s2) (Juravsky et al. 2024, "Hydragen", section 3).
Measured on two cores, 136 rows of 240 tokens, 94 of them shared: 6.7 instead of 12.5 ms; 100 rows
of 480, 330 of them shared: 5.2 instead of 17.0 ms.

On CPUs only, and where a probe finds that the model does it: elsewhere the beginning is copied to
each row. 4-bit layers that a CPU computes in bfloat16 answer too differently, row by row, for the
probe to tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch

LEAST = 32
"""A shorter beginning is copied to each row: little is gained where it is attended to apart."""
NAME = "shared_beginning"
TOLERANCE = 1e-3
NOT_DONE = ("position_bias", "s_aux", "softcap")
"""What the attention of some models is given besides: it changes the scores."""


@dataclass(frozen=True, slots=True, eq=False)
class Beginning:
    """Tokens that prompts begin with, and the cache (one row) of a model that read them.

    `rows` tells which rows of a batch begin so, booleans of shape (rows,); None: all do.
    """

    tokens: list[int]
    cache: Any
    rows: torch.Tensor | None = None

    def of(self, rows: Sequence[bool]) -> Beginning:
        """Return the beginning of those of a batch's rows that are true here."""
        if all(rows):
            return self
        return replace(self, rows=torch.tensor(rows, device=self.cache.layers[0].keys.device))

    def mask(self, seen: torch.Tensor, queries: int) -> torch.Tensor:
        """Return what is added to the scores of the last `queries` positions behind the beginning.

        `seen`, (rows, positions), is 0 where the padding is; the result is (rows, 1, queries,
        positions).
        """
        positions = seen.shape[1]
        earlier = torch.ones((queries, positions), dtype=torch.bool, device=seen.device)
        hidden = ~(seen[:, None, None, :].bool() & earlier.tril(positions - queries))
        scores = torch.zeros(hidden.shape, dtype=self.cache.layers[0].dtype, device=seen.device)
        # Not minus infinity, which leaves a padding, that sees nothing, no log-sum-exp.
        return scores.masked_fill(hidden, torch.finfo(scores.dtype).min)


def enable(model: Any) -> None:
    """Let `model`, a causal language model of transformers, take a `beginning` if it can.

    It then reads `beginning=Beginning(...)` together with ids, positions, the cache of what comes
    behind it, and the beginning's `mask` for that.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    from harness.models.room import is_plain

    # Parts of the model that see or hear keep their own attention.
    config = model.config.get_text_config()
    if model.device.type != "cpu" or config._attn_implementation != "sdpa":
        return
    AttentionInterface.register(NAME, _attended)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    ids = torch.arange(2 * LEAST)[None]
    # A model's code that does not take it can break in any way: then it is not used.
    with suppress(Exception), torch.inference_mode():
        whole = model(input_ids=ids, use_cache=True)
        config._attn_implementation = NAME
        read, apart = whole.logits[0], _read_apart(model, ids)
        is_same = torch.allclose(apart, read, rtol=TOLERANCE, atol=TOLERANCE)
        if is_same and is_plain(whole.past_key_values):
            return
    config._attn_implementation = "sdpa"


def is_enabled(model: Any) -> bool:
    """Whether `model` takes a `beginning`."""
    return bool(model.config.get_text_config()._attn_implementation == NAME)


def _read_apart(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Return the logits of `ids`, which count the positions.

    They are read in three parts: the beginning, what is behind it, and one token, as a step does.
    """
    first, *rest = torch.split(ids, [LEAST, ids.shape[1] - LEAST - 1, 1], dim=-1)
    read = model(input_ids=first, use_cache=True)
    beginning = Beginning(first[0].tolist(), read.past_key_values)
    own, said = type(read.past_key_values)(), [read.logits[0]]
    for part in rest:
        seen = torch.ones(1, own.get_seq_length() + part.shape[1])
        said += model(
            input_ids=part,
            attention_mask=beginning.mask(seen, part.shape[1]),
            position_ids=part,
            past_key_values=own,
            use_cache=True,
            beginning=beginning,
        ).logits
    return torch.cat(said)


def _attended(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    beginning: Beginning | None = None,
    scaling: float | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """Attend to `key` and `value`, and to the beginning where there is one.

    `query` is (rows, heads, queries, size), the result (rows, queries, heads, size).
    """
    if beginning is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, scaling=scaling, **rest
        )
    rows, heads, queries, size = query.shape
    # The kernel does not look at shapes: with fewer heads than keys it ends the process.
    is_odd = key.shape != value.shape or heads % key.shape[1] != 0
    if is_odd or any(rest.get(name) is not None for name in NOT_DONE):
        raise NotImplementedError("such an attention is not done apart")
    layer = beginning.cache.layers[module.layer_idx]
    together = query.transpose(0, 1).reshape(1, heads, rows * queries, size)
    shared, shared_sums = _flash(together, layer.keys, layer.values, None, scaling)
    if queries == 1:  # the heads of one key side by side: so it is fetched once
        query = query.reshape(rows, key.shape[1], -1, size)
    own, own_sums = _flash(query, key, value, attention_mask, scaling)
    shared, own = (
        shared.transpose(1, 2).reshape(rows, queries, heads, size),
        own.reshape(rows, heads, queries, size).transpose(1, 2),
    )
    shared_sums, own_sums = (
        shared_sums.transpose(1, 2).reshape(rows, queries, heads),
        own_sums.reshape(rows, heads, queries).transpose(1, 2),
    )
    if beginning.rows is not None:
        shared_sums = shared_sums.masked_fill(~beginning.rows[:, None, None], -torch.inf)
    weights = torch.sigmoid(own_sums - shared_sums)
    return torch.lerp(shared, own, weights[..., None]), None


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return attention, (rows, heads, queries, size), and the log-sum-exp of its scores."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(  # type: ignore[no-any-return]
        query, key, value, attn_mask=mask, scale=scaling
    )
