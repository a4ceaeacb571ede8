"""A key-value cache with room to grow: to append a token copies nothing of what was read.

The usual layer joins old and new at every step, which takes longer than all else that a step of
many rows does (measured on two cores, 97 rows of 230 tokens: 29 of 47 ms).
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

ROOM = 64
"""Positions that are made at once."""


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A plain layer whose `keys` and `values` are the filled part of larger tensors."""

    def __init__(self, read: DynamicLayer) -> None:
        """Go on from what `read` holds."""
        super().__init__()
        self.lazy_initialization(read.keys, read.values)
        self.keys, self.values = read.keys, read.values
        self._all_keys, self._all_values = read.keys, read.values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the states of new tokens; return all of them."""
        length = self.keys.shape[-2] + key_states.shape[-2]
        self._all_keys = _appended(self._all_keys, self.keys, key_states)
        self._all_values = _appended(self._all_values, self.values, value_states)
        self.keys, self.values = self._all_keys[..., :length, :], self._all_values[..., :length, :]
        return self.keys, self.values


def _appended(whole: torch.Tensor, filled: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Return the tensor that holds `filled` and `new`: `whole` where that has room for it."""
    begin, rows = filled.shape[-2], filled.shape[0]
    end = begin + new.shape[-2]
    if whole.shape[0] != rows or whole.shape[-2] < end:  # rows have left, or it is full
        whole = filled.new_empty((*filled.shape[:-2], end + ROOM, filled.shape[-1]))
        whole[..., :begin, :] = filled
    whole[..., begin:end, :] = new
    return whole
