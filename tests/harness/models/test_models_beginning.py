from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.models import beginning, decode
from harness.models.beginning import LEAST

PROJECT = [5, 6, 7] * LEAST
OTHER = [8, 9] * LEAST
FEW_GO_ON = (60, 3, 3, 3, 3, 3, 3, 3, 3, 3)


@pytest.fixture
def model(tiny_base: Path) -> Any:
    """A model that takes a beginning, and `seen`: the lengths and beginnings of what it read."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_base).eval()
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
@pytest.mark.parametrize("piece_tokens", [decode.PIECE_TOKENS, 60])
def test_rows_that_begin_alike_answer_as_they_would_alone(
    model: Any, monkeypatch: pytest.MonkeyPatch, temperature: float, piece_tokens: int
) -> None:
    monkeypatch.setattr(decode, "PIECE_TOKENS", piece_tokens)
    asked = [row(PROJECT, n, 3 + n % 40, temperature=temperature) for n in range(30)]
    together = generated(model, asked)
    assert copied_length(model) == [len(PROJECT)]  # only the beginning itself
    assert any(length == 1 and apart for length, apart in model.seen)
    for each in asked[::3]:
        assert generated(model, [each]) == {each: together[each]}


def test_a_beginning_that_is_known_is_not_read_again(model: Any) -> None:
    batches = [rows(PROJECT, range(20)), rows(PROJECT, range(20, 24)), [row(PROJECT, 24, 5)]]
    together = generated(model, *batches)
    assert copied_length(model) == [len(PROJECT)]
    for each in [one for batch in batches for one in batch[::4]]:
        assert generated(model, [each]) == {each: together[each]}


@pytest.mark.parametrize("lengths", [range(60, 80), range(30, 50)])
def test_rows_with_and_without_the_beginning_go_on_side_by_side(model: Any, lengths: range) -> None:
    plain, later = rows([5], lengths, FEW_GO_ON), rows(PROJECT, range(20), (4, 50))
    together = generated(model, plain, later)
    mixed = [apart.rows for length, apart in model.seen if apart and length == 1]
    assert any(among is not None and 0 < among.sum() < len(among) for among in mixed)
    for each in [*plain[::5], *later[1::4]]:
        assert generated(model, [each]) == {each: together[each]}


def test_another_beginning_is_copied_to_its_rows_while_the_first_is_needed(model: Any) -> None:
    first, second = rows(PROJECT, range(20), FEW_GO_ON), rows(OTHER, range(20, 40), (4, 9))
    third = rows(OTHER, range(40, 50))
    together = generated(model, first, second, third)
    lengths = copied_length(model)
    assert lengths[:2] == [len(PROJECT), len(OTHER)]
    assert len(lengths) > 2  # rows that were read behind a copy
    for each in [*first[::5], *second[::5], *third[::5]]:
        assert generated(model, [each]) == {each: together[each]}


def test_another_beginning_takes_the_place_of_one_that_is_not_needed(model: Any) -> None:
    first, second = rows(PROJECT, range(20), (5,)), rows(OTHER, range(20), (4, 9))
    together = generated(model, first, second)
    assert copied_length(model) == [len(PROJECT), len(OTHER)]
    for each in [*first[::5], *second[::5]]:
        assert generated(model, [each]) == {each: together[each]}


def test_a_longer_beginning_is_read_once_though_a_shorter_one_is_known(model: Any) -> None:
    first, second = rows(PROJECT, range(20), (5,)), rows(PROJECT + OTHER, range(20), (4, 9))
    together = generated(model, first, second)
    assert copied_length(model) == [len(PROJECT), len(PROJECT + OTHER)]
    for each in [*first[::5], *second[::5]]:
        assert generated(model, [each]) == {each: together[each]}


def test_a_short_beginning_is_copied(model: Any) -> None:
    asked = rows([5] * (LEAST - 1), range(10))
    together = generated(model, asked)
    assert not any(apart for _, apart in model.seen)
    assert generated(model, [asked[3]]) == {asked[3]: together[asked[3]]}


def test_adapters_and_four_bits_take_a_beginning(
    tiny_base: Path, make_adapter: Callable[..., Path]
) -> None:
    from harness.models.loaded import Home, Loaded

    for quantization in ("none", "nf4"):
        loaded = Loaded(Home(tiny_base, None, quantization), [make_adapter(1)])
        assert beginning.is_enabled(loaded._model)
        loaded.close()


def test_a_model_whose_attention_never_hears_of_the_beginning_reads_it_row_by_row(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM
    from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention

    forward = Qwen3Attention.forward

    def deaf(self: Any, *given: Any, beginning: Any = None, **named: Any) -> Any:
        return forward(self, *given, **named)

    monkeypatch.setattr(Qwen3Attention, "forward", deaf)
    model = AutoModelForCausalLM.from_pretrained(tiny_base).eval()
    beginning.enable(model)
    assert not beginning.is_enabled(model)
    asked = rows(PROJECT, range(10))
    together = generated(model, asked)
    assert generated(model, [asked[3]]) == {asked[3]: together[asked[3]]}


def test_a_model_with_an_attention_of_its_own_keeps_it(tiny_base: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_base, attn_implementation="eager").eval()
    beginning.enable(model)
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize("positions", [2 * LEAST - 1, 512])
def test_a_model_with_a_vector_per_position_answers_the_same(positions: int) -> None:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_positions=positions, n_embd=32, n_layer=2, n_head=2)
    model = GPT2LMHeadModel(config).eval()
    beginning.enable(model)
    assert beginning.is_enabled(model) == (positions == 512)
    asked = [decode.Row([5] * LEAST + [n, 7 + n], 20) for n in range(10)]
    together = generated(model, asked)
    for each in asked[::3]:
        assert generated(model, [each]) == {each: together[each]}
