"""Stored runs -> tables for the terminal: all of them, one of them, two side by side.

They are made of `results.json` as the store keeps it; texts may be hostile and become plain cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.report.text import NOTHING, interval, number, short, signed
from harness.text import line

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

Results = Mapping[str, Any]
"""The content of `results.json`."""

SHOWN = 20
"""Cases that a list names."""

_FIGURES = 3
_SEVERITY = ("regressed", "failed", "undecidable", "inconclusive", "smoke")


def overview(summaries: Iterable[Results]) -> Table:
    """Return a table of runs: id, when, verdict, models and main figures."""
    columns = ("run", "started", "verdict", "baseline", "candidates", "main figures")
    table = new_table(*columns)
    for results in summaries:
        add_row(
            table,
            results["run_id"],
            results["started"][:16].replace("T", " "),
            results["verdict"],
            ", ".join(_names(results, "baseline")),
            ", ".join(_names(results, "candidate")) or NOTHING,
            "\n".join(_figures(results)) or NOTHING,
        )
    return table


def page(results: Results) -> list[RenderableType]:
    """Return the parts of one run: verdict, models, metrics, changed cases, errors."""
    head = f"{results['verdict'].upper()}: run {results['run_id']}, {results['started']}"
    models = [f"{m['role']}: {m['name']} ({m['spec']})" for m in results["models"]]
    changed = [
        text
        for candidate in _names(results, "candidate")
        for status in ("regressed", "improved")
        for text in _titled(f"{status} under {candidate}", _with_status(results, candidate, status))
    ]
    reasons = [f"{m['metric']}: {m['reason']}" for m in _judged(results) if _is_bad(m)]
    return [
        *_lines([head, *models]),
        _metrics(results["metrics"]),
        *_lines([*_titled("why", reasons), *changed, *_titled("errors", results["errors"])]),
    ]


def diff(before: Results, after: Results) -> list[RenderableType]:
    """Return two runs side by side: metrics with both verdicts, then cases that differ."""
    pairs = _paired(before, after)
    table = new_table("metric", "candidate", "before", "after", "change", "verdicts")
    for candidate, metric, old, new in _metric_pairs(before, after, pairs):
        add_row(table, metric, candidate, *_side_by_side(old, new))
    old_cases, new_cases = _by_case(before), _by_case(after)
    sections = {
        "changed": _changes(old_cases, new_cases, pairs),
        "added": [_name(*key) for key in new_cases if key not in old_cases],
        "removed": [_name(*key) for key in old_cases if key not in new_cases],
    }
    told = [text for title, found in sections.items() for text in _titled(title, found)]
    title = f"{before['run_id']} ({before['verdict']}) -> {after['run_id']} ({after['verdict']})"
    return [*_lines([title]), table, *_lines(told or ["no case changed"])]


# ---------------------------------------------------------------------- parts


def new_table(*columns: str) -> Table:
    """Return an empty table whose cells break where they are too long."""
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(box=SIMPLE, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def add_row(table: Table, *cells: str) -> None:
    """Add a row of cells, which may be hostile and have several lines."""
    from rich.text import Text

    table.add_row(*(Text("\n".join(map(line, cell.split("\n")))) for cell in cells))


def _lines(texts: Iterable[str]) -> list[RenderableType]:
    from rich.text import Text

    return [Text(text if text.startswith("  ") else line(text)) for text in texts]


def _titled(title: str, found: Sequence[str]) -> Iterator[str]:
    if not found:
        return
    yield f"{title}:"
    yield from (f"  {line(text)}" for text in found[:SHOWN])
    if len(found) > SHOWN:
        yield f"  and {len(found) - SHOWN} more"


def _names(results: Results, role: str) -> list[str]:
    return [model["name"] for model in results["models"] if model["role"] == role]


def _judged(results: Results) -> list[Mapping[str, Any]]:
    """The metrics with a verdict, the worst first."""
    places = {verdict: place for place, verdict in enumerate(_SEVERITY)}
    found = [metric for metric in results["metrics"] if metric["verdict"]]
    return sorted(found, key=lambda metric: places.get(metric["verdict"], len(places)))


def _is_bad(metric: Mapping[str, Any]) -> bool:
    return metric["verdict"] in _SEVERITY


def _figures(results: Results) -> Iterator[str]:
    judged = _judged(results)
    for metric in judged[:_FIGURES]:
        yield f"{metric['metric']} {_means(metric)} {metric['verdict']}"
    if len(judged) > _FIGURES:
        yield f"and {len(judged) - _FIGURES} more"


def _means(metric: Mapping[str, Any]) -> str:
    after = number(metric["candidate_mean"])
    if metric["baseline_mean"] is None:
        return after
    return f"{number(metric['baseline_mean'])} -> {after}"


def _metrics(metrics: Sequence[Mapping[str, Any]]) -> Table:
    table = new_table("metric", "candidate", "cases", "means", "difference", "rule", "verdict")
    for metric in metrics:
        bounds = tuple(metric["interval"]) if metric["interval"] else None
        add_row(
            table,
            metric["metric"],
            metric["candidate"],
            str(metric["n"]),
            _means(metric),
            f"{signed(metric['difference'])} {interval(bounds)}",
            metric["rule"] or NOTHING,
            metric["verdict"] or NOTHING,
        )
    return table


# ---------------------------------------------------------------------- cases


def _name(suite: str, case: str, test: str) -> str:
    return f"{short(suite)}:{short(case)} ({test})"


def _by_case(results: Results) -> dict[tuple[str, str, str], Mapping[str, Any]]:
    return {(case["suite"], case["id"], case["test"]): case for case in results["cases"]}


def _with_status(results: Results, candidate: str, status: str) -> list[str]:
    return [
        f"{short(case['suite'])}:{short(case['id'])} {metric}"
        for case in results["cases"]
        for metric, found in case["status"].get(candidate, {}).items()
        if found == status
    ]


def _paired(before: Results, after: Results) -> dict[str, str]:
    """Return candidate of `after` -> the one of `before`; single candidates need no common name."""
    old, new = (_names(one, "candidate") or _names(one, "baseline") for one in (before, after))
    if len(old) == len(new) == 1:
        return {new[0]: old[0]}
    return {name: name for name in new if name in old}


def _metric_pairs(
    before: Results, after: Results, pairs: Mapping[str, str]
) -> Iterator[tuple[str, str, Mapping[str, Any] | None, Mapping[str, Any] | None]]:
    old = {(metric["candidate"], metric["metric"]): metric for metric in before["metrics"]}
    new = {(metric["candidate"], metric["metric"]): metric for metric in after["metrics"]}
    for (candidate, metric), found in new.items():
        yield candidate, metric, old.pop((pairs.get(candidate, ""), metric), None), found
    for (candidate, metric), found in old.items():
        yield candidate, metric, found, None


def _side_by_side(
    old: Mapping[str, Any] | None, new: Mapping[str, Any] | None
) -> tuple[str, str, str, str]:
    means = [one["candidate_mean"] if one else None for one in (old, new)]
    verdicts = [(one["verdict"] or NOTHING) if one else NOTHING for one in (old, new)]
    was, now = means
    change = None if was is None or now is None else now - was
    return number(was), number(now), signed(change), " -> ".join(verdicts)


def _changes(
    before: Mapping[tuple[str, str, str], Mapping[str, Any]],
    after: Mapping[tuple[str, str, str], Mapping[str, Any]],
    pairs: Mapping[str, str],
) -> list[str]:
    return [
        f"{_name(*key)} {metric} under {new}: {was} -> {now}"
        for key in after
        if key in before
        for new, old in pairs.items()
        for metric in after[key]["scores"].get(new, {})
        if (was := _state(before[key], old, metric)) != (now := _state(after[key], new, metric))
    ]


def _state(case: Mapping[str, Any], model: str, metric: str) -> str:
    value = number(case["scores"].get(model, {}).get(metric))
    status = case["status"].get(model, {}).get(metric)
    return f"{value} {status}" if status else value
