"""The lines under pytest's terminal summary."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from harness.records import Comparison, Decision, Run, Status, Verdict
from harness.report import summary
from harness.report.text import interval, number, plural, short, signed
from harness.text import line, visible

_NAMED_CASES = 5
_NARROWEST = 20
_STRIKING_SLICES = 5


def lines(run: Run, width: int, report: str | None = None) -> list[str]:
    """Return the summary of `run` as plain lines of at most `width` columns (20 at least).

    `report` is the path to name as the place to read more; it is never cut.
    """
    width = max(width, _NARROWEST)
    made = _wrapped([f"{run.decision.value.upper()}: {summary.headline(run)}"], width)
    made += _wrapped(_why(run), width, "  ")
    made += _wrapped([f"ALARM: {alarm}" for alarm in run.alarms], width)
    for arm in summary.judged(run):
        made += _gates(run, arm.name, width)
        made += _wrapped(_about(run, arm.name), width, "  ")
    made += _wrapped(summary.ranks(run), width)
    made += _wrapped(summary.judge_lines(run), width)
    made += _wrapped(run.notes, width)
    return [*made, f"report: {visible(str(report))}"] if report else made


def _why(run: Run) -> Sequence[str]:
    if run.decision is Decision.UNDECIDABLE and run.errors:
        return run.errors
    return [summary.reason(run)]


def _wrapped(texts: Sequence[str], width: int, margin: str = "") -> list[str]:
    return [
        margin + part
        for text in texts
        for part in textwrap.wrap(line(text), width - len(margin), break_on_hyphens=False)
    ]


def _gates(run: Run, name: str, width: int) -> list[str]:
    verdicts = summary.gates(run, name)
    title = [f"{line(name)}:"] if len(summary.judged(run)) > 1 and verdicts else []
    return [*title, *_aligned([_cells(verdict) for verdict in verdicts], width)]


def _cells(verdict: Verdict) -> tuple[str, ...]:
    """Return the cells of a gate, the most important first."""
    compared = verdict.comparison
    difference = compared.difference
    return (
        line(compared.title),
        _means(compared),
        verdict.verdict,
        signed(difference) if difference is not None else "",
        interval(compared.interval),
        line(str(verdict.rule)),
    )


_PLACES = (0, 1, 3, 4, 2, 5)
"""Which cell stands where: the verdict after the interval."""


def _means(compared: Comparison) -> str:
    if compared.baseline_mean is None:
        return number(compared.candidate_mean)
    return f"{number(compared.baseline_mean)} -> {number(compared.candidate_mean)}"


def _aligned(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Align the cells of `rows`; where `width` is short, the least important cells go."""
    from rich.cells import cell_len, set_cell_size

    if not rows:
        return []
    sizes = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    used = [column for column, size in enumerate(sizes) if size]
    while len(used) > 1 and sum(sizes[column] + 2 for column in used) > width:
        used.pop()
    shown = [column for column in _PLACES if column in used]
    texts = ["".join("  " + set_cell_size(row[c], sizes[c]) for c in shown) for row in rows]
    return [set_cell_size(text, width).rstrip() for text in texts]


def _about(run: Run, name: str) -> list[str]:
    return [
        *_changed(run, name),
        *summary.striking(run, name)[:_STRIKING_SLICES],
        *summary.sights(run, name),
        *_usage(run, name),
    ]


def _changed(run: Run, name: str) -> list[str]:
    changes = summary.changes(run, name)
    worse = list(dict.fromkeys(short(c.name) for c in changes if c.status is Status.REGRESSED))
    better = {short(c.name) for c in changes if c.status is Status.IMPROVED} - set(worse)
    more = f" and {len(worse) - _NAMED_CASES} more" if len(worse) > _NAMED_CASES else ""
    named = f": {', '.join(worse[:_NAMED_CASES])}{more}" if worse else ""
    counts = f"{plural(len(better), 'case')} improved, {len(worse)} regressed{named}"
    return [counts] if changes else []


def _usage(run: Run, name: str) -> list[str]:
    figures = summary.usage_figures(run, name)
    told = [f"{f.label} {f.before + ' -> ' if f.before else ''}{f.after}" for f in figures]
    return ["; ".join(told)] if told else []
