from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.models import beginning, decode
from harness.models.beginning import LEAST
from harness.models.loaded import Home, Loaded

PROJECT = [5, 6, 7] * LEAST
OTHER = [8, 9] * LEAST
FEW_GO_ON = (60, 3, 3, 3, 3, 3, 3, 3, 3, 3)


def made(config: Any) -> Any:
    """A model with random weights, loud enough to talk."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for weights in (each for each in model.parameters() if each.dim() > 1):
        torch.nn.init.normal_(weights, std=1.5 / weights.shape[-1] ** 0.5)
    return model


SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


def qwen(**changes: Any) -> Any:
    from transformers import Qwen3Config

    return Qwen3Config(**SMALL, **changes)


@pytest.fixture
def plain() -> Any:
    """The same model as it was made: it reads every beginning row by row."""
    return made(qwen())


@pytest.fixture
def model() -> Any:
    """A model that takes a beginning, and `seen`: the lengths and beginnings of what it read."""
    model = made(qwen())
    beginning.enable(model)
    model.seen = []

    def heard(_: Any, __: Any, given: dict[str, Any]) -> None:
        model.seen.append((given["input_ids"].shape[1], given.get("beginning")))

    model.register_forward_pre_hook(heard, with_kwargs=True)
    return model


def generated(model: Any, *batches: list[decode.Row]) -> dict[decode.Row, Any]:
    stream = decode.Stream(model, batches, (), pad=0)
    return {one.row: one.tokens for ended in stream for one in ended}


def row(start: list[int], number: int, limit: int, **fields: Any) -> decode.Row:
    """A prompt that goes on from `start` in its own way, longer for a greater number."""
    own = random.Random(number).choices(range(20, 60), k=2 + number)
    return decode.Row([*start, *own], limit, seed=number, **fields)


def rows(start: list[int], numbers: range, limits: tuple[int, ...] = (4, 30)) -> list[decode.Row]:
    return [row(start, n, limits[n % len(limits)]) for n in numbers]


def copied_length(model: Any) -> list[int]:
    """The lengths of what was read with no beginning apart, steps left out."""
    return [length for length, apart in model.seen if length > 1 and apart is None]


@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("piece_tokens", [2_048, 60])
def test_rows_that_begin_alike_answer_as_they_would_alone(
    model: Any, plain: Any, monkeypatch: pytest.MonkeyPatch, temperature: float, piece_tokens: int
) -> None:
    monkeypatch.setattr("harness.models.context.PIECE_TOKENS", piece_tokens)
    asked = [row(PROJECT, n, 3 + n % 40, temperature=temperature) for n in range(30)]
    together = generated(model, asked)
    assert copied_length(model) == [len(PROJECT)]  # only the beginning itself
    assert any(length == 1 and apart for length, apart in model.seen)
    for each in asked[::3]:
        assert generated(plain, [each]) == {each: together[each]}


def test_a_beginning_that_is_known_is_not_read_again(model: Any, plain: Any) -> None:
    batches = [rows(PROJECT, range(20)), rows(PROJECT, range(20, 24)), [row(PROJECT, 24, 5)]]
    together = generated(model, *batches)
    assert copied_length(model) == [len(PROJECT)]
    for each in [one for batch in batches for one in batch[::4]]:
        assert generated(plain, [each]) == {each: together[each]}


@pytest.mark.parametrize("numbers", [range(12), range(20)])
def test_rows_with_and_without_the_beginning_go_on_side_by_side(
    model: Any, plain: Any, numbers: range
) -> None:
    first, later = rows([5], range(10), FEW_GO_ON), rows(PROJECT, numbers, (4, 50))
    together = generated(model, first, later)
    mixed = [apart.rows for length, apart in model.seen if apart and length == 1]
    assert any(among is not None and 0 < among.sum() < len(among) for among in mixed)
    for each in [*first[::5], *later[1::4]]:
        assert generated(plain, [each]) == {each: together[each]}


def test_another_beginning_is_copied_to_its_rows_while_the_first_is_needed(
    model: Any, plain: Any
) -> None:
    first, second = rows(PROJECT, range(20), FEW_GO_ON), rows(OTHER, range(20, 40), (4, 9))
    third = rows(OTHER, range(40, 50))
    together = generated(model, first, second, third)
    lengths = copied_length(model)
    assert lengths[:2] == [len(PROJECT), len(OTHER)]
    assert len(lengths) > 2  # rows that were read behind a copy
    for each in [*first[::5], *second[::5], *third[::5]]:
        assert generated(plain, [each]) == {each: together[each]}


def test_another_beginning_takes_the_place_of_one_that_is_not_needed(
    model: Any, plain: Any
) -> None:
    first, second = rows(PROJECT, range(20), (5,)), rows(OTHER, range(20), (4, 9))
    together = generated(model, first, second)
    assert copied_length(model) == [len(PROJECT), len(OTHER)]
    for each in [*first[::5], *second[::5]]:
        assert generated(plain, [each]) == {each: together[each]}


def test_a_longer_beginning_is_read_once_though_a_shorter_one_is_known(
    model: Any, plain: Any
) -> None:
    first, second = rows(PROJECT, range(20), (5,)), rows(PROJECT + OTHER, range(20), (4, 9))
    together = generated(model, first, second)
    assert copied_length(model) == [len(PROJECT), len(PROJECT + OTHER)]
    for each in [*first[::5], *second[::5]]:
        assert generated(plain, [each]) == {each: together[each]}


def test_a_short_beginning_is_copied(model: Any, plain: Any) -> None:
    asked = rows([5] * (LEAST - 1), range(10))
    together = generated(model, asked)
    assert not any(apart for _, apart in model.seen)
    assert generated(model, [asked[3]]) == {asked[3]: together[asked[3]]}


def test_a_prompt_that_is_the_known_beginning_goes_on_from_its_last_token(
    model: Any, plain: Any
) -> None:
    first = rows(PROJECT, range(20), (5,))
    whole = [decode.Row(PROJECT, 6), *rows(PROJECT, range(4))]
    together = generated(model, first, whole)
    for each in [*first[::5], *whole]:
        assert generated(plain, [each]) == {each: together[each]}


def test_a_beginning_takes_the_place_of_one_whose_rows_ended_and_still_stand_there(
    model: Any, plain: Any
) -> None:
    first, second, third = (
        rows([5], range(29), (100,)),
        rows(PROJECT, range(2), (2,)),
        rows(OTHER, range(2), (5,)),
    )
    together = generated(model, first, second, third)
    assert any(apart and apart.tokens == OTHER for _, apart in model.seen)
    assert not any(apart and apart.tokens == PROJECT for _, apart in model.seen[-50:])
    for each in [*first[::9], *second, *third]:
        assert generated(plain, [each]) == {each: together[each]}


@pytest.mark.parametrize(("start", "waits"), [(PROJECT, False), (OTHER, True)])
def test_a_prompt_waits_where_what_it_adds_would_pad_the_others(
    model: Any, start: list[int], waits: bool
) -> None:
    first, late = rows(PROJECT, range(12), (30,)), row(start, 1, 2)
    assert (list(generated(model, first, [late]))[-1] is late) == waits


def test_a_longer_beginning_goes_on_from_the_shorter_one_while_that_is_needed(
    model: Any, plain: Any
) -> None:
    first, second = rows(PROJECT, range(20), FEW_GO_ON), rows(PROJECT + OTHER, range(3), (4,))
    together = generated(model, first, second)
    assert copied_length(model) == [len(PROJECT)]
    for each in [*first[::5], *second]:
        assert generated(plain, [each]) == {each: together[each]}


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_base_and_adapter_take_a_beginning(
    tiny_base: Path, make_adapter: Callable[..., Path], quantization: str
) -> None:
    adapter = make_adapter(1)
    loaded = Loaded(Home(tiny_base, None, quantization), [adapter])
    assert beginning.is_enabled(loaded._model)
    asked = rows(PROJECT, range(10))
    said = []
    for one in (None, adapter):
        with loaded._active(one):
            said.append(generated(loaded._model, asked))
            assert generated(loaded._model, [asked[3]]) == {asked[3]: said[-1][asked[3]]}
    assert said[0] != said[1]
    loaded.close()


def test_a_model_whose_attention_never_hears_of_the_beginning_reads_it_row_by_row(
    plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention

    forward = Qwen3Attention.forward

    def deaf(self: Any, *given: Any, beginning: Any = None, **named: Any) -> Any:
        return forward(self, *given, **named)

    monkeypatch.setattr(Qwen3Attention, "forward", deaf)
    model = made(qwen())
    beginning.enable(model)
    assert model.config._attn_implementation == "sdpa"
    asked = rows(PROJECT, range(10))
    together = generated(model, asked)
    assert generated(plain, [asked[3]]) == {asked[3]: together[asked[3]]}


def test_a_model_that_is_to_use_another_attention_keeps_it() -> None:
    model = made(qwen(attn_implementation="eager"))
    beginning.enable(model)
    assert model.config._attn_implementation == "eager"


def test_a_model_that_sees_through_a_window_keeps_its_attention() -> None:
    window = {"use_sliding_window": True, "sliding_window": 80, "max_window_layers": 1}
    model = made(qwen(**window))
    beginning.enable(model)
    assert model.config._attn_implementation == "sdpa"


def test_a_model_with_sparse_layers_keeps_its_attention() -> None:
    from transformers import AutoConfig

    sparse = {
        "layer_types": ["full_attention", "minimax_m3_sparse"],
        "index_block_size": 64,
        "index_topk_blocks": 1,
        "index_local_blocks": 1,
        "index_n_heads": 2,
        "index_head_dim": 16,
    }
    model = made(AutoConfig.for_model("minimax_m3_vl_text", **SMALL, **sparse))
    beginning.enable(model)
    assert model.config._attn_implementation == "sdpa"


def test_the_ears_of_a_model_keep_their_attention() -> None:
    from transformers import Gemma4Config

    text = {**SMALL, "hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": 64}
    audio = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    model = made(Gemma4Config(text_config=text, audio_config=audio))
    before = model.config.audio_config._attn_implementation
    beginning.enable(model)
    assert model.config.audio_config._attn_implementation == before
    assert model.config.get_text_config()._attn_implementation == "sdpa"


@pytest.mark.parametrize("positions", [2 * LEAST - 1, 512])
def test_a_model_with_a_vector_per_position_answers_the_same(positions: int) -> None:
    from transformers import GPT2Config

    config = GPT2Config(vocab_size=64, n_positions=positions, n_embd=32, n_layer=2, n_head=2)
    model, plain = made(config), made(config)
    beginning.enable(model)
    assert beginning.is_enabled(model) == (positions == 512)
    asked = [decode.Row([5] * LEAST + [n, 7 + n], 20) for n in range(10)]
    together = generated(model, asked)
    for each in asked[::3]:
        assert generated(plain, [each]) == {each: together[each]}
