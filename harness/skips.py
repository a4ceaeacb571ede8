"""Tests that their authors skipped: not evidence against a model, unless another model has some."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from harness.evaluation import ItemResult
from harness.wording import count

_NAMED = 10


@dataclass(frozen=True)
class Settled:
    """The results that count, and notes that name what was left out."""

    results: tuple[ItemResult, ...]
    notes: tuple[str, ...]


def settle_skips(results: Sequence[ItemResult]) -> Settled:
    """Leave out the cases that a test skipped under all models and in all trials.

    What was skipped under some of them lacks evidence there: it has an error.
    """
    runs: dict[tuple[str, str, str], list[ItemResult]] = defaultdict(list)
    for result in results:
        runs[result.suite, result.test, result.id].append(result)
    skipped = {key for key, found in runs.items() if all(result.skipped for result in found)}
    left_out = [found[0] for key, found in sorted(runs.items()) if key in skipped]
    return Settled(
        tuple(
            replace(result, error=f"skipped under this model: {result.skipped}")
            if result.skipped
            else result
            for result in results
            if (result.suite, result.test, result.id) not in skipped
        ),
        tuple(_notes(left_out)),
    )


def _notes(left_out: Iterable[ItemResult]) -> Iterable[str]:
    reasons: dict[tuple[str, str], list[str]] = defaultdict(list)
    for result in left_out:
        reasons[f"{result.suite}.{result.test}", result.skipped].append(result.id)
    for (test, reason), cases in reasons.items():
        more = f" and {len(cases) - _NAMED} more" if len(cases) > _NAMED else ""
        yield (
            f"{test}: {count(len(cases), 'case')} skipped under all models and left out "
            f"({reason}): {', '.join(cases[:_NAMED])}{more}"
        )
