"""A part of `benchmarks/fuzz_lines.py`: no line ends in anything but rows or a sentence."""

import fuzz_lines
import pytest

TENTH, LESS = fuzz_lines.LINES // 10, fuzz_lines.LINES // 50
LINES = dict.fromkeys(fuzz_lines.READERS, LESS) | dict.fromkeys(
    ("cases", "training", "preferences"), TENTH
)


@pytest.mark.parametrize(("kind", "lines"), LINES.items())
def test_a_mutated_line_ends_in_usable_rows_or_in_a_sentence_with_its_place(kind, lines):
    tally = fuzz_lines.fuzz(kind, lines)
    assert tally.problems == []
    for end in ("accepted", "refused"):  # else nearly all lines would end alike
        assert tally.ends[end] > lines / 5
