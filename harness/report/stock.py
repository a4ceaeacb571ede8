"""What the cache of replies holds, as a table for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.text import line

if TYPE_CHECKING:
    from rich.table import Table

    from harness.store import Stock


def overview(stock: Sequence[Stock]) -> Table:
    """Return the replies by model, with their number, size and age, and their sum."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("model")
    for name in ("replies", "size", "oldest", "newest"):
        table.add_column(name, justify="right")
    for one in stock:
        table.add_row(
            Text(line(one.model) or "(unknown)"),
            f"{one.replies:,}",
            size(one.size_bytes),
            one.oldest[:10],
            one.newest[:10],
        )
    total = sum(one.replies for one in stock)
    table.add_row("all", f"{total:,}", size(sum(one.size_bytes for one in stock)), "", "")
    return table


def size(count: int) -> str:
    """Return a number of bytes for people: `12.3 MB`."""
    amount = float(count)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:,.3g} GB"
