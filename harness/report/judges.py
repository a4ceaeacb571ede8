"""A judge beside people -> lines for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.records import Calibration
from harness.report.runs import add_row, new_table
from harness.report.text import NOTHING, interval, number, plural, signed
from harness.text import line

if TYPE_CHECKING:
    from rich.console import RenderableType


def lines(made: Calibration) -> list[RenderableType]:
    """Return the parts of a calibration: agreement, bias, confusion, and what follows from it."""
    from rich.text import Text

    without = f", {made.unscored} without verdict" if made.unscored else ""
    told = (
        f"judge {made.judge} on {made.criterion}: {plural(made.n, 'label')}{without}",
        f"agreement (kappa) {number(made.kappa)} {interval(made.interval)}",
        f"bias {signed(made.bias)} {interval(made.bias_interval)}",
    )
    end = f"it advises and does not gate: {made.doubt}" if made.doubt else "it may gate"
    return [*(Text(line(text)) for text in told), _confusion(made), Text(line(end))]


def _confusion(made: Calibration) -> RenderableType:
    counts = {(people, its): count for people, its, count in made.confusion}
    scores = sorted({score for pair in counts for score in pair})
    table = new_table("people \\ judge", *(f"{score:g}" for score in scores))
    for mine in scores:
        row = (counts.get((mine, its), 0) for its in scores)
        add_row(table, f"{mine:g}", *(str(count) if count else NOTHING for count in row))
    return table
