"""Tests, intervals and what a sample can see: numbers in, numbers out.

Differences are candidate minus baseline, signed so that more is better; a cluster's sum is the
sum over its cases. All p values are one-sided.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

FLIPS = 9_999
_ENUMERATED = 16
_SAME = 1e-9
_CELLS = 1_000_000
_SERIES_UP_TO = 200
_FEW_DISCORDANT = 25

SKEWED = 0.5
"""A skewness above this is worth a warning.

Simulated shares that are flagged among 10, 20, 30, 50 and 100 differences: exponential (many small
losses, few large wins) .76, .93, .98, .996, 1.00; normal .19, .14, .10, .06, .01; symmetric steps
of 1/4 .17, .10, .06, .02, .003.
"""

LabelPair = tuple[str, str | None]
"""(expected, predicted) of one case; None predicts nothing that could be right."""


@lru_cache(maxsize=1024)
def t_quantile(probability: float, freedom: int) -> float:
    """Return Student's t quantile for 0 < `probability` < 1 and `freedom` >= 1 degrees.

    Up to 200 degrees the finite series of Abramowitz & Stegun 26.7.3-4 is inverted by bisection,
    above that the expansion 26.7.5 around the normal quantile is used; both agree with the true
    value to 1e-9 and better for the probabilities of tests.
    """
    if probability < 0.5:
        return -t_quantile(1 - probability, freedom)
    if freedom > _SERIES_UP_TO:
        return _t_expansion(NormalDist().inv_cdf(probability), freedom)
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        if _t_within(middle, freedom) < 2 * probability - 1:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan(low)


def _t_within(angle: float, freedom: int) -> float:
    """P(|T| < sqrt(freedom) tan(angle))."""
    odd = freedom % 2
    square = math.cos(angle) ** 2
    term = total = math.cos(angle) if odd else 1.0
    for k in range(1, (freedom - odd) // 2):
        term *= square * (2 * k - 1 + odd) / (2 * k + odd)
        total += term
    if not odd:
        return math.sin(angle) * total
    if freedom == 1:
        return 2 * angle / math.pi
    return 2 / math.pi * (angle + math.sin(angle) * total)


def _t_expansion(z: float, freedom: int) -> float:
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / freedom**power for power, term in enumerate(terms, 1))


def mcnemar_midp(losses: int, wins: int) -> float:
    """Return the mid-p of McNemar's test that losses outweigh wins; 0.5 without either.

    P(X > losses) + P(X = losses) / 2 for X ~ Binomial(losses + wins, 1/2); exact arithmetic.
    """
    above, at = _upper_tail(losses, losses + wins)
    return (2 * above + at) / (1 << (losses + wins + 1))


def mcnemar_exact(losses: int, wins: int) -> float:
    """Return the exact p of McNemar's test that losses outweigh wins: P(X >= losses)."""
    above, at = _upper_tail(losses, losses + wins)
    return (above + at) / (1 << (losses + wins))


def e_value(losses: int, wins: int) -> float:
    """Return the evidence that losses outweigh wins, valid at any moment of looking.

    2**(b + c) times the integral of 2 x**b (1 - x)**c over (1/2, 1) for b losses and c wins: a
    mixture over the loss rates above one half against the rate of one half. Under "not worse" it
    reaches 1 / alpha ever with probability alpha at most (Ville). The integral is a binomial tail,
    sum of C(n + 1, k) for k <= b over (n + 1) C(n, b), exact here; infinite beyond a double.
    """
    n = losses + wins
    above, at = _upper_tail(wins + 1, n + 1)
    try:
        return (above + at) / ((n + 1) * math.comb(n, losses))
    except OverflowError:
        return math.inf


def _upper_tail(count: int, n: int) -> tuple[int, int]:
    """How many of the 2**n outcomes have more than `count` heads, and how many exactly so."""
    at = way = math.comb(n, count)
    above = 0
    for heads in range(count, n):
        way = way * (n - heads) // (heads + 1)
        above += way
    return above, at


