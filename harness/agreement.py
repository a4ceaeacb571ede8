"""How far raters agree, people or judges: numbers in, numbers out.

A unit is what was rated. Where chance alone explains everything, because there is only one value,
an estimate has no value: nothing was learnt.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean
from typing import TYPE_CHECKING, Any, Literal

from harness import stats

if TYPE_CHECKING:
    from numpy.typing import NDArray

Scale = Literal["nominal", "ordinal", "interval"]
"""What the distance of two ratings means: different or not, how many stand between, difference."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its two-sided interval over `n` units; None where they do not determine it."""

    value: float | None
    interval: tuple[float, float] | None
    n: int


def quadratic_kappa(
    first: Sequence[float], second: Sequence[float], level: float = 0.95
) -> Estimate:
    """Return Cohen's kappa of two raters, in [-1, 1], weighted by their squared distance.

    One rating of each rater per unit, numbers on one scale. Cohen, Psychological Bulletin 70
    (1968) 213-220; the interval is the normal one with the large-sample variance of Fleiss, Cohen
    & Everitt, ibid. 72 (1969) 323-327. It has no width where the raters never differ, so that few
    units say less than it does.
    """
    import numpy as np

    n = len(first)
    values = np.unique([*first, *second])
    if len(values) < 2:
        return Estimate(None, None, n)
    table = np.zeros((len(values), len(values)))
    np.add.at(table, (np.searchsorted(values, first), np.searchsorted(values, second)), 1 / n)
    weights = 1 - _squares(values) / (values[-1] - values[0]) ** 2
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    chance = float(rows @ weights @ columns)
    kappa = (float((weights * table).sum()) - chance) / (1 - chance)
    typical = (weights @ columns)[:, None] + rows @ weights
    spread = float((table * (weights - typical * (1 - kappa)) ** 2).sum())
    variance = (spread - (kappa - chance * (1 - kappa)) ** 2) / n / (1 - chance) ** 2
    reach = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(max(0.0, variance))
    return Estimate(kappa, (kappa - reach, kappa + reach), n)


def alpha(
    units: Iterable[Sequence[float | None]], scale: Scale = "ordinal", level: float = 0.95
) -> Estimate:
    """Return Krippendorff's alpha, 1 at most, of any number of raters; None is no rating.

    `units` holds the ratings of one unit each; those with fewer than two count for nothing.
    Krippendorff, Content Analysis, 4th ed. (2018), chapter 12. The interval is the jackknife's
    over units with Student's t; None where alpha hangs on a single unit.
    """
    rated = [[x for x in unit if x is not None] for unit in units]
    rated = [unit for unit in rated if len(unit) > 1]
    values = sorted({x for unit in rated for x in unit})
    if len(values) < 2:
        return Estimate(None, None, len(rated))
    return _jackknifed(_Coincidences(rated, values, scale), level)


class _Coincidences:
    """Pairs of ratings of one unit, by their values; a unit weighs as much as it has ratings."""

    def __init__(
        self, units: Sequence[Sequence[float]], values: Sequence[float], scale: Scale
    ) -> None:
        import numpy as np

        self._values = np.array(values, dtype=float)
        self._squares = _DISTANCES[scale]
        columns = {value: column for column, value in enumerate(values)}
        self.units = [[columns[x] for x in unit] for unit in units]
        self._all = np.zeros((len(values), len(values)))
        for unit in self.units:
            self._all += self._of(unit)

    def _of(self, unit: Sequence[int]) -> NDArray[Any]:
        import numpy as np

        counts = np.bincount(unit, minlength=len(self._values)).astype(float)
        pairs: NDArray[Any] = (np.outer(counts, counts) - np.diag(counts)) / (len(unit) - 1)
        return pairs

    def alpha(self, without: Sequence[int] | None = None) -> float | None:
        """Return alpha of all units, or `without` one of them; None where one value is left."""
        pairs = self._all if without is None else self._all - self._of(without)
        totals = pairs.sum(axis=0).round()  # counts, but for the rounding of thirds
        squares = self._squares(self._values, totals)
        expected = float(totals @ squares @ totals)
        if not expected:
            return None
        observed = float((pairs * squares).sum())
        return 1 - (float(totals.sum()) - 1) * observed / expected


def _jackknifed(pairs: _Coincidences, level: float) -> Estimate:
    n, value = len(pairs.units), pairs.alpha()
    parts = [part for unit in pairs.units if (part := pairs.alpha(without=unit)) is not None]
    if value is None or len(parts) < n or n < 2:
        return Estimate(value, None, n)
    mean = fmean(parts)
    se = math.sqrt((n - 1) / n * math.fsum((part - mean) ** 2 for part in parts))
    return Estimate(value, stats.t_interval(value, se, n, level), n)


def _squares(values: NDArray[Any], totals: NDArray[Any] | None = None) -> NDArray[Any]:
    result: NDArray[Any] = (values[:, None] - values) ** 2
    return result


def _unequal(values: NDArray[Any], totals: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    result: NDArray[Any] = 1 - np.eye(len(values))
    return result


def _ranks(values: NDArray[Any], totals: NDArray[Any]) -> NDArray[Any]:
    """Squared numbers of ratings between two values, half of their own ones included."""
    return _squares(totals.cumsum() - totals / 2)


_DISTANCES: dict[Scale, Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]] = {
    "nominal": _unequal,
    "ordinal": _ranks,
    "interval": _squares,
}


def bias(first: Sequence[float], second: Sequence[float], level: float = 0.95) -> Estimate:
    """Return by how much `second` rates higher than `first` on average, with Student's t."""
    n = len(first)
    if n < 2:
        return Estimate(second[0] - first[0] if n else None, None, n)
    differences = [after - before for before, after in zip(first, second, strict=True)]
    mean = fmean(differences)
    se = math.sqrt(stats.variance(differences) / n)
    return Estimate(mean, stats.t_interval(mean, se, n, level), n)


def confusion(first: Sequence[float], second: Sequence[float]) -> dict[tuple[float, float], int]:
    """Return how often each pair of ratings (`first`, `second`) was given, sorted by them."""
    return dict(sorted(Counter(zip(first, second, strict=True)).items()))
