"""What a run says, in an order that never depends on the order in which it was found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.records import (
    Arm,
    CaseResult,
    Comparison,
    Decision,
    Role,
    Run,
    Slice,
    Standing,
    Status,
    Usage,
    Verdict,
)
from harness.report.text import (
    interval,
    number,
    percent_change,
    plural,
    seconds,
    sentence,
    signed,
    whole,
)
from harness.rules import is_statistical
from harness.wording import what_it_sees

SHOWN_CASES = 200
"""Changed cases that a report shows in full, for each candidate."""

_SEVERITY = {Decision.FAIL: 0, Decision.UNDECIDABLE: 1, Decision.PASS: 2}


def baseline(run: Run) -> Arm | None:
    """The model that candidates are compared with, where there are candidates."""
    if not any(arm.role is Role.CANDIDATE for arm in run.arms):
        return None
    return next((arm for arm in run.arms if arm.role is Role.BASELINE), None)


def judged(run: Run) -> tuple[Arm, ...]:
    """The candidates; without any, the model that was evaluated alone."""
    candidates = tuple(arm for arm in run.arms if arm.role is Role.CANDIDATE)
    return candidates or run.arms


def gates(run: Run, name: str) -> list[Verdict]:
    """The verdicts on the model `name`: the worst first, then configured rules, then by metric."""
    mine = [verdict for verdict in run.verdicts if verdict.comparison.candidate == name]
    return sorted(mine, key=_gate_order)


def _gate_order(verdict: Verdict) -> tuple[int, bool, str]:
    rule = verdict.rule
    targeted = rule.at_least is not None or rule.better_by is not None or rule.at_most is not None
    return _SEVERITY[verdict.decision], not targeted, verdict.comparison.title


def beside(run: Run, name: str) -> list[Comparison]:
    """The comparisons of the model `name` that no gate judges, by title."""
    gated = {verdict.comparison.title for verdict in gates(run, name)}
    mine = {c.title: c for c in run.comparisons if c.candidate == name and c.title not in gated}
    return [mine[title] for title in sorted(mine)]


def decision(run: Run, name: str) -> Decision | None:
    """What the gates say of the model `name`: undecidable before fail; None without a gate."""
    found = {verdict.decision for verdict in gates(run, name)}
    for worst in (Decision.UNDECIDABLE, Decision.FAIL, Decision.PASS):
        if worst in found:
            return worst
    return None


def users(run: Run) -> list[str]:
    """The models that took something, in the order of the run."""
    names = [arm.name for arm in run.arms if arm.name in run.usage]
    return [*names, *sorted(set(run.usage) - set(names))]


def sights(run: Run, name: str) -> list[str]:
    """What drop each suite can see under the model `name`, by its least sensitive metric.

    Gates that statistics do not decide see every drop that they ask for.
    """
    widest: dict[str, Comparison] = {}
    for verdict in gates(run, name):
        compared, suite = verdict.comparison, verdict.comparison.metric.split(".")[0]
        seen = compared.mde is not None and is_statistical(verdict.rule)
        if seen and _blindness(compared) > _blindness(widest.get(suite)):
            widest[suite] = compared
    return [f"{one.title}: {what_it_sees(one)}" for _, one in sorted(widest.items())]


def _blindness(compared: Comparison | None) -> tuple[float, str]:
    return (compared.mde or 0.0, compared.metric) if compared else (-1.0, "")


STRIKING = 0.10
"""The rate of false discoveries at which a slice is told (Benjamini and Hochberg's q)."""


def sliced(slices: Iterable[Slice]) -> list[Slice]:
    """The slices by candidate, the most striking first."""

    def place(one: Slice) -> tuple[str, float, str, str, str]:
        compared = one.comparison
        return compared.candidate, one.q, compared.metric, one.kind, one.name

    return sorted(slices, key=place)


def striking(run: Run, name: str) -> list[str]:
    """Where the model `name` got worse on a part of the evidence, one sentence each."""
    found = [one for one in sliced(run.slices) if one.comparison.candidate == name]
    return [
        _striking(one)
        for one in found
        if one.q <= STRIKING and (one.comparison.difference or 0.0) < 0
    ]


def _striking(one: Slice) -> str:
    compared = one.comparison
    where = f"with the tag {one.name}" if one.kind == "tag" else f"in the field {one.name}"
    return (
        f"exploratory: {compared.metric} {where}: {number(compared.baseline_mean)} -> "
        f"{number(compared.candidate_mean)} on {plural(compared.n, 'case')} (q = {one.q:.2g})"
    )


def ranks(run: Run) -> list[str]:
    """How the candidates stand among each other, one sentence for each metric."""
    metrics = dict.fromkeys(one.metric for one in run.ranking)
    return [_ranks([one for one in run.ranking if one.metric == metric]) for metric in metrics]


def _ranks(standings: Sequence[Standing]) -> str:
    shown = [f"{one.candidate} {number(one.mean)}{_ahead(one)}" for one in standings]
    best, rest = standings[0], {one.candidate for one in standings[1:]}
    end = "" if rest == set(best.ahead_of) else "; none is shown to be the best"
    return f"{best.metric}: {', '.join(shown)}{end}"


def _ahead(one: Standing) -> str:
    return f" (ahead of {_listed(list(one.ahead_of), 5, 'candidate')})" if one.ahead_of else ""


def judge_lines(run: Run) -> list[str]:
    """How far the judges can be trusted: one sentence for each metric, candidate and judge."""
    found: dict[tuple[str | None, str | None, str | None], list[str]] = {}
    for one in run.judges:
        told = f"{one.name} {number(one.value)} {_span(one.interval)}".strip()
        found.setdefault((one.metric, one.candidate, one.judge), []).append(told)
    return [f"{_judged(*who)}: {'; '.join(figures)}" for who, figures in found.items()]


def _judged(metric: str | None, candidate: str | None, judge: str | None) -> str:
    of = f" of {candidate}" if candidate else ""
    by = f"judge {judge}" if judge else "judges"
    return f"{by} on {metric}{of}" if metric else by


def _span(bounds: tuple[float, float] | None) -> str:
    return f"[{number(bounds[0])}, {number(bounds[1])}]" if bounds else ""


def headline(run: Run) -> str:
    """The verdict in one sentence, without the word PASS, FAIL, UNDECIDABLE or EVALUATED."""
    names = [arm.name for arm in judged(run)]
    who = _listed(names, 3, "candidate")
    if run.decision is Decision.UNDECIDABLE:
        return f"No verdict on {who or 'anything'} is possible."
    failing = [_failure(run, name) for name in names if _count(run, name, Decision.FAIL)]
    if run.decision is Decision.FAIL:
        return f"{'; '.join(failing) or 'The run failed'}."
    if run.decision is Decision.EVALUATED:
        return f"{who or 'nothing'}; no gate applies."
    count = sum(len(gates(run, name)) for name in names)
    one = len(names) == 1
    return (
        f"{who} {'passes' if one else 'pass'} {f'all {count} gates' if count > 1 else 'the gate'}."
    )


def _failure(run: Run, name: str) -> str:
    failed = [v.comparison.title for v in gates(run, name) if v.decision is Decision.FAIL]
    of = plural(len(gates(run, name)), "gate")
    metrics = list(dict.fromkeys(failed))
    return f"{name} fails {len(failed)} of {of}: {_listed(metrics, 3, 'metric')}"


def _count(run: Run, name: str, wanted: Decision) -> int:
    return sum(verdict.decision is wanted for verdict in gates(run, name))


def _listed(names: list[str], most: int, noun: str) -> str:
    if len(names) > most:
        left = len(names) - most + 1
        return f"{', '.join(names[: most - 1])} and {plural(left, f'more {noun}')}"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def reason(run: Run) -> str:
    """Why: the reason of the gate that decided, or the first error; "" where there is none."""
    if run.decision is Decision.UNDECIDABLE and run.errors:
        more = f" ({plural(len(run.errors) - 1, 'more error')} below)" if run.errors[1:] else ""
        return sentence(run.errors[0]) + more
    for arm in judged(run):
        for verdict in gates(run, arm.name):
            if verdict.decision is run.decision:
                return sentence(f"{verdict.comparison.title}: {verdict.reason}")
    return ""


@dataclass(frozen=True, slots=True)
class Change:
    """A case that became worse or better under a candidate; `metrics` holds those that did.

    `size` is the largest change among them, in the metric's own unit.
    """

    case: CaseResult
    status: Status
    metrics: Mapping[str, Status]
    size: float

    @property
    def name(self) -> str:
        """Suite and case id."""
        return f"{self.case.suite}/{self.case.id}"


def changes(run: Run, candidate: str) -> list[Change]:
    """The cases that `candidate` changed: regressed first, the largest changes first."""
    before = baseline(run)
    if before is None:
        return []
    found = [_change(case, before.name, candidate) for case in run.cases]
    return sorted((change for change in found if change), key=_change_order)


def _change_order(change: Change) -> tuple[bool, float, str, str, str]:
    case = change.case
    return change.status is Status.IMPROVED, -change.size, case.suite, case.id, case.test


def _change(case: CaseResult, before: str, candidate: str) -> Change | None:
    statuses = case.status.get(candidate, {})
    for status in (Status.REGRESSED, Status.IMPROVED):
        metrics = sorted(metric for metric, found in statuses.items() if found is status)
        if metrics:
            both = {m: s for m, s in sorted(statuses.items()) if s in _CHANGED}
            size = max(_distance(case, metric, before, candidate) for metric in metrics)
            return Change(case, status, both, size)
    return None


_CHANGED = (Status.REGRESSED, Status.IMPROVED)


def _distance(case: CaseResult, metric: str, before: str, candidate: str) -> float:
    left = case.scores.get(before, {}).get(metric)
    right = case.scores.get(candidate, {}).get(metric)
    return abs(right - left) if left is not None and right is not None else 0.0


@dataclass(frozen=True, slots=True)
class Figure:
    """A number of the first screen: what it was, what it is, and a note.

    `good` says whether the change is welcome; None: neither.
    """

    label: str
    before: str
    after: str
    note: str
    good: bool | None = None


def figures(run: Run, name: str) -> list[Figure]:
    """The two to four figures that matter of the model `name`."""
    chosen = sorted(gates(run, name), key=_figure_order)[:2]
    return [_metric_figure(verdict) for verdict in chosen] + usage_figures(run, name)


def _figure_order(verdict: Verdict) -> tuple[int, bool, float, str]:
    severity, untargeted, metric = _gate_order(verdict)
    return severity, untargeted, -abs(verdict.comparison.difference or 0.0), metric


def _metric_figure(verdict: Verdict) -> Figure:
    compared = verdict.comparison
    good = None
    if verdict.decision is Decision.FAIL or (verdict.verdict in ("improved", "passed")):
        good = verdict.decision is not Decision.FAIL
    return Figure(
        label=compared.title,
        before=number(compared.baseline_mean) if compared.baseline_mean is not None else "",
        after=number(compared.candidate_mean),
        note=change_of(compared) if compared.difference is not None else str(verdict.rule),
        good=good,
    )


def evidence(compared: Comparison) -> tuple[float | None, str]:
    """The one-sided p for what the difference shows (Holm's where there is one), and what.

    What it shows is "worse" or "better".
    """
    better = (compared.difference or 0.0) > 0
    p = compared.p_better if better else compared.p
    adjusted = compared.p_better_adjusted if better else compared.p_adjusted
    return p if adjusted is None else adjusted, "better" if better else "worse"


def change_of(compared: Comparison) -> str:
    """Difference and interval: "+0.29 [+0.21, +0.37]"."""
    return f"{signed(compared.difference)} {interval(compared.interval)}".strip()


def usage_figures(run: Run, name: str) -> list[Figure]:
    """Prompt tokens and latency of the model `name`, where they are known."""
    arm = baseline(run)
    old = run.usage.get(arm.name, Usage()) if arm else Usage()
    new = run.usage.get(name, Usage())
    tokens = (old.prompt_tokens_mean, new.prompt_tokens_mean)
    latency = (old.latency_p50_s, new.latency_p50_s)
    return [
        *_usage_figure("prompt tokens per request", *tokens, whole),
        *_usage_figure("median latency per request", *latency, seconds),
    ]


def _usage_figure(
    label: str, before: float | None, after: float | None, show: Callable[[float | None], str]
) -> list[Figure]:
    if after is None:
        return []
    good = True if before and after < before else None
    note = percent_change(before, after)
    return [Figure(label, show(before) if before is not None else "", show(after), note, good)]
