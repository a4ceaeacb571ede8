from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

LOGITS = [0.5, 2.0, 0.5, -1.0, -30.0, 1.0]


@dataclass
class Only:
    """A guide that lets nothing but some tokens come."""

    tokens: Sequence[int]
    done: bool = False
    taken: list[int] = field(default_factory=list)

    def begin(self) -> None:
        self.taken.clear()

    def fits(self, token: int) -> bool:
        return token in self.tokens

    def take(self, token: int) -> None:
        self.taken.append(token)


def growing(seed: int = 0, limit: int = 9, **wishes: Any) -> Any:
    import torch

    from harness.models.decode import Growing, Row

    row = Row([1], limit, seed=seed, **wishes)
    return Growing(row, (), torch.Generator().manual_seed(seed))


def drawn(logits: Sequence[float], rows: Sequence[Any]) -> list[int]:
    import torch

    from harness.models.drawing import next_tokens

    given = torch.tensor([list(logits)] * len(rows))
    return next_tokens(given, {at: row for at, row in enumerate(rows) if not row.is_over})


def shares(logits: Sequence[float], temperature: float) -> list[float]:
    import torch

    return torch.softmax(torch.tensor(logits, dtype=torch.float64) / temperature, -1).tolist()


def expect_shares(tokens: Sequence[int], expected: Sequence[float]) -> None:
    counts = Counter(tokens)
    assert sum(counts[token] for token, share in enumerate(expected) if share < 1e-9) == 0
    possible = [token for token, share in enumerate(expected) if share >= 1e-9]
    whole = sum(expected[token] for token in possible)
    wanted = [len(tokens) * expected[token] / whole for token in possible]
    assert stats.chisquare([counts[token] for token in possible], wanted).pvalue > 1e-4


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.8])
def test_tokens_come_as_often_as_the_model_says(temperature: float) -> None:
    rows = [growing(seed, temperature=temperature) for seed in range(20_000)]
    expect_shares(drawn(LOGITS, rows), shares(LOGITS, temperature))


def test_draws_of_one_row_come_as_often_as_the_model_says() -> None:
    row = growing(7, temperature=1.0)
    expect_shares([drawn(LOGITS, [row])[0] for _ in range(5_000)], shares(LOGITS, 1.0))


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.0, [1]), (0.3, [1]), (0.7, [1, 5]), (0.85, [0, 1, 5])]
)
def test_only_the_likeliest_that_have_the_share_are_drawn(top_p: float, kept: list[int]) -> None:
    logits = [0.6, 2.0, 0.5, -1.0, -30.0, 1.0]
    rows = [growing(seed, temperature=1.0, top_p=top_p) for seed in range(5_000)]
    tokens = drawn(logits, rows)
    assert set(tokens) == set(kept)
    whole = [share if token in kept else 0.0 for token, share in enumerate(shares(logits, 1.0))]
    if len(kept) > 1:
        expect_shares(tokens, whole)


def test_a_guide_leaves_what_fits_its_proportions() -> None:
    guide = Only([0, 3, 5])
    rows = [growing(seed, temperature=1.0, guide=guide) for seed in range(4_000)]
    fitting = [
        share if token in guide.tokens else 0.0 for token, share in enumerate(shares(LOGITS, 1.0))
    ]
    expect_shares(drawn(LOGITS, rows), fitting)


def test_a_guided_greedy_row_takes_the_likeliest_that_fits() -> None:
    assert drawn(LOGITS, [growing(guide=Only([3, 5, 0]))]) == [5]
    assert drawn(LOGITS, [growing(guide=Only([]))]) == [1]
    assert drawn(LOGITS, [growing(temperature=1.0, guide=Only([]))]) == [1]
    # Too unlikely to be drawn at all.
    cold = growing(temperature=0.1, guide=Only([4]))
    assert drawn([0.0, 0, 0, 0, -1e9, 0], [cold]) == [4]


def test_a_row_that_is_over_is_neither_drawn_nor_guided() -> None:
    guide = Only([3])
    over = [growing(limit=0, temperature=2.0), growing(limit=0, guide=guide)]
    before = over[0].generator.get_state().tolist()
    assert drawn(LOGITS, over) == [1, 1]
    assert over[0].generator.get_state().tolist() == before


WISHES = st.tuples(st.integers(0, 2**63 - 1), st.sampled_from([0, 0.8, 2]))


@given(st.lists(WISHES, min_size=1, max_size=9))
def test_a_draw_belongs_to_its_row_and_not_to_its_company(
    wishes: list[tuple[int, float]],
) -> None:
    together = drawn(LOGITS, [growing(seed, temperature=heat) for seed, heat in wishes])
    for token, (seed, heat) in zip(together, wishes, strict=True):
        assert drawn(LOGITS, [growing(seed, temperature=heat)]) == [token]


@given(st.integers(0, 2**63 - 1), st.floats(1e-300, 1e-3), st.floats(0, 1))
def test_a_temperature_near_zero_takes_the_likeliest(seed: int, heat: float, top_p: float) -> None:
    assert drawn(LOGITS, [growing(seed, temperature=heat, top_p=top_p)]) == [1]


def test_a_draw_stands_though_a_batch_rounds_differently() -> None:
    import torch

    from harness.models.drawing import next_tokens

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((300, 20_000), generator=generator) * 2
    noise = torch.randn(logits.shape, generator=generator) * 1e-5

    def tokens(given: Any) -> list[int]:
        rows = {at: growing(at, temperature=1.0) for at in range(len(given))}
        return next_tokens(given, rows)

    assert tokens(logits) == tokens(logits + noise)


def test_top_p_cuts_its_own_row_alone() -> None:
    import torch

    from harness.models.drawing import _shares

    logits = torch.randn((2, 50_000), generator=torch.Generator().manual_seed(0)) * 3
    free, narrow = (growing(temperature=1.0, top_p=top_p).row for top_p in (1.0, 0.5))
    alone, beside = _shares(logits[:1].clone(), [free]), _shares(logits.clone(), [free, narrow])
    assert torch.equal(alone[0], beside[0])
    assert (beside[0] > 0).all()
    assert 0.5 <= beside[1].sum() < 0.51


def test_logits_that_are_no_numbers_are_a_token_all_the_same() -> None:
    guide = Only([2])
    wishes: list[dict[str, Any]] = [{}, {"temperature": 1.0}, {"temperature": 1.0, "guide": guide}]
    for logits in ([float("nan")] * 6, [0.0, float("inf"), 0, 0, 0, 0], [-float("inf")] * 6):
        free, hot, guided = drawn(logits, [growing(**wish) for wish in wishes])
        assert 0 <= free < 6
        assert 0 <= hot < 6
        assert guided == 2
