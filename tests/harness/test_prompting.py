"""The choice of the number of shots: what it measures, and what it says."""

from __future__ import annotations

import pytest

from harness.prompting import best, choice_note, reference_score
from harness.records import Case, Reply


@pytest.mark.parametrize(
    ("expected", "same", "other"),
    [
        ("您的货物已经寄出", "您的货物已经寄出", "我不知道"),
        ("Päckchen", "Pa\u0308ckchen", "Paket"),
        ("はい", "はい\n", "否"),
        ("👍", "👍", "👎"),
        ('{"größe": "é"}', '{"gro\u0308ße": "e\u0301"}', '{"größe": "e"}'),
    ],
)
def test_a_right_reply_scores_1_in_every_script(expected: str, same: str, other: str) -> None:
    case = Case("s", "c", ({"role": "user", "content": "?"},), expected)
    assert reference_score(case, Reply(same)) == 1
    assert reference_score(case, Reply(other)) == 0


def test_a_reply_that_makes_the_expected_call_scores_1() -> None:
    call = {"type": "function", "function": {"name": "find", "arguments": {"order": 7}}}
    asked = ({"role": "user", "content": "?"},)
    case = Case("s", "c", asked, "Let me look.", expected_tool_calls=(call,))
    same = {**call, "id": "x", "function": {"name": "find", "arguments": '{ "order": 7 }'}}
    assert reference_score(case, Reply(tool_calls=(same,))) == 1
    assert reference_score(case, Reply("Let me look.")) == 0


def test_a_reference_that_is_nested_too_deeply_is_a_text() -> None:
    case = Case("s", "c", ({"role": "user", "content": "?"},), "[" * 100_000)
    assert reference_score(case, Reply("yes")) == 0


def test_the_note_says_what_was_chosen_and_why() -> None:
    means = {0: 0.2, 3: 0.8, 1: 0.8}
    assert best(means) == 1
    note = choice_note("demo", "base", means)
    assert (
        note
        == "demo: base is prompted with 1 examples, its best (by shots: 0: 0.20, 1: 0.80, 3: 0.80)"
    )


@pytest.mark.parametrize("mean", [0.0, 0.5, 1.0])
def test_where_nothing_tells_the_numbers_apart_none_is_called_the_best(mean: float) -> None:
    note = choice_note("demo", "base", {3: mean, 0: mean})
    assert note == (
        "demo: base is prompted with 0 examples, the fewest: every number of them scored the same "
        f"(by shots: 0: {mean:.2f}, 3: {mean:.2f})"
    )
