"""What people said of replies -> a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.agreement import Estimate
from harness.records import Vote
from harness.report.runs import add_row, new_table
from harness.report.text import NOTHING, interval, number, plural, short, signed
from harness.review.desk import Result
from harness.text import line

if TYPE_CHECKING:
    from rich.console import RenderableType


def lines(run: str, results: Sequence[Result]) -> list[RenderableType]:
    """Return the parts of what people said of the candidates of `run`."""
    from rich.text import Text

    made = new_table("candidate", "read by", "pairs", "preferred", "would ship", "agreement")
    for result in results:
        add_row(made, *_cells(result))
    told = [text for result in results for text in _remarks(result)]
    if not any(result.tally.preference.n for result in results):
        told.append(f"nobody has voted on this run yet; run `harness review {run}`")
    return [Text(f"run {line(run)}"), made, *map(Text, told)]


def _cells(result: Result) -> tuple[str, ...]:
    tally = result.tally
    counts = f"better {tally.wins}, worse {tally.losses}, tie {tally.ties}"
    return (
        result.candidate,
        ", ".join(tally.raters) or NOTHING,
        str(tally.preference.n),
        f"{_figure(tally.preference)}\n{counts}",
        f"{_share(tally.ships_after)}\nbaseline {_share(tally.ships_before)}",
        f"preferred {_alpha(tally.alpha)}\nwould ship {_alpha(tally.ships_alpha)}",
    )


def _figure(estimate: Estimate) -> str:
    return f"{signed(estimate.value)} {interval(estimate.interval)}".strip()


def _share(estimate: Estimate) -> str:
    if estimate.interval is None:
        return NOTHING
    low, high = (f"{100 * end:.0f}" for end in estimate.interval)
    return f"{100 * (estimate.value or 0):.0f} % [{low}, {high}]"


def _alpha(estimate: Estimate) -> str:
    if estimate.value is None:
        return NOTHING
    bounds = f" {interval(estimate.interval)}" if estimate.interval else ""
    return f"\N{GREEK SMALL LETTER ALPHA} {number(estimate.value)}{bounds} ({estimate.n})"


def _remarks(result: Result) -> list[str]:
    found = [
        f"  {short(f'{pair.suite}:{pair.case}')}, {short(vote.rater)}: "
        + line("; ".join(filter(None, [_shipping(pair.sides.after, vote), vote.note])))
        for pair, vote in result.remarks
    ]
    head = f"{short(result.candidate)}: {plural(len(found), 'remark')}"
    return [head, *found] if found else []


def _shipping(candidate: str, vote: Vote) -> str:
    return "" if vote.ships[candidate] else "would not ship"
