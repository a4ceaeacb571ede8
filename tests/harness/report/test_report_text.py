from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.report import text

ANY = st.text(st.characters(codec=None, exclude_categories=()))


@settings(deadline=None)
@given(ANY)
def test_visible_text_can_neither_control_nor_reorder(raw: str) -> None:
    shown = text.visible(raw)
    shown.encode("utf-8")
    allowed = {"\n", "\t", "\u200c", "\u200d"}
    bad = {c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    assert bad <= allowed


@settings(deadline=None)
@given(ANY)
def test_a_line_is_one_line_without_escapes(raw: str) -> None:
    shown = text.line(raw)
    assert len(shown.splitlines()) <= 1
    assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in shown)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://evil.test\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b2Jgone", "gone"),
        ("a\r\nb\tc", "a b c"),
        ("\u202eabc", "\\u202eabc"),
        ("\x1b]0;never ends", "0;never ends"),
        ("\U000e0041", "\\U000e0041"),
        ("\ud800", "\\ud800"),
    ],
)
def test_escapes_are_stripped_or_made_visible(raw: str, shown: str) -> None:
    assert text.line(raw) == shown


def test_ordinary_text_in_any_language_stays_as_it_is() -> None:
    ordinary = "Grüße, 你好, سلام, 👩‍👩‍👧, naïve\n\tindented"
    assert text.visible(ordinary) == ordinary


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
