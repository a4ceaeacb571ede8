from __future__ import annotations

import re
from dataclasses import replace

import pytest

from harness.records import Decision, Run
from harness.report.markdown import code, escape, page


def test_the_summary_begins_with_the_verdict(run: Run) -> None:
    assert page(run).startswith("## ✅ PASS: tickets passes all 4 gates.\n")


def test_every_gate_is_a_row_of_the_table(run: Run) -> None:
    rows = [row for row in page(run).splitlines() if row.startswith("| `")]
    gates = [row for row in rows if "`tickets.field_accuracy`" in row]
    assert gates == [
        "| `tickets.field_accuracy` | 0.72 | 0.99 | +0.27 [+0.22, +0.32] | < 0.001 | 2 / 45 "
        "| `better_by = 0.15` | ✅ improved |"
    ]


def test_all_rows_of_a_table_have_as_many_cells_as_its_head(run: Run) -> None:
    odd = replace(run.verdicts[0].comparison, metric="a|b`c\\|d\n| e |")
    hostile = replace(run, verdicts=(replace(run.verdicts[0], comparison=odd), *run.verdicts[1:]))
    for block in page(hostile).split("\n\n"):
        if block.startswith("|"):
            assert len({len(row.split("|")) for row in block.splitlines()}) == 1


def test_changed_cases_are_named_up_to_twenty(run: Run) -> None:
    told = page(run)
    assert "`tickets/ticket-003`" in told
    assert "40 cases improved: `tickets/ticket-004`" in told
    assert "and 20 more" in told


def test_usage_of_every_model_is_told(run: Run) -> None:
    told = "| `base` | 390 | 390 | 402 | 499 | 320 | 52 | 3 / 0 / 7 | 45 ms | 61 ms | $0.00 |"
    assert told in page(run)


def test_a_failed_gate_is_told_with_its_reason(run: Run) -> None:
    bad = replace(run.verdicts[0], decision=Decision.FAIL, verdict="regressed", reason="it fell")
    told = page(replace(run, decision=Decision.FAIL, verdicts=(bad, *run.verdicts[1:])))
    assert told.startswith("## ❌ FAIL: tickets fails 1 of 4 gates: general.accuracy.")
    assert "- general.accuracy: it fell." in told


@pytest.mark.parametrize(
    "raw",
    [
        "<script>alert(1)</script>",
        "[link](https://evil.test)",
        "![image](x)",
        "@everyone",
        "#12",
        "`x`",
        "**bold** _it_",
        "a|b",
        "https://evil.test www.evil.test",
        "mail@evil.test",
        "- item",
        "1. item",
        "<!-- comment",
        "&amp;",
        ":boom:",
    ],
)
def test_no_text_becomes_markup_a_link_or_a_mention(raw: str) -> None:
    shown = escape(raw)
    bare = re.sub(r"&#\d+;", "x", shown)
    assert not re.search(r"[<>\[\]`*|@#!]|://|www\.|^[-+=]|^\d[.)]|:\w+:|\b_|_\b|&", bare)
    assert re.sub(r"&#(\d+);", lambda match: chr(int(match[1])), shown) == raw


def test_text_in_code_type_cannot_leave_it() -> None:
    assert code("ticket-001") == "`ticket-001`"
    assert code("a`b") == "<code>a&#96;b</code>"
    assert code("</code>@all") == "<code>&#60;/code&#62;&#64;all</code>"


def test_errors_are_told(run: Run) -> None:
    told = page(replace(run, decision=Decision.UNDECIDABLE, errors=("no answer from @server",)))
    assert "## ⚠️ UNDECIDABLE: No verdict on tickets is possible." in told
    assert "- <code>no answer from &#64;server</code>" in told
