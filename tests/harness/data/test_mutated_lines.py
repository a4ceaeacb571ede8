"""A tenth of `benchmarks/fuzz_lines.py`: no line ends in anything but rows or a sentence."""

import fuzz_lines
import pytest


@pytest.mark.parametrize("kind", fuzz_lines.READERS)
def test_a_mutated_line_ends_in_usable_rows_or_in_a_sentence_with_its_place(kind):
    tally = fuzz_lines.fuzz(kind, fuzz_lines.LINES // 10)
    assert tally.problems == []
    assert tally.ends["accepted"] > 300, "most of the lines should not be refused for one reason"
    assert tally.ends["refused"] > 300
