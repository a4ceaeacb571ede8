"""What a terminal may be given."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.text import line, visible

ANY = st.text(st.characters(codec=None, exclude_categories=()))


@settings(deadline=None)
@given(ANY)
def test_visible_text_can_neither_control_nor_reorder(raw: str) -> None:
    shown = visible(raw)
    shown.encode("utf-8")
    allowed = {"\n", "\t", "\u200c", "\u200d"}
    bad = {c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    assert bad <= allowed


@settings(deadline=None)
@given(ANY)
def test_a_line_is_one_line_without_escapes(raw: str) -> None:
    shown = line(raw)
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
    assert line(raw) == shown


def test_ordinary_text_in_any_language_stays_as_it_is() -> None:
    ordinary = "Grüße, 你好, سلام, 👩‍👩‍👧, naïve\n\tindented"
    assert visible(ordinary) == ordinary
