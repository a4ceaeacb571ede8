"""Tables of stored runs: right in every width, whatever the texts are."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from harness.report.runs import SHOWN, diff, overview, page
from harness.report.text import NOTHING


def metric(name: str = "demo.exact", candidate: str = "cand", **values: Any) -> dict[str, Any]:
    return {
        "metric": name,
        "candidate": candidate,
        "baseline": "base",
        "n": 30,
        "baseline_mean": 0.5,
        "candidate_mean": 0.75,
        "difference": 0.25,
        "interval": [0.1, 0.4],
        "rule": "must not regress",
        "verdict": "improved",
        "reason": "it rose",
        **values,
    }


def case(id_: str, status: str = "improved", value: float | None = 1.0) -> dict[str, Any]:
    return {
        "suite": "demo",
        "id": id_,
        "test": "test_it",
        "scores": {"base": {"demo.exact": 0.0}, "cand": {"demo.exact": value}},
        "status": {"cand": {"demo.exact": status}},
    }


def results(**values: Any) -> dict[str, Any]:
    return {
        "run_id": "20261102-100000-ab12",
        "started": "2026-11-02T10:00:00+00:00",
        "verdict": "pass",
        "models": [
            {"name": "base", "role": "baseline", "spec": "openai:x"},
            {"name": "cand", "role": "candidate", "spec": "openai:y"},
        ],
        "metrics": [metric()],
        "cases": [case("c1")],
        "errors": [],
        **values,
    }


def shown(*parts: object, width: int = 120) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, highlight=False)
    for part in parts:
        console.print(part)
    return stream.getvalue()


def test_the_worst_figures_of_a_run_come_first() -> None:
    metrics = [metric(name, verdict="improved") for name in "abcd"]
    metrics += [metric("z", verdict="regressed"), metric("beside", verdict=None)]
    text = shown(overview([results(metrics=metrics)]))
    assert text.index("z 0.50 -> 0.75 regressed") < text.index("a 0.50 -> 0.75 improved")
    assert "and 2 more" in text
    assert "beside" not in text


def test_a_run_without_models_or_metrics_is_listed_all_the_same() -> None:
    text = shown(overview([results(models=[], metrics=[], cases=[], verdict="undecidable")]))
    assert "20261102-100000-ab12" in text
    assert "undecidable" in text


def test_a_page_says_why_and_names_cases_and_errors() -> None:
    cases = [case(f"c{n:02}", "regressed", 0.0) for n in range(SHOWN + 3)]
    bad = metric(verdict="regressed", reason="it fell", interval=None, difference=None)
    text = shown(*page(results(verdict="fail", metrics=[bad], cases=cases, errors=["lost"])))
    assert "FAIL: run 20261102-100000-ab12" in text
    assert "candidate: cand (openai:y)" in text
    assert "demo.exact: it fell" in text
    assert f"demo:c{SHOWN - 1} demo.exact" in text
    assert f"demo:c{SHOWN} demo.exact" not in text
    assert "and 3 more" in text
    assert "errors:\n  lost" in text


def test_two_runs_are_compared_candidate_by_candidate() -> None:
    two = [{"name": name, "role": "candidate", "spec": "x"} for name in ("cand", "more")]
    before = results(models=two, metrics=[metric(), metric("demo.gone")])
    after = results(
        models=two,
        metrics=[metric(candidate_mean=0.5, verdict="regressed"), metric(candidate="more")],
        cases=[case("c1", "held"), case("c2")],
    )
    text = shown(*diff(before, after))
    rows = [line.split() for line in text.splitlines() if line.startswith(" demo.")]
    assert rows == [
        ["demo.exact", "cand", "0.75", "0.50", "-0.25", "improved", "->", "regressed"],
        ["demo.exact", "more", NOTHING, "0.75", NOTHING, NOTHING, "->", "improved"],
        ["demo.gone", "cand", "0.75", NOTHING, NOTHING, "improved", "->", NOTHING],
    ]
    assert "demo:c1 (test_it) demo.exact under cand: 1.00 improved -> 1.00 held" in text
    assert "added:\n  demo:c2 (test_it)" in text


def test_single_candidates_are_compared_whatever_they_are_called() -> None:
    other = results(
        models=[{"name": "new", "role": "candidate", "spec": "x"}],
        metrics=[metric(candidate="new", candidate_mean=1.0)],
        cases=[{**case("c1"), "scores": {"new": {"demo.exact": None}}, "status": {}}],
    )
    text = shown(*diff(results(), other))
    assert text.split("verdicts")[1].split()[1:6] == ["demo.exact", "new", "0.75", "1.00", "+0.25"]
    assert "demo.exact under new: 1.00 improved -> " + NOTHING in text


@pytest.mark.parametrize("width", [30, 60, 100, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    long = results(
        metrics=[metric("suite." + "metric" * 9)],
        cases=[case("宽" * 70)],
        errors=["word " * 60],
    )
    text = shown(overview([long]), *page(long), *diff(long, long), width=width)
    assert max(cell_len(line) for line in text.splitlines()) <= width


def test_hostile_texts_become_plain_cells() -> None:
    evil = "\x1b[2J[red]x[/red]\u202e:smile:\nnext"
    bad = results(
        run_id=evil,
        models=[{"name": evil, "role": "candidate", "spec": evil}],
        metrics=[metric(evil, evil, reason=evil, rule=evil)],
        cases=[{**case(evil), "status": {evil: {evil: "regressed"}}}],
        errors=[evil],
    )
    text = shown(overview([bad]), *page(bad), *diff(bad, bad), width=400)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[red]x[/red]\\u202e:smile:" in text
