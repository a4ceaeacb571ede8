"""Plain LoRA without detours: one product adds to the base's result in its place.

PEFT's layer goes through its settings at every call, also where adapters are off, and computes
`result + up(down(x)) * scaling`, three tensors as large as the result. Measured on two cores, the
shipped base and candidate: all replies take 7 % less time with these.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora.layer import Linear


@contextmanager
def shortened(model: Any, adapter: str | None) -> Iterator[None]:
    """Let `model`, a PeftModel in eval mode, compute `adapter`, or its base, without detours.

    The adapter is to be active, or all of them disabled. Quantized layers, other precisions,
    variants like DoRA and adapters with a bias of their own stay PEFT's.
    """
    places = [
        (parent, name, layer)
        for parent in model.modules()
        for name, layer in parent.named_children()
        if type(layer) is Linear and type(layer.base_layer) is torch.nn.Linear
    ]
    for parent, name, layer in places:
        setattr(parent, name, _short(layer, adapter))
    try:
        yield
    finally:
        for parent, name, layer in places:
            setattr(parent, name, layer)


def _short(layer: Linear, adapter: str | None) -> torch.nn.Module:
    if adapter is None or adapter not in layer.lora_A:
        return layer.base_layer  # type: ignore[no-any-return]
    is_same = layer.lora_A[adapter].weight.dtype == layer.base_layer.weight.dtype
    is_plain = adapter not in layer.lora_variant and not layer.lora_bias[adapter]
    return _OneStep(layer, adapter) if is_same and is_plain else layer


class _OneStep(torch.nn.Module):
    """A linear layer with one adapter."""

    def __init__(self, layer: Linear, adapter: str) -> None:
        super().__init__()
        # Not as parameters, which take longer to get at.
        self.weight, self.bias = layer.base_layer.weight.detach(), layer.base_layer.bias
        self._down = layer.lora_A[adapter].weight.detach()
        self._up = layer.lora_B[adapter].weight.detach().T
        self._scaling = layer.scaling[adapter]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's result for `x`, (..., features)."""
        result = torch.nn.functional.linear(x, self.weight, self.bias)
        low = torch.nn.functional.linear(x, self._down).flatten(0, -2)
        result.view(-1, result.shape[-1]).addmm_(low, self._up, alpha=self._scaling)
        return result
