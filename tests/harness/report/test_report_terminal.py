from __future__ import annotations

import unicodedata
from dataclasses import replace

import pytest
from rich.cells import cell_len

from harness.records import Arm, Decision, ModelSpec, Role, Run
from harness.report.terminal import lines


def line_with(text: str, found: list[str]) -> str:
    return next(line for line in found if text in line)


def failed(run: Run) -> Run:
    first, *others = run.verdicts
    bad = replace(first, decision=Decision.FAIL, verdict="regressed", reason="it fell by 9 points")
    return replace(run, decision=Decision.FAIL, verdicts=(bad, *others))


def test_the_verdict_is_the_first_line(run: Run) -> None:
    assert lines(run, 100)[0] == "PASS: tickets passes all 4 gates."


def test_a_gate_is_one_aligned_line(run: Run) -> None:
    found = lines(run, 130)
    gate = line_with("  tickets.field_accuracy  ", found)
    shown = "tickets.field_accuracy 0.72 -> 0.99 +0.27 [+0.22, +0.32] improved better_by = 0.15"
    assert " ".join(gate.split()) == shown
    columns = {line.index("->") for line in found if " -> " in line and "[" in line}
    assert len(columns) == 1


def test_a_failed_run_names_the_gate_and_why(run: Run) -> None:
    found = lines(failed(run), 100)
    assert found[0] == "FAIL: tickets fails 1 of 4 gates: general.accuracy."
    assert found[1] == "  general.accuracy: it fell by 9 points."
    assert "general.accuracy" in found[2]
    assert "regressed" in found[2]


def test_an_undecidable_run_tells_every_error(run: Run) -> None:
    errors = ("the server answered 503", "the training of tickets failed")
    found = lines(replace(run, decision=Decision.UNDECIDABLE, errors=errors), 100)
    assert found[:3] == [
        "UNDECIDABLE: No verdict on tickets is possible.",
        *(f"  {error}" for error in errors),
    ]


def test_the_worst_cases_are_named_and_counted(run: Run) -> None:
    told = " ".join(lines(run, 400))
    assert "40 cases improved, 5 regressed: tickets/" in told
    assert "tickets/ticket-003" in told
    assert "tickets/ticket-004" not in told


def test_at_most_five_cases_are_named(run: Run) -> None:
    more = tuple(replace(case, id=f"more-{n}") for n, case in enumerate(run.cases[:4]))
    assert "and 4 more" in " ".join(lines(replace(run, cases=run.cases + more), 400))


def test_what_the_suite_sees_is_told_once_for_each_suite(run: Run) -> None:
    found = [line for line in lines(run, 400) if "sees a drop of" in line]
    assert [line.split(":")[0].strip() for line in found] == [
        "general.accuracy",
        "tickets.field_accuracy",
    ]


def test_tokens_and_latency_are_told(run: Run) -> None:
    assert (
        "  prompt tokens per request 499 -> 131; median latency per request 45 ms -> 12 ms"
        in lines(run, 100)
    )


def test_the_path_of_the_report_is_the_last_line_and_whole(run: Run) -> None:
    path = f"reports/{'x' * 150}/index.html"
    assert lines(run, 80, path)[-1] == f"report: {path}"


@pytest.mark.parametrize("width", [1, 20, 40, 80, 200])
def test_no_line_is_wider_than_the_terminal(run: Run, width: int) -> None:
    assert all(cell_len(line) <= max(width, 20) for line in lines(run, width))


def test_a_narrow_terminal_still_shows_the_verdict_of_a_gate(run: Run) -> None:
    assert line_with("improved", lines(run, 72)[2:]).strip().startswith("tickets.field_accuracy")


def test_no_control_character_reaches_the_terminal(run: Run) -> None:
    hostile = replace(run, notes=("\x1b[2J\x1b]0;x\x07\u202eabc",), errors=("\x1b[31m\x9bK",))
    for decision in Decision:
        for line in lines(replace(hostile, decision=decision), 100):
            assert not any(unicodedata.category(c) in ("Cc", "Cs", "Cf") for c in line)


def test_several_candidates_are_told_apart(run: Run) -> None:
    other = Arm("short-prompt", Role.CANDIDATE, ModelSpec("short-prompt", "openai", "x"))
    theirs = tuple(
        replace(v, comparison=replace(v.comparison, candidate="short-prompt")) for v in run.verdicts
    )
    both = replace(run, arms=(*run.arms, other), verdicts=(*run.verdicts, *theirs))
    found = lines(both, 100)
    assert found[0] == "PASS: tickets and short-prompt pass all 8 gates."
    assert found.index("tickets:") < found.index("short-prompt:")


def test_a_base_evaluated_alone_is_told_without_a_baseline(run: Run) -> None:
    gate = run.verdicts[1]
    alone = replace(
        gate.comparison,
        candidate="base",
        baseline=None,
        baseline_mean=None,
        difference=None,
        interval=None,
    )
    base = replace(run, arms=run.arms[:1], verdicts=(replace(gate, comparison=alone),))
    found = lines(base, 100)
    assert found[0] == "PASS: base passes the gate."
    assert line_with("  tickets.schema_match  ", found).split()[1] == "0.9996"


def test_a_run_without_gates_says_so(run: Run) -> None:
    alone = replace(run, verdicts=(), decision=Decision.EVALUATED)
    assert lines(alone, 100)[0] == "EVALUATED: tickets; no gate applies."
