"""All item results of a run -> its verdicts and its decision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from harness import gate, outcome, rules, votes
from harness.arms import PlannedArm
from harness.config import Settings
from harness.evaluation import ItemResult
from harness.evidence import Evidence, comparisons, evidence_of, recorded_twice
from harness.ranking import ranking
from harness.records import (
    CaseResult,
    Comparison,
    Decision,
    EvidenceError,
    HarnessError,
    LabelTable,
    Role,
    Rule,
    Slice,
    Standing,
    Verdict,
)
from harness.slices import slices
from harness.votes import Ships

NOTHING_LEFT = "every case was skipped, so nothing was compared"


@dataclass(frozen=True)
class Judgement:
    """What the results say; `mistakes` are the user's (exit status 4), `errors` make it 6."""

    comparisons: tuple[Comparison, ...]
    verdicts: tuple[Verdict, ...]
    cases: tuple[CaseResult, ...]
    labels: tuple[LabelTable, ...]
    slices: tuple[Slice, ...] = ()
    ranking: tuple[Standing, ...] = ()
    notes: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    mistakes: tuple[str, ...] = ()

    @property
    def decision(self) -> Decision:
        """Undecidable before fail before pass; without a gate only evaluated."""
        found = {verdict.decision for verdict in self.verdicts}
        if self.errors or Decision.UNDECIDABLE in found:
            return Decision.UNDECIDABLE
        if not found:
            return Decision.EVALUATED
        return Decision.FAIL if Decision.FAIL in found else Decision.PASS


def judge(
    settings: Settings,
    arms: Sequence[PlannedArm],
    results: Sequence[ItemResult],
    *,
    complete: bool,
    skipped: Sequence[str] = (),
    all_suites: bool = True,
    read: Callable[[], Ships] = dict,
) -> Judgement:
    """Compare every candidate with the baseline and apply the gates.

    `complete` says whether the run covered all items of the suites: of a part, nothing is gated.
    Only where `all_suites` took part, a gate that names nothing recorded is a mistake; where cases
    were left out (`skipped` names them) it lacks evidence. `read` returns which replies people
    would ship.
    """
    try:
        judged = _judged(settings, arms, results, complete, read())
        if skipped and complete and all_suites:
            missing = () if results else (NOTHING_LEFT,)
            judged = replace(judged, errors=(*judged.errors, *missing, *judged.mistakes))
        if not (complete and all_suites) or judged.errors:
            judged = replace(judged, mistakes=())
    except HarnessError as problem:
        judged = Judgement((), (), (), (), mistakes=(str(problem),))
    except EvidenceError as problem:
        judged = Judgement((), (), (), (), errors=(str(problem),))
    return replace(
        judged,
        notes=(*skipped, *judged.notes),
        mistakes=(*_mistakes_of_tests(results), *judged.mistakes),
    )


def _judged(
    settings: Settings,
    arms: Sequence[PlannedArm],
    results: Sequence[ItemResult],
    complete: bool,
    ships: Ships,
) -> Judgement:
    baseline = arms[0].arm.name
    candidates = [p.arm.name for p in arms if p.arm.role is Role.CANDIDATE]
    evidence = evidence_of(results, settings.rules)
    compared = comparisons(evidence, baseline, candidates, settings.rules, settings.alpha)
    compared += _votes(results, ships, settings.rules, candidates or [baseline], evidence)
    unused = rules.unused(settings.rules, compared)
    verdicts = gate.decide(
        compared,
        settings.rules,
        gate.GateSettings(alpha=settings.alpha, power=settings.power, mode=settings.mode),
    )
    errors = _errors(results)
    if not complete:
        errors.append(_not_evaluated(results))
    return Judgement(
        comparisons=tuple(compared),
        verdicts=tuple(verdicts) if complete else (),
        cases=outcome.case_results(results, evidence.scores, baseline),
        labels=outcome.label_tables(evidence.scores),
        slices=slices(evidence, baseline, candidates, settings.alpha),
        ranking=ranking(evidence, _decisive(verdicts), candidates, settings.alpha),
        errors=tuple(errors),
        mistakes=tuple(_wrong_gates(unused, compared)),
    )


def _votes(
    results: Sequence[ItemResult],
    ships: Ships,
    rules: Sequence[Rule],
    candidates: Sequence[str],
    evidence: Evidence,
) -> list[Comparison]:
    made = votes.comparisons(results, ships, rules, candidates)
    for one in made:
        if one.metric in evidence.scores:
            raise HarnessError(
                f"{one.metric} is recorded by a test and by people's votes; give the one of the "
                "test another name"
            )
    return made


def _decisive(verdicts: Sequence[Verdict]) -> list[str]:
    """The metrics that candidates are ranked on: the targets; where there is none, all gated."""
    gated = [
        verdict
        for verdict in verdicts
        if verdict.comparison.tag is None and verdict.rule.max_would_not_ship is None
    ]
    targets = [verdict for verdict in gated if verdict.rule.better_by is not None]
    return sorted({verdict.comparison.metric for verdict in targets or gated})


def _errors(results: Sequence[ItemResult]) -> list[str]:
    lost: dict[tuple[str, str], list[ItemResult]] = {}
    for result in results:
        if result.error and not result.mistake:
            lost.setdefault((f"{result.suite}.{result.test}", result.arm), []).append(result)
    return [
        f"{test} under {arm}: {_have(len(found))} no score, first {found[0].id}: {found[0].error}"
        for (test, arm), found in lost.items()
    ]


def _have(cases: int) -> str:
    return "1 case has" if cases == 1 else f"{cases:,} cases have"


def _not_evaluated(results: Sequence[ItemResult]) -> str:
    counts = Counter(f"{result.suite} ({result.arm})" for result in results)
    recorded = ", ".join(f"{name}: {count}" for name, count in sorted(counts.items())) or "nothing"
    return (
        "gates not evaluated: the run covered only a part of the suites; "
        f"recorded items: {recorded}; run the whole folder for a verdict"
    )


def _mistakes_of_tests(results: Sequence[ItemResult]) -> list[str]:
    twice = [_twice(metric, tests) for metric, tests in recorded_twice(results).items()]
    return list(dict.fromkeys([*(result.mistake for result in results if result.mistake), *twice]))


def _twice(metric: str, tests: Sequence[str]) -> str:
    repeated = (
        "; a test with parameters, or one that stands in two classes, records once for each: "
        "there a name= with the parameter in it helps (score.record for an assertion)"
    )
    return (
        f"{metric} is recorded twice for one case, in {' and '.join(tests)}; "
        "give one of the two another name: the check by name=, an assertion by its test's name"
        f"{repeated if len(tests) == 1 else ''}"
    )


def _wrong_gates(unused: Sequence[Rule], compared: Sequence[Comparison]) -> list[str]:
    recorded = ", ".join(sorted({one.metric for one in compared})) or "none"
    return [
        f"pyproject.toml: tool.harness.gates.{rule.key}: no test recorded such a metric"
        f"{_of(rule)}; recorded: {recorded}"
        for rule in unused
    ]


def _of(rule: Rule) -> str:
    tag = f" of cases with the tag {rule.tag!r}" if rule.tag else ""
    return f"{tag} under a candidate {rule.candidate!r}" if rule.candidate else tag
