from __future__ import annotations

import html
import time
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.records import (
    Arm,
    CaseResult,
    Comparison,
    Decision,
    LabelTable,
    LossPoint,
    ModelSpec,
    Role,
    Rule,
    Run,
    Status,
)
from harness.report import plots
from harness.report.html import compared, page

VOID = {"meta", "link", "input", "line", "circle", "polyline", "wbr"}


class Document(HTMLParser):
    """The elements and the text of a page; an element closed out of order is a failure."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._space(tag)
        if tag not in VOID:
            self.open.append(tag)

    def _space(self, tag: str) -> None:
        if tag not in ("wbr", "mark"):
            self.words.append(" ")

    def handle_endtag(self, tag: str) -> None:
        self._space(tag)
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def having(self, name: str) -> list[dict[str, str | None]]:
        return [a for _, a in self.elements if name in (a.get("class") or "").split()]


def test_hostile_texts_become_no_element_and_no_handler(run: Run) -> None:
    document = Document(page(run))
    tags = {tag for tag, _ in document.elements}
    assert not tags & {"script", "img", "iframe", "object", "embed", "form", "textarea", "base"}
    for _, attributes in document.elements:
        assert not any(name.startswith("on") for name in attributes)
    assert "<script>alert(1)</script><img src=x onerror=alert(2)>" in document.text
    assert "{{ 7*7 }}" in document.text


def test_the_page_refers_to_nothing_outside_itself(run: Run) -> None:
    made = page(run)
    references = [
        value
        for _, attributes in Document(made).elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "data", "action")
    ]
    assert all(value and value.startswith(("#", "data:,")) for value in references)
    style = made[made.index("<style>") : made.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_the_content_security_policy_forbids_everything_but_style(run: Run) -> None:
    policies = [
        attributes["content"]
        for tag, attributes in Document(page(run)).elements
        if tag == "meta" and "http-equiv" in attributes
    ]
    assert len(policies) == 1
    assert "default-src 'none'" in str(policies[0])
    assert "script-src 'none'" in str(policies[0])


def test_control_and_bidi_characters_are_shown_as_escapes(run: Run) -> None:
    made = page(run)
    for character in "\x00\x1b\x07\u202e\u200b\ud800":
        assert character not in made
    assert "\\u202eevil\\u202c \\u200bzero \\u0000nul" in html.unescape(made)


def test_any_place_of_a_run_is_hostile(run: Run) -> None:
    evil = "</style></script><script>x</script>\"'><b onclick=x>\x1b\u202e"
    case = CaseResult(
        suite=evil,
        id=evil,
        test=evil,
        prompt=evil,
        expected=evil,
        tags=(evil,),
        scores={evil: {evil: 1.0}, "base": {evil: 0.0}},
        explanations={evil: {evil: evil}},
        replies={evil: evil, "base": evil},
        status={evil: {evil: Status.IMPROVED}},
    )
    arm = Arm(evil, Role.CANDIDATE, ModelSpec(evil, evil, evil), evil)
    verdict = replace(
        run.verdicts[0],
        comparison=replace(run.verdicts[0].comparison, metric=evil, candidate=evil),
        reason=evil,
    )
    made = replace(
        run,
        run_id=evil,
        started=evil,
        arms=(run.arms[0], arm),
        verdicts=(verdict,),
        usage={evil: run.usage["base"]},
        training=(replace(run.training[0], name=evil, recipe={evil: evil}, findings=(evil,)),),
        cases=(case,),
        labels=(LabelTable(evil, evil, {(evil, "x"): 1}),),
        notes=(evil,),
        errors=(evil,),
        environment={evil: {evil: [evil]}},
        comparisons=(replace(run.comparisons[0], metric=f"{evil}2", candidate=evil),),
    )
    document = Document(page(made))
    assert not {"script", "b onclick"} & {tag for tag, _ in document.elements}
    assert not any("onclick" in attributes for _, attributes in document.elements)
    assert "\x1b" not in page(made)


def test_verdict_gates_diagnostics_and_what_is_seen_are_told(run: Run) -> None:
    text = Document(page(run)).text
    for told in (
        "PASS tickets passes all 4 gates.",
        "0.719 0.985",
        "+0.267 +0.216 to +0.317",
        "no drop of 10 points or more (lower bound -5.2)",
        "better_by = 0.15",
        "non-inferior",
        "general.accuracy: This suite sees a drop of 9.4 points or more",
        "tickets.schema_match_unfenced 0.900 1.000",
        "499 → 131",
        "−74 %",  # noqa: RUF001
    ):
        assert told in text


def test_regressed_cases_come_first_and_the_first_three_are_open(run: Run) -> None:
    cases = Document(page(run)).having("case")
    kinds = [str(case["class"]).split()[-1] for case in cases]
    assert kinds == ["regressed"] * 5 + ["improved"] * 40
    assert ["open" in case for case in cases] == [True] * 3 + [False] * 42


def test_a_case_shows_prompt_reference_both_replies_and_scores(run: Run) -> None:
    one = replace(run, cases=run.cases[:1])
    text = Document(page(one)).text
    for told in (
        "regressed ticket-000 tickets · test_ticket · messy",
        "field_accuracy 1.000 → 0.600",
        "Prompt hi, my Kettle K2 leaks",
        "Expected {",
        "Baseline reply base {",
        "Candidate reply tickets {",
        "order: 'A-1024' instead of 'A-1042'",
        "tickets.schema_match 1.000 1.000 held",
    ):
        assert told in text


def test_many_changed_cases_are_cut_with_a_word(run: Run) -> None:
    many = tuple(replace(run.cases[5], id=f"case-{number}") for number in range(450))
    document = Document(page(replace(run, cases=many)))
    assert len(document.having("case")) == 200
    assert "250 more changed cases in results.json." in document.text


def test_a_long_reply_is_cut_with_a_word(run: Run) -> None:
    long = replace(run.cases[0], replies={"base": "x" * 6_001, "tickets": "y"})
    text = Document(page(replace(run, cases=(long,)))).text
    assert "1 more character in results.json" in text


def test_large_hostile_runs_are_made_quickly(run: Run) -> None:
    slow = "{" * 5_000 + "a b " * 75
    replies = {"base": "a b " * 150, "tickets": "b a " * 150}
    case = replace(run.cases[0], prompt=slow, expected="a b a " * 50, replies=replies)
    many = tuple(replace(case, id=f"case-{number}") for number in range(201))
    begun = time.process_time()
    page(replace(run, cases=many))
    assert time.process_time() - begun < 20


def test_confusion_tables_show_counts_and_class_scores(run: Run) -> None:
    document = Document(page(run))
    assert "billing · 30 · · 4 4 38 0.882 0.789 0.833" in document.text
    assert len(document.having("matrix")) == 2


def test_many_labels_are_told_by_their_confusions(run: Run) -> None:
    counts = {(f"label-{n:02}", f"label-{n:02}"): 9 for n in range(40)} | {
        ("label-01", "label-02"): 3
    }
    table = LabelTable("intents.accuracy", "tickets", counts)
    document = Document(page(replace(run, labels=(table,))))
    assert document.having("turned") == []
    assert "Most frequent confusions: label-01 read as label-02 (3)." in document.text


def test_training_is_told_with_its_curve(run: Run) -> None:
    document = Document(page(run))
    assert len(document.having("curve")) == 1
    for told in ("rows 333", "truncated 1", "dropped 0", "time 21 s", "mix.share 0.1"):
        assert told in document.text


def test_findings_of_a_training_are_told(run: Run) -> None:
    made = replace(run.training[0], findings=("overfit: use 2 epochs",), cached=True)
    text = Document(page(replace(run, training=(made,)))).text
    assert "overfit: use 2 epochs" in text
    assert "from an earlier run" in text


@pytest.mark.parametrize("decision", list(Decision))
def test_a_run_without_anything_is_a_page(run: Run, decision: Decision) -> None:
    empty = replace(
        run,
        decision=decision,
        arms=(),
        verdicts=(),
        usage={},
        training=(),
        cases=(),
        labels=(),
        comparisons=(),
        notes=(),
        environment={},
    )
    assert decision.value.upper() in Document(page(empty)).text


def test_an_undecidable_run_shows_its_first_error_at_the_top_and_all_below(run: Run) -> None:
    errors = ("the server answered 503", "a training failed")
    text = Document(page(replace(run, decision=Decision.UNDECIDABLE, errors=errors))).text
    assert "UNDECIDABLE No verdict on tickets is possible. the server answered 503." in text
    assert "Errors the server answered 503 a training failed" in text


def test_a_base_evaluated_alone_has_no_columns_of_a_baseline(run: Run) -> None:
    gate = run.verdicts[1]
    alone = Comparison(
        gate.comparison.metric, "base", None, n=150, missing=0, unscored=0, candidate_mean=0.71
    )
    document = Document(
        page(replace(run, arms=run.arms[:1], verdicts=(replace(gate, comparison=alone),)))
    )
    assert "tickets.schema_match at_least = 0.98 0.710 passed" in document.text
    assert document.having("whisker") == []


def test_the_same_run_is_the_same_page_in_any_order(run: Run) -> None:
    turned = replace(
        run,
        verdicts=run.verdicts[::-1],
        cases=run.cases[::-1],
        labels=run.labels[::-1],
        usage=dict(reversed(run.usage.items())),
        comparisons=run.comparisons[::-1],
    )
    assert page(turned) == page(run)


def test_what_differs_from_the_reference_is_marked() -> None:
    pieces = compared('{"order": "A-1024"}', '{"order": "A-1042"}')
    assert [piece.text for piece in pieces if piece.marked] == ["1024"]


def test_what_differs_is_marked_in_scripts_without_spaces_and_with_marks() -> None:
    def marked(reply: str, expected: str) -> list[str]:
        return [piece.text for piece in compared(reply, expected) if piece.marked]

    assert marked("您的货物已经退回", "您的货物已经寄出") == ["退回"]
    assert marked("हिन्दी में बात", "हिन्दी में रात") == ["बात"]
    assert marked("gru\u0308n\u200b and red", "grün and blue") == ["red"]
    assert marked("ok 👨\u200d👩\u200d👧 yes", "ok 👨\u200d👩\u200d👦 yes") == [
        "👨\u200d👩\u200d👧"
    ]


def test_a_reply_of_its_own_is_not_marked_at_all() -> None:
    assert not any(piece.marked for piece in compared("one two three", "vier fünf sechs"))


@settings(deadline=None)
@given(st.text(), st.one_of(st.none(), st.text()))
def test_marking_keeps_every_character(reply: str, expected: str | None) -> None:
    assert "".join(piece.text for piece in compared(reply, expected)) == reply


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.floats(), st.floats()), max_size=20))
def test_any_losses_make_a_curve_within_its_frame(points: list[tuple[int, float, float]]) -> None:
    losses = [LossPoint(step, 0.0, train=a, validation=b) for step, a, b in points]
    drawn = plots.curve(losses)
    if drawn is None:
        return
    for x, y in drawn.dots:
        assert 0 <= x <= plots.CURVE_WIDTH
        assert 0 <= y <= plots.CURVE_HEIGHT
    assert len(drawn.up) <= 8


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(), st.floats(), st.floats()), max_size=20))
def test_any_difference_makes_a_whisker_within_its_frame(
    values: list[tuple[float, float, float]],
) -> None:
    pairs = [
        (
            Comparison(
                "m", "c", "b", n=1, missing=0, unscored=0, difference=d, interval=(low, high)
            ),
            Rule(margin=0.1),
        )
        for d, low, high in values
    ]
    for drawn in plots.whiskers(pairs):
        if drawn is not None:
            places = (drawn.zero, drawn.dot, drawn.low, drawn.high, drawn.bound or 0.0)
            assert all(0 <= place <= plots.WHISKER_WIDTH for place in places)


def test_each_candidate_carries_its_own_decision(run: Run) -> None:
    bad = replace(run.verdicts[0], decision=Decision.FAIL, verdict="regressed")
    other = Arm("other", Role.CANDIDATE, ModelSpec("other", "openai", "x"))
    theirs = tuple(
        replace(v, comparison=replace(v.comparison, candidate="other")) for v in run.verdicts
    )
    both = replace(
        run,
        decision=Decision.FAIL,
        arms=(*run.arms, other),
        verdicts=(bad, *run.verdicts[1:], *theirs),
    )
    text = Document(page(both)).text
    assert "FAIL tickets fails 1 of 4 gates: general.accuracy." in text
    assert "tickets fail general.accuracy" in text
    assert "other pass tickets.schema_match" in text
