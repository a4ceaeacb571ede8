from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
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


def kinds(model: Any) -> set[type]:
    """What stands in the model where its base has linear layers."""
    layers = model.base_model.model.model.layers
    return {type(part) for layer in layers for part in (layer.mlp.up_proj, layer.self_attn.q_proj)}


def said(model: Any, adapter: str | None) -> tuple[Any, Any, set[type]]:
    """What the library says, what the shortened model says, and what stood there then."""
    from harness.models.adapters import shortened

    if adapter is not None:
        model.set_adapter(adapter)
    with model.disable_adapter() if adapter is None else nullcontext():
        library = logits_of(model)
        with shortened(model, adapter):
            return library, logits_of(model), kinds(model)


@pytest.mark.parametrize(
    "settings", [{}, {"use_rslora": True}, {"modules_to_save": ["embed_tokens"]}]
)
def test_a_shortened_model_answers_as_the_library_does(
    tiny_base: Path, make_adapter: Callable[..., Path], settings: dict[str, Any]
) -> None:
    import torch

    from harness.models.adapters import _OneStep

    model = opened(tiny_base, make_adapter(1, **settings), make_adapter(2, **settings))
    answers = []
    for adapter in ("0", None, "1", "0"):
        library, short, stood = said(model, adapter)
        torch.testing.assert_close(short, library, rtol=1e-4, atol=1e-4)
        assert stood == ({torch.nn.Linear} if adapter is None else {_OneStep})
        assert torch.equal(said(model, adapter)[0], library)
        answers.append(short)
    assert not torch.allclose(answers[0], answers[1])
    assert not torch.allclose(answers[0], answers[2])
    assert torch.equal(answers[0], answers[3])


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"lora_bias": True}])
def test_an_adapter_that_is_more_than_two_matrices_is_left_to_the_library(
    tiny_base: Path,
    make_adapter: Callable[..., Path],
    settings: dict[str, Any],
    recwarn: pytest.WarningsRecorder,
) -> None:
    import torch
    from peft.tuners.lora.layer import Linear

    model = opened(tiny_base, make_adapter(1, **settings))
    library, short, stood = said(model, "0")
    assert stood == {Linear}
    assert torch.equal(short, library)


def test_an_adapter_in_another_precision_is_left_to_the_library(
    tiny_base: Path, make_adapter: Callable[..., Path]
) -> None:
    import torch
    from peft.tuners.lora.layer import Linear

    model = opened(tiny_base, make_adapter(1), dtype="bfloat16")
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = weight.data.float()
    library, short, stood = said(model, "0")
    assert stood == {Linear}
    assert torch.equal(short, library)


def test_layers_that_one_adapter_leaves_alone_are_the_base_s(
    tiny_base: Path, make_adapter: Callable[..., Path]
) -> None:
    import torch

    from harness.models.adapters import _OneStep

    model = opened(tiny_base, make_adapter(1, target_modules=["up_proj"]), make_adapter(2))
    library, short, stood = said(model, "0")
    assert stood == {_OneStep, torch.nn.Linear}
    torch.testing.assert_close(short, library, rtol=1e-4, atol=1e-4)


def test_the_model_is_whole_again_after_an_error(
    tiny_base: Path, make_adapter: Callable[..., Path]
) -> None:
    import torch
    from peft.tuners.lora.layer import Linear

    from harness.models.adapters import shortened

    model = opened(tiny_base, make_adapter(1))
    before = logits_of(model)
    with pytest.raises(RuntimeError, match="amid"), shortened(model, "0"):
        raise RuntimeError("amid the replies")
    assert kinds(model) == {Linear}
    assert torch.equal(logits_of(model), before)