def sign_flip(sums: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Return (p that the sum is below zero, p that it is above) by flipping clusters' signs.

    Sums of one magnitude have McNemar's closed form; up to 16 that are not zero are enumerated,
    with mid-p; more are flipped 9,999 times, seeded: (1 + #(T* <= T)) / 10,000. Neither order nor
    scale of `sums` matters, and turning all signs swaps the two values exactly.
    """
    scaled = _scaled(sums)
    losses = sum(value < 0 for value in scaled)
    if len({abs(value) for value in scaled}) <= 1:
        wins = len(scaled) - losses
        return mcnemar_midp(losses, wins), mcnemar_midp(wins, losses)
    if len(scaled) <= _ENUMERATED:
        worse = _enumerated_flips(scaled)
        return worse, 1 - worse
    return _sampled_flips(scaled, seed)


def _scaled(sums: Sequence[float]) -> list[float]:
    """The sums that are not zero, in parts of the largest, free of rounding noise, in order."""
    largest = max(map(abs, sums), default=0.0)
    parts = (round(value / largest, 12) for value in sums if value)
    return sorted((part for part in parts if part), key=abs)


def _enumerated_flips(sums: Sequence[float]) -> float:
    import numpy as np

    totals = np.zeros(1)
    for value in sums:
        totals = np.concatenate((totals - value, totals + value))
    observed = math.fsum(sums)
    below = int((totals < observed - _SAME).sum())
    at = int((abs(totals - observed) <= _SAME).sum())
    return (below + at / 2) / len(totals)


def _sampled_flips(sums: Sequence[float], seed: int) -> tuple[float, float]:
    import numpy as np

    observed = math.fsum(sums)
    totals = _flipped_totals(np.abs(sums), seed)
    worse = int((totals <= observed + _SAME).sum())
    better = int((totals <= -observed + _SAME).sum())
    return (1 + worse) / (FLIPS + 1), (1 + better) / (FLIPS + 1)


def _flipped_totals(sizes: NDArray[Any], seed: int) -> NDArray[Any]:
    """Sums of `sizes` under random signs: each random byte looks up eight signed sizes at once."""
    import numpy as np

    eights = np.append(sizes, np.zeros(-len(sizes) % 8)).reshape(-1, 8)
    signs = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1) * 2.0 - 1
    totals, found = np.zeros(FLIPS), np.empty(FLIPS)
    for signed, flips in zip(eights @ signs.T, _flips(len(eights), seed), strict=True):
        totals += np.take(signed, flips, out=found, mode="clip")
    return totals


@lru_cache(maxsize=4)
def _flips(eights: int, seed: int) -> NDArray[Any]:
    """Random bytes of shape (eights, FLIPS); drawing them takes longer than using them."""
    import numpy as np

    flips = np.random.default_rng(seed).integers(0, 256, (eights, FLIPS), dtype=np.uint8)
    flips.setflags(write=False)
    return flips


def cluster_sums(differences: Sequence[float], groups: Sequence[Hashable]) -> list[float]:
    """Return the sum of `differences` in each group, in the order of first appearance."""
    sums: dict[Hashable, float] = {}
    for group, difference in zip(groups, differences, strict=True):
        sums[group] = sums.get(group, 0.0) + difference
    return list(sums.values())


def cluster_se(differences: Sequence[float], groups: Sequence[Hashable]) -> float | None:
    """Return the cluster-robust standard error of the mean difference; None for one cluster.

    sqrt(C / (C - 1) * sum over clusters of (sum of d - mean d)**2) / n.
    """
    n = len(differences)
    mean = math.fsum(differences) / n
    sums = cluster_sums([difference - mean for difference in differences], groups)
    if len(sums) < 2:
        return None
    spread = math.fsum(value * value for value in sums)
    return math.sqrt(len(sums) / (len(sums) - 1) * spread) / n


def skewness(values: Sequence[float]) -> float | None:
    """Return the third central moment over the second to the power of 1.5; None without spread.

    Above `SKEWED`, a one-sided test for a drop of the mean cries wolf: the few large values that
    would raise the mean are missing from most samples.
    """
    n = len(values)
    mean = math.fsum(values) / n if n else 0.0
    centred = [value - mean for value in values]
    squares = [value * value for value in centred]
    second = math.fsum(squares) / n if n else 0.0
    if second <= (_SAME * max(map(abs, values), default=0.0)) ** 2:
        return None
    third = math.fsum(map(operator.mul, squares, centred)) / n
    return float(third / second**1.5)


def design_effect(differences: Sequence[float], groups: Sequence[Hashable]) -> float:
    """Return how many times more cases it takes because cases of one group resemble each other.

    1 + (mean group size - 1) * ICC; the intraclass correlation is that of a one-way analysis of
    variance with groups of unequal size, cut to [0, 1] (Donner & Koval 1980).
    """
    sizes = Counter(groups)
    n, count = len(differences), len(sizes)
    if not 1 < count < n:
        return 1.0
    mean = math.fsum(differences) / n
    centred = [difference - mean for difference in differences]
    sums = zip(sizes.values(), cluster_sums(centred, groups), strict=True)
    between = math.fsum(total * total / size for size, total in sums)
    within = math.fsum(value * value for value in centred) - between
    typical = (n - sum(size * size for size in sizes.values()) / n) / (count - 1)
    ms_between, ms_within = between / (count - 1), max(0.0, within) / (n - count)
    spread = ms_between + (typical - 1) * ms_within
    if spread <= 0:
        return 1.0
    icc = min(1.0, max(0.0, (ms_between - ms_within) / spread))
    return 1 + (n / count - 1) * icc


def noise_share(
    before: Sequence[Sequence[float]], after: Sequence[Sequence[float]]
) -> float | None:
    """Return which share of the mean difference's variance is the models' own sampling, in [0, 1].

    Both hold a row of K >= 2 trials per case. (s_A**2 + s_B**2) / K over the variance between
    cases of the averaged differences, which estimates omega**2 + (s_A**2 + s_B**2) / K. None
    with one trial or one case, or where nothing differs.
    """
    trials = len(before[0])
    if trials < 2 or len(before) < 2:
        return None
    noise = math.fsum(variance(row) for row in (*before, *after)) / len(before) / trials
    pairs = zip(before, after, strict=True)
    total = variance([(math.fsum(new) - math.fsum(old)) / trials for old, new in pairs])
    return min(1.0, noise / total) if total > _SAME**2 else None


def variance(values: Sequence[float]) -> float:
    """Return the unbiased variance of two values or more."""
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def t_interval(mean: float, se: float, clusters: int, level: float) -> tuple[float, float]:
    """Return the two-sided interval mean -+ t * se with `clusters` - 1 degrees of freedom."""
    reach = t_quantile((1 + level) / 2, clusters - 1) * se
    return mean - reach, mean + reach


def wilson_interval(count: int, n: int, level: float) -> tuple[float, float]:
    """Return Wilson's score interval for `count` of `n` >= 1, two-sided.

    Wilson, Journal of the American Statistical Association 22 (1927) 209-212.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (count + z * z / 2) / (n + z * z)
    reach = z / (n + z * z) * math.sqrt(count * (n - count) / n + z * z / 4)
    return max(0.0, middle - reach), min(1.0, middle + reach)


@lru_cache(maxsize=4096)
def tango_interval(n: int, losses: int, wins: int, level: float) -> tuple[float, float]:
    """Return Tango's score interval for (wins - losses) / n of `n` pairs, two-sided.

    Tango, Statistics in Medicine 17 (1998) 891-908. The score falls from plus to minus infinity
    over (-1, 1), so bisection always finds both ends and no other interval has to step in.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    return _tango_lower(n, losses, wins, z), -_tango_lower(n, wins, losses, z)


def _tango_lower(n: int, losses: int, wins: int, z: float) -> float:
    low, high = -1.0, (wins - losses) / n
    for _ in range(60):
        middle = (low + high) / 2
        excess = wins - losses - n * middle
        if excess > z * _tango_deviation(n, losses, wins, middle):
            low = middle
        else:
            high = middle
    return high


def _tango_deviation(n: int, losses: int, wins: int, delta: float) -> float:
    """Standard deviation of wins - losses where the true difference of proportions is `delta`."""
    linear = (2 * n - wins + losses) * delta - losses - wins
    constant = -losses * delta * (1 - delta)
    root = math.sqrt(max(0.0, linear**2 - 8 * n * constant))
    loss_rate = (root - linear) / (4 * n)
    return math.sqrt(max(0.0, n * (2 * loss_rate + delta * (1 - delta))))


def holm(ps: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p values, in the order of `ps`."""
    adjusted = [0.0] * len(ps)
    floor = 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        floor = max(floor, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = floor
    return adjusted


def benjamini_hochberg(ps: Sequence[float]) -> list[float]:
    """Return Benjamini and Hochberg's adjusted p values (rates of false discovery), in order."""
    adjusted = [0.0] * len(ps)
    ceiling = 1.0
    ascending = sorted(range(len(ps)), key=ps.__getitem__)
    for rank, index in reversed(list(enumerate(ascending, 1))):
        ceiling = min(ceiling, ps[index] * len(ps) / rank)
        adjusted[index] = ceiling
    return adjusted


def fisher(first: int, second: int, n: int) -> float:
    """Return Fisher's two-sided p that `first` of `n` and `second` of `n` have one rate."""
    total = first + second
    ways = [math.comb(n, k) * math.comb(n, total - k) for k in range(total + 1)]
    return sum(way for way in ways if way <= ways[first]) / math.comb(2 * n, total)


def mde(se: float, alpha: float, power: float) -> float:
    """Return the smallest drop that a one-sided test at `alpha` finds with `power`."""
    return (NormalDist().inv_cdf(1 - alpha) + NormalDist().inv_cdf(power)) * se


@lru_cache(maxsize=4096)
def mde_binary(n: int, discordance: float, alpha: float, power: float) -> float | None:
    """Return the smallest drop of a pass rate that McNemar's mid-p finds with `power`.

    `discordance` is the share of the `n` pairs that differ; a drop beyond it makes its own. Under
    50 pairs, or under 25 that differ, all outcomes are enumerated (to 0.0001), because the normal
    formula is far off there. None where not even the loss of everything would be found.
    """
    if n >= 50 and n * discordance >= _FEW_DISCORDANT:
        return mde(math.sqrt(discordance / n), alpha, power)
    least = _Rejections(alpha)
    low, high = 0.0, min(1.0, 4 / n)
    while _power(n, discordance, high, least) < power:
        if high == 1.0:
            return None
        low, high = high, min(1.0, 2 * high)
    while high - low > 1e-4:
        middle = (low + high) / 2
        if _power(n, discordance, middle, least) < power:
            low = middle
        else:
            high = middle
    return high


class _Rejections(dict[int, int]):
    """Discordant pairs -> the least losses among them that are significant (one too many: none)."""

    def __init__(self, alpha: float) -> None:
        self._alpha = alpha

    def __missing__(self, discordant: int) -> int:
        above, losses = 0, discordant
        while losses >= 0:
            at = math.comb(discordant, losses)
            if (2 * above + at) / (2 << discordant) > self._alpha:
                break
            above += at
            losses -= 1
        self[discordant] = losses + 1
        return losses + 1


def _power(n: int, discordance: float, drop: float, least: _Rejections) -> float:
    """Probability that McNemar's mid-p finds a true `drop`."""
    discordance = max(discordance, drop)
    loss_share = (discordance + drop) / (2 * discordance)
    expected = n * discordance
    reach = 7 * math.sqrt(expected) + 15
    plausible = range(max(0, int(expected - reach)), min(n, int(expected + reach)) + 1)
    return math.fsum(
        _binomial(discordant, n, discordance) * _at_least(least[discordant], discordant, loss_share)
        for discordant in plausible
    )


def _binomial(count: int, n: int, rate: float) -> float:
    if rate in (0.0, 1.0):
        return float(count == n * rate)
    ways = math.lgamma(n + 1) - math.lgamma(count + 1) - math.lgamma(n - count + 1)
    return math.exp(ways + count * math.log(rate) + (n - count) * math.log1p(-rate))


def _at_least(count: int, n: int, rate: float) -> float:
    total, term = 0.0, rate**n
    for k in range(n, count - 1, -1):
        total += term
        term *= k / (n - k + 1) * (1 - rate) / rate
    return total


def cases_needed(
    margin: float, deviation: float, alpha: float, power: float, design_effect: float = 1.0
) -> int:
    """Return how many cases show that a drop stays within `margin` where nothing changed.

    `deviation` is the standard deviation of one case's difference; `design_effect` is
    1 + (mean cluster size - 1) * intraclass correlation.
    """
    z = NormalDist().inv_cdf(1 - alpha) + NormalDist().inv_cdf(power)
    return math.ceil((z * deviation / margin) ** 2 * design_effect - _SAME)


def macro_f1(pairs: Iterable[LabelPair]) -> float:
    """Return the mean F1 over all labels that are expected or predicted; 0 without any pair."""
    counts = Counter(pairs)
    hits: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for (expected, predicted), count in counts.items():
        seen[expected] += count
        if predicted is not None:
            seen[predicted] += count
        if predicted == expected:
            hits[expected] += count
    return math.fsum(2 * hits[label] / seen[label] for label in seen) / len(seen) if seen else 0.0


@dataclass(frozen=True)
class PairedLabels:
    """What two models predicted on the same cases: a row per case, then summed per cluster.

    Arrays of shape (clusters, labels). `hits` counts right predictions of a label, `seen` its
    occurrences as expected plus as predicted; F1 of a label is 2 * hits / seen.
    """

    hits_before: NDArray[Any]
    seen_before: NDArray[Any]
    hits_after: NDArray[Any]
    seen_after: NDArray[Any]

    @property
    def clusters(self) -> int:
        """The number of clusters."""
        return len(self.hits_before)

    @property
    def difference(self) -> float:
        """Macro-F1 after minus before."""
        return float(_macro(self._after_sums()) - _macro(self._before_sums()))

    def _before_sums(self) -> tuple[NDArray[Any], NDArray[Any]]:
        return self.hits_before.sum(axis=0), self.seen_before.sum(axis=0)

    def _after_sums(self) -> tuple[NDArray[Any], NDArray[Any]]:
        return self.hits_after.sum(axis=0), self.seen_after.sum(axis=0)

    def swap_test(self, seed: int = 0) -> tuple[float, float]:
        """Return (p that macro-F1 fell, p that it rose), swapping the arms cluster by cluster.

        9,999 seeded swaps; exchanging the two models exchanges the two values exactly.
        """
        worse = better = 1
        observed = self.difference
        for differences in self._swapped_differences(seed):
            worse += int((differences <= observed + _SAME).sum())
            better += int((differences >= observed - _SAME).sum())
        return worse / (FLIPS + 1), better / (FLIPS + 1)

    def _swapped_differences(self, seed: int) -> Iterator[NDArray[Any]]:
        import numpy as np

        moved = np.hstack((self.hits_before - self.hits_after, self.seen_before - self.seen_after))
        moved = moved[moved.any(axis=1)].astype(np.float32)
        (hits_before, seen_before), (hits, seen) = self._before_sums(), self._after_sums()
        random = np.random.default_rng(seed)
        for rows in _chunks(max(1, *moved.shape)):
            coins = random.integers(0, 256, (rows, -(-len(moved) // 8)), dtype=np.uint8)
            swaps = np.unpackbits(coins, axis=1, count=len(moved)).astype(np.float32)
            more_hits, more_seen = np.hsplit(swaps @ moved, 2)
            after = _macro((hits + more_hits, seen + more_seen))
            yield after - _macro((hits_before - more_hits, seen_before - more_seen))

    def jackknife_se(self) -> float | None:
        """Return the standard error of the difference, leaving out one cluster at a time.

        sqrt((C - 1) / C * sum of (difference without g - their mean)**2) (Efron & Stein 1981);
        None for one cluster.
        """
        if self.clusters < 2:
            return None
        (hits_before, seen_before), (hits, seen) = self._before_sums(), self._after_sums()
        after = _macro((hits - self.hits_after, seen - self.seen_after))
        before = _macro((hits_before - self.hits_before, seen_before - self.seen_before))
        spread = (after - before) - (after - before).mean()
        return math.sqrt((self.clusters - 1) / self.clusters * float(spread @ spread))


def paired_labels(
    before: Sequence[LabelPair], after: Sequence[LabelPair], groups: Sequence[Hashable]
) -> PairedLabels:
    """Return the counts of two models' labels on the same cases, summed per group."""
    labels = sorted({label for pair in (*before, *after) for label in pair if label is not None})
    columns = {label: column for column, label in enumerate(labels)}
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    rows = [numbers[group] for group in groups]
    shape = (len(numbers), len(labels))
    return PairedLabels(
        *_label_counts(before, rows, columns, shape), *_label_counts(after, rows, columns, shape)
    )


def _label_counts(
    pairs: Sequence[LabelPair], rows: Sequence[int], columns: dict[str, int], shape: tuple[int, int]
) -> tuple[NDArray[Any], NDArray[Any]]:
    import numpy as np

    hits, seen = np.zeros(shape), np.zeros(shape)
    for row, (expected, predicted) in zip(rows, pairs, strict=True):
        seen[row, columns[expected]] += 1
        if predicted is not None:
            seen[row, columns[predicted]] += 1
        if predicted == expected:
            hits[row, columns[expected]] += 1
    return hits, seen


def _chunks(width: int) -> Iterator[int]:
    """Row counts that add up to all swaps, each with about `_CELLS` cells at most."""
    size = max(1, _CELLS // width)
    for done in range(0, FLIPS, size):
        yield min(size, FLIPS - done)


def _macro(counts: tuple[NDArray[Any], NDArray[Any]]) -> NDArray[Any]:
    """Macro-F1 along the last axis, over the labels that occur."""
    import numpy as np

    hits, seen = counts
    f1 = 2.0 * hits / np.maximum(seen, 1)
    present = np.maximum((seen > 0).sum(axis=-1), 1)
    result: NDArray[Any] = f1.sum(axis=-1) / present
    return result


def correlation(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """Return Pearson's correlation; None where one of the two never varies."""
    spread = _moment(xs, xs) * _moment(ys, ys)
    return max(-1.0, min(1.0, _moment(xs, ys) / math.sqrt(spread))) if spread > 0 else None


def correlation_interval(r: float, n: int, level: float) -> tuple[float, float] | None:
    """Return Fisher's interval for a correlation, two-sided; None under four pairs.

    Fisher, Metron 1 (1921) 3-32.
    """
    if n < 4:
        return None
    if abs(r) == 1:
        return r, r
    reach = NormalDist().inv_cdf((1 + level) / 2) / math.sqrt(n - 3)
    return math.tanh(math.atanh(r) - reach), math.tanh(math.atanh(r) + reach)


def intercept(
    xs: Sequence[float], ys: Sequence[float], level: float
) -> tuple[float, tuple[float, float]] | None:
    """Return what the least-squares line through (x, y) says of y at x = 0, with its interval.

    Student's t with n - 2 degrees of freedom; None under three points or where x never varies.
    """
    n, spread = len(xs), _moment(xs, xs)
    if n < 3 or spread <= 0:
        return None
    x, slope = math.fsum(xs) / n, _moment(xs, ys) / spread
    at_zero = math.fsum(ys) / n - slope * x
    left = max(0.0, _moment(ys, ys) - slope * _moment(xs, ys))
    se = math.sqrt(left / (n - 2) * (1 / n + x * x / spread))
    return at_zero, t_interval(at_zero, se, n - 1, level)


def _moment(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Return the sum of the products of two series around their means."""
    x, y = math.fsum(xs) / len(xs), math.fsum(ys) / len(ys)
    return math.fsum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True))
