from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.report import text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "\N{EN DASH}"),
        (0.0, "0.00"),
        (-1e-17, "0.00"),
        (1.0, "1.00"),
        (0.996, "0.996"),
        (0.99996, "0.99996"),
        (0.004, "0.004"),
        (-0.725, "-0.72"),
        (12.34, "12.3"),
        (120.0, "120"),
        (12345.6, "12,346"),
    ],
)
def test_numbers_never_round_to_a_whole_one_that_they_are_not(
    value: float | None, shown: str
) -> None:
    assert text.number(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0004, "0.4 ms"), (0.041, "41 ms"), (1.26, "1.3 s"), (59.7, "60 s"), (600.0, "10 min")],
)
def test_durations_are_told_in_the_unit_that_fits(value: float, shown: str) -> None:
    assert text.seconds(value) == shown


def test_small_costs_keep_their_digits() -> None:
    assert [text.dollars(x) for x in (0.0, 0.00008, 12.345)] == ["$0.00", "$8e-05", "$12.35"]


@settings(deadline=None)
@given(st.text(min_size=81))
def test_short_names_stay_short(name: str) -> None:
    assert len(text.short(name)) <= 80
