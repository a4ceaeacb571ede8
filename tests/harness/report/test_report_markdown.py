from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from harness.records import Decision, Run
from harness.report.markdown import code, escape, page
from harness.text import line


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


HOSTILE = [
    "<script>alert(1)</script>",
    "[link](https://evil.test)",
    "![image](x)",
    "@everyone @org/team",
    "#12 GH-12 owner/repo#12 !12 ~label",
    "&#64;everyone &#x40;all &commat;me &#35;12",
    "a94a8fe5ccb19ba61c4c0873d391e987982fbbd3 a94a8fe defaced",
    "owner/repo@a94a8fe5ccb1",
    "GHSA-aaaa-bbbb-cccc CVE-2024-1",
    "`x`",
    "**bold** _it_",
    "a|b",
    "https://github.com/owner/repo/issues/1 www.evil.test ftp://evil.test",
    "mail@evil.test mailto:a@evil.test",
    "- item",
    "1. item",
    "123) item",
    "<!-- comment",
    "-->",
    "&amp;",
    ":boom: :+1:",
    "costs $x$ and $`y`$",
    "# title",
    "> quote",
    "one\n\n# two\n| a |\n---",
    "@\u200dname #\u200d12",
    "\x1b[31m@red\x1b[0m",
]
REFERENCES = re.compile(
    r"@[\w-]|[#!~&]\w|\bGH-\d|\bGHSA-\w|\bCVE-\d|\b[0-9a-f]{7,}\b|://|\bwww\.|mailto:\w|:[\w+-]+:",
    re.IGNORECASE,
)
"""What GitHub or GitLab make links of, in what is shown and is no code."""


class _Shown(HTMLParser):
    """The elements of a page and its text outside of code, character references resolved."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.text = ""
        self._code = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.elements.add(tag)
        self._code += tag == "code"

    def handle_endtag(self, tag: str) -> None:
        self._code -= tag == "code"

    def handle_data(self, data: str) -> None:
        self.text += "" if self._code else data

    def handle_comment(self, data: str) -> None:
        self.elements.add("comment")


ELEMENTS = {"h2", "h3", "p", "ul", "li", "strong", "code"} | {
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
}


def shown(markdown: str) -> _Shown:
    return _Shown(MarkdownIt("commonmark").enable("table").render(markdown))


@pytest.mark.parametrize("raw", HOSTILE)
def test_no_text_becomes_markup_a_link_or_a_mention(raw: str) -> None:
    found = shown(escape(raw))
    assert found.elements == {"p"}
    assert not REFERENCES.search(found.text)
    assert found.text.strip().replace("\u200b", "") == line(raw)


@settings(deadline=None, max_examples=200)
@given(st.text(st.sampled_from("@#!~&$<>[]()`*_|:/.-=w\\ \n1aGHb;x")))
def test_any_text_reads_as_itself_and_links_to_nothing(raw: str) -> None:
    for made, elements in ((escape(raw), {"p"}), (code(raw), {"p", "code"})):
        found = shown(f"x {made}")
        assert found.elements <= elements
        assert not REFERENCES.search(found.text)
    assert shown(f"x {escape(raw)}").text.strip().replace("\u200b", "") == f"x {line(raw)}".strip()


def test_nothing_that_a_run_holds_mentions_anybody(run: Run) -> None:
    every = " ".join(HOSTILE)
    bad = replace(
        run.verdicts[0],
        decision=Decision.FAIL,
        reason=every,
        comparison=replace(run.verdicts[0].comparison, metric=f"tickets.{every}", unit=every),
    )
    named = tuple(replace(case, id=every, suite=every) for case in run.cases)
    arms = {arm.name: f"{arm.name} {every}" for arm in run.arms}
    made = page(
        replace(
            run,
            decision=Decision.FAIL,
            arms=tuple(replace(arm, name=arms[arm.name]) for arm in run.arms[:1]) + run.arms[1:],
            usage={f"{name} {every}": usage for name, usage in run.usage.items()},
            verdicts=(bad, *run.verdicts[1:]),
            cases=named,
            alarms=(every,),
            errors=(every,),
            notes=(every,),
        )
    )
    found = shown(made)
    assert found.elements <= ELEMENTS
    assert not REFERENCES.search(found.text), REFERENCES.search(found.text)


def test_text_in_code_type_cannot_leave_it() -> None:
    assert code("ticket-001") == "`ticket-001`"
    assert code("a`b") == "<code>a&#96;b</code>"
    assert code("</code>@all") == "<code>&#60;/code&#62;&#64;all</code>"


def test_errors_are_told(run: Run) -> None:
    told = page(replace(run, decision=Decision.UNDECIDABLE, errors=("no answer from @server",)))
    assert "## ⚠️ UNDECIDABLE: No verdict on tickets is possible." in told
    assert "- <code>no answer from &#64;server</code>" in told
