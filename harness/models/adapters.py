"""Plain LoRA in one step: what an adapter adds goes straight to where it belongs.

PEFT computes `result + up(down(x)) * scaling`: three tensors as large as the result, where one
product can add to it in its place. Measured on two cores, the shipped base and candidate: all
replies take 3 % less time.
"""

from __future__ import annotations

from typing import Any

import torch


def enable(model: Any) -> None:
    """Let the plain LoRA layers of `model`, a PeftModel in eval mode, take the one step.

    Such a model is for asking: it can be neither trained nor merged any more. Quantized layers,
    other precisions, variants like DoRA and adapters with a bias of their own stay as they are.
    """
    from peft.tuners.lora.layer import Linear

    for layer in model.modules():
        if type(layer) is not Linear or type(layer.base_layer) is not torch.nn.Linear:
            continue
        for name, down in layer.lora_A.items():
            if down.weight.dtype == layer.base_layer.weight.dtype and not layer.lora_bias[name]:
                layer.lora_variant.setdefault(name, _OneStep)


class _OneStep:
    """What PEFT calls a variant: it is asked for a layer's result in place of PEFT's own sum."""

    @staticmethod
    def forward(
        module: Any, active_adapter: str, x: torch.Tensor, result: torch.Tensor, **_: Any
    ) -> torch.Tensor:
        """Add the adapter's part to `result`, (..., features), which nobody else holds."""
        down, up = module.lora_A[active_adapter].weight, module.lora_B[active_adapter].weight
        low = torch.nn.functional.linear(x, down).flatten(0, -2)
        result.view(-1, result.shape[-1]).addmm_(low, up.T, alpha=module.scaling[active_adapter])
        return result
