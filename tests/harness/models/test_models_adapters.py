from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

IDS = [[5, 9, 80, 31, 7], [200, 6, 6, 44, 102]]


def logits_of(model: Any) -> Any:
    import torch

    with torch.inference_mode():
        return model(input_ids=torch.tensor(IDS)).logits


def opened(base: Path, *adapters: Path, dtype: str = "float32") -> Any:
    """The base with its adapters as PEFT opens them; the first one is active."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    for number, adapter in enumerate(adapters):
        if number == 0:
            model = PeftModel.from_pretrained(model, adapter, "0", autocast_adapter_dtype=False)
        else:
            model.load_adapter(adapter, str(number), autocast_adapter_dtype=False)
    return model.eval()


def enabled(model: Any) -> set[str]:
    """The adapters that take one step in some layer."""
    from harness.models import adapters

    adapters.enable(model)
    return {
        name
        for layer in model.modules()
        for name, kind in getattr(layer, "lora_variant", {}).items()
        if kind is adapters._OneStep
    }


@pytest.mark.parametrize(
    "settings", [{}, {"use_rslora": True}, {"modules_to_save": ["embed_tokens"]}]
)
def test_one_step_answers_as_the_library_does(
    tiny_base: Path, make_adapter: Callable[..., Path], settings: dict[str, Any]
) -> None:
    import torch

    model = opened(tiny_base, make_adapter(1, **settings), make_adapter(2, **settings))
    said = []
    for _ in range(2):
        for name in ("0", "1"):
            model.set_adapter(name)
            said.append(logits_of(model))
        with model.disable_adapter():
            said.append(logits_of(model))
        assert enabled(model) == {"0", "1"}
    first, second, alone = said[3:]
    torch.testing.assert_close(first, said[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(second, said[1], rtol=1e-4, atol=1e-4)
    assert torch.equal(alone, said[2])
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"lora_bias": True}])
def test_an_adapter_that_is_more_than_two_matrices_is_left_to_the_library(
    tiny_base: Path,
    make_adapter: Callable[..., Path],
    settings: dict[str, Any],
    recwarn: pytest.WarningsRecorder,
) -> None:
    import torch

    model = opened(tiny_base, make_adapter(1, **settings))
    before = logits_of(model)
    assert not enabled(model)
    assert torch.equal(logits_of(model), before)


def test_an_adapter_in_another_precision_is_left_to_the_library(
    tiny_base: Path, make_adapter: Callable[..., Path]
) -> None:
    import torch

    model = opened(tiny_base, make_adapter(1), dtype="bfloat16")
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = weight.data.float()
    before = logits_of(model)
    assert not enabled(model)
    assert torch.equal(logits_of(model), before)
