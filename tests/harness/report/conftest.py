"""A run as a session makes it, with texts that try to break out of every surface."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from harness.records import (
    Arm,
    Candidate,
    CaseResult,
    Comparison,
    Decision,
    JudgeFigure,
    LabelTable,
    LossPoint,
    ModelSpec,
    Role,
    Rule,
    Run,
    Status,
    Usage,
    Verdict,
)

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)>\x1b[31mred\x1b[0m\x1b]0;title\x07 "
    "\u202eevil\u202c \u200bzero \x00nul `code` | cell | **bold** [link](https://evil.test) "
    "@everyone #1 </details></textarea> {{ 7*7 }} \ud800 " + "W" * 3000
)
SCHEMA, FIELDS, GENERAL = "tickets.schema_match", "tickets.field_accuracy", "general.accuracy"
EXPECTED = (
    '{"name": "Ada Brill", "product": "Kettle K2", "order": "A-1042", '
    '"category": "defect", "urgency": "high"}'
)
WRONG = EXPECTED.replace("A-1042", "A-1024").replace('"high"', '"low"')
FENCED = f"Sure! Here is the ticket:\n```json\n{EXPECTED}\n```"
PROMPT = (
    "hi, my Kettle K2 leaks since tuesday and the kitchen floor is WET!! order A-1042. "
    "Please send somebody before the weekend.\n\nAda Brill"
)


def _verdict(
    metric: str, means: tuple[float, float], ends: tuple[float, float], **more: object
) -> Verdict:
    before, after = means
    compared = Comparison(
        metric=metric,
        candidate="tickets",
        baseline="base",
        n=150,
        missing=0,
        unscored=0,
        baseline_mean=before,
        candidate_mean=after,
        difference=after - before,
        interval=ends,
        p=float(more.get("p", 0.9999)),  # type: ignore[arg-type]
        p_better=0.0001,
        p_adjusted=float(more.get("p", 1.0)),  # type: ignore[arg-type]
        p_better_adjusted=0.0003,
        losses=int(more.get("losses", 2)),  # type: ignore[call-overload]
        wins=int(more.get("wins", 45)),  # type: ignore[call-overload]
        ties=103,
        mde=0.094,
    )
    return Verdict(
        comparison=compared,
        rule=more.get("rule", Rule()),  # type: ignore[arg-type]
        verdict=str(more["verdict"]),
        decision=Decision(more.get("decision", "pass")),
        reason=str(more["reason"]),
    )


def case(number: int, status: Status, **changes: object) -> CaseResult:
    """Return one case of the suite `tickets` that became what `status` says."""
    before, after = {
        Status.REGRESSED: (EXPECTED, WRONG),
        Status.IMPROVED: (FENCED, EXPECTED),
        Status.HELD: (EXPECTED, EXPECTED),
        Status.UNSOLVED: (FENCED, FENCED),
    }[status]
    scores = {EXPECTED: (1.0, 1.0), WRONG: (1.0, 0.6), FENCED: (0.0, 0.0)}
    values = {
        "suite": "tickets",
        "id": f"ticket-{number:03}",
        "test": "test_ticket",
        "prompt": PROMPT,
        "expected": EXPECTED,
        "tags": ("messy",),
        "scores": {
            model: dict(zip((SCHEMA, FIELDS), scores[reply], strict=True))
            for model, reply in (("base", before), ("tickets", after))
        },
        "explanations": {"tickets": {FIELDS: "order: 'A-1024' instead of 'A-1042'"}},
        "replies": {"base": before, "tickets": after},
        "status": {"tickets": {SCHEMA: Status.HELD, FIELDS: status}},
    }
    return CaseResult(**{**values, **changes})  # type: ignore[arg-type]


def _hostile_case() -> CaseResult:
    return case(
        999,
        Status.REGRESSED,
        id=f"{HOSTILE[:180]}",
        prompt=HOSTILE,
        expected=None,
        tags=("<b>", "W" * 200),
        explanations={"tickets": {FIELDS: HOSTILE}},
        replies={"tickets": HOSTILE + "long " * 5000},
    )


def _cases() -> tuple[CaseResult, ...]:
    statuses = [Status.REGRESSED] * 4 + [Status.IMPROVED] * 40 + [Status.HELD, Status.UNSOLVED] * 9
    return (*(case(number, status) for number, status in enumerate(statuses)), _hostile_case())


def _losses() -> tuple[LossPoint, ...]:
    train = [LossPoint(s, s / 19, train=0.08 + 2.4 * math.exp(-s / 11)) for s in range(1, 58, 2)]
    ends = zip((19, 38, 57), (0.61, 0.21, 0.17), strict=True)
    return (*train, *(LossPoint(step, step / 19, validation=loss) for step, loss in ends))


def _labels(model: str, noise: int) -> LabelTable:
    names = ["billing", "defect", "delivery", "account_access", "question"]
    counts = {(name, name): 30 - noise * place for place, name in enumerate(names)}
    counts |= {(name, names[place - 1]): noise for place, name in enumerate(names)}
    return LabelTable(
        "tickets.category_accuracy", model, {**counts, ("billing", "(invalid)"): noise}
    )


@pytest.fixture(scope="session")
def run() -> Run:
    """A passing run of one candidate against its base."""
    verdicts = (
        _verdict(
            GENERAL,
            (0.64, 0.625),
            (-0.061, 0.034),
            p=0.29,
            losses=11,
            wins=8,
            rule=Rule(key="general", margin=0.1),
            verdict="non_inferior",
            reason="no drop of 10 points or more (lower bound -5.2)",
        ),
        _verdict(
            SCHEMA,
            (0.7067, 0.9996),
            (0.214, 0.372),
            rule=Rule(key=SCHEMA, at_least=0.98),
            verdict="passed",
            reason="schema match is 0.9996, at least 0.98 is asked for",
        ),
        _verdict(
            FIELDS,
            (0.7187, 0.9853),
            (0.216, 0.317),
            rule=Rule(key=FIELDS, better_by=0.15),
            verdict="improved",
            reason="field accuracy rose by 26.7 points (95 % interval 21.6 to 31.7, p < 0.001): "
            "2 cases worse, 45 better",
        ),
        _verdict(
            "regression.never_invents_a_refund",
            (1.0, 1.0),
            (-0.02, 0.02),
            p=0.5,
            losses=0,
            wins=0,
            rule=Rule(key="regression", max_regressions=0),
            verdict="passed",
            reason="0 cases got worse, at most 0 may",
        ),
    )
    unfenced = Comparison(
        metric="tickets.schema_match_unfenced",
        candidate="tickets",
        baseline="base",
        n=150,
        missing=0,
        unscored=0,
        baseline_mean=0.9,
        candidate_mean=1.0,
        difference=0.1,
        interval=(0.05, 0.15),
        diagnostic=True,
    )
    base = ModelSpec("base", "bundled", "pocket")
    tuned = ModelSpec("tickets", "bundled", "pocket", adapter=Path("candidates/4f1c"))
    return Run(
        run_id="20261123-041500-ab12",
        started="2026-11-23T04:15:00+00:00",
        finished="2026-11-23T04:16:31+00:00",
        decision=Decision.PASS,
        exit_status=0,
        arms=(
            Arm("base", Role.BASELINE, base),
            Arm("tickets", Role.CANDIDATE, tuned, "4f1c" * 16),
        ),
        verdicts=verdicts,
        usage={
            "tickets": Usage(390, 0, 131.2, 41.8, 0.0124, 0.0211),
            "base": Usage(390, 390, 498.6, 52.1, 0.0451, 0.0613, 0.0, 320.4, 402, 3, 0, 7),
        },
        training=(
            Candidate(
                name="tickets",
                fingerprint="4f1c" * 16,
                path=Path("candidates/4f1c"),
                base="bundled:pocket",
                quantized=True,
                seconds=21.4,
                steps=57,
                rows=333,
                truncated=1,
                losses=_losses(),
                recipe={"rank": 16, "alpha": 32, "learning_rate": 0.002, "mix": {"share": 0.1}},
            ),
        ),
        cases=_cases(),
        labels=(_labels("tickets", 1), _labels("base", 4)),
        notes=("few-shot examples for base: 3, chosen among 0, 1, 3 and 5 by 60 cases",),
        environment={
            "python": "3.11.2",
            "device": "cpu",
            "packages": {"torch": "2.13.0", "pytest": "9.2.0"},
            "seeds": {"base": 0, "tickets": 0},
        },
        comparisons=(unfenced, *(verdict.comparison for verdict in verdicts)),
        judges=(
            JudgeFigure(
                "consistency", "tickets.preference", "tickets", "strict", 0.82, (0.75, 0.88), 150
            ),
            JudgeFigure("length correlation", "tickets.preference", "tickets", None, None, None, 4),
            JudgeFigure("flip rate", None, None, "strict", 0.04, (0.01, 0.09), 150),
        ),
    )
