"""Worlds in which the truth is known, judged by the plugin's own `compare` and `decide`.

Exact enumeration for yes-or-no scores, seeded simulation for everything else; known-bad gates see
the same evidence. `benchmarks/gate.py` prints the tables, the tests assert the limits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from scipy.stats import binom

from harness.gate import GateSettings, compare, decide
from harness.records import Comparison, Decision, Rule, Score, Series
from harness.stats import SKEWED

METRIC = "suite.metric"
ALPHA = 0.05
_NEGLIGIBLE = 1e-8

# Exact: every outcome (losses, wins) of n pairs, with its probability.

Gate = Callable[[int, int, int], bool]
"""(n, losses, wins) -> what is asked of the gate, such as: does it fail the run?"""


def probability(gate: Gate, n: int, discordance: float, drop: float = 0.0) -> float:
    """Return how often `gate` answers yes where the pass rate truly fell by `drop`.

    `discordance` is the share of pairs that differ; a larger drop makes its own.
    """
    discordance = max(discordance, drop)
    loss_share = (discordance + drop) / (2 * discordance)
    discordant = np.arange(n + 1)
    total = 0.0
    for count, weight in zip(discordant, binom.pmf(discordant, n, discordance), strict=True):
        if weight > _NEGLIGIBLE:
            split = weight * binom.pmf(np.arange(count + 1), count, loss_share)
            for losses in np.flatnonzero(split > _NEGLIGIBLE).tolist():
                total += split[losses] * gate(n, losses, int(count) - losses)
    return float(total)


def smallest_drop(gate: Gate, n: int, discordance: float, power: float = 0.8) -> float:
    """Return the smallest true drop that `gate` finds with `power`, to a tenth of a point."""
    low, high = 0.0, 1.0
    while high - low > 0.001:
        middle = (low + high) / 2
        if probability(gate, n, discordance, middle) < power:
            low = middle
        else:
            high = middle
    return high


@cache
def our_gate(n: int, losses: int, wins: int) -> bool:
    """Say whether a metric without a rule fails the run."""
    (verdict,) = decide([yes_or_no(n, losses, wins)], [], GateSettings())
    return verdict.decision is Decision.FAIL


@cache
def within_five_points(n: int, losses: int, wins: int) -> bool:
    """Say whether `margin = 0.05` passes."""
    rules = [Rule(METRIC, margin=0.05)]
    (verdict,) = decide([yes_or_no(n, losses, wins)], rules, GateSettings())
    return verdict.decision is Decision.PASS


def yes_or_no(n: int, losses: int, wins: int) -> Comparison:
    """Return the comparison of `n` pairs, of those without change one half passed."""
    same = n - losses - wins
    kept = [True] * (same // 2) + [False] * (same - same // 2)
    before = [True] * losses + [False] * wins + kept
    after = [False] * losses + [True] * wins + kept
    return compare(_answers("base", before), _answers("candidate", after), {}, ALPHA)


def _answers(model: str, passed: Sequence[bool]) -> Series:
    ids = (f"case-{number}" for number in range(len(passed)))
    return Series(METRIC, model, dict(zip(ids, map(_answer, passed), strict=True)))


@cache
def _answer(passed: bool) -> tuple[Score, ...]:
    return (Score(METRIC, float(passed), passed=passed),)


def lower_mean(n: int, losses: int, wins: int) -> bool:
    """Known bad: fail whenever the mean is lower."""
    return losses > wins


def five_points_lower(n: int, losses: int, wins: int) -> bool:
    """Known bad: fail whenever the mean is more than five points lower."""
    return (losses - wins) / n > 0.05


def unpaired_z(n: int, losses: int, wins: int) -> bool:
    """Known bad: two independent samples, as if not the same cases had been asked."""
    passed = (n - losses - wins) // 2
    before, after = (passed + losses) / n, (passed + wins) / n
    spread = math.sqrt((before * (1 - before) + after * (1 - after)) / n)
    return spread > 0 and (before - after) / spread > 1.645


@cache
def percentile_bootstrap(n: int, losses: int, wins: int) -> bool:
    """Known bad: fail where 95 % of all resamples of the cases have a lower mean."""
    if losses <= wins:
        return False
    drawn = np.arange(n + 1)
    weights = binom.pmf(drawn, n, (losses + wins) / n)
    no_lower = binom.sf(np.ceil(drawn / 2) - 1, drawn, wins / (losses + wins))
    return bool(weights @ no_lower <= ALPHA)


def wald_within_five_points(n: int, losses: int, wins: int) -> bool:
    """Known bad: non-inferiority within five points by Wald's interval."""
    difference = (wins - losses) / n
    se = math.sqrt(max(0.0, (losses + wins) / n - difference**2) / n)
    return difference - 1.645 * se > -0.05


# Simulated: two models of one mean, so that every failed run is a false alarm.

Noise = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
"""(source, shape) -> draws of mean 0 and variance 1"""


def normal(source: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw what is symmetric."""
    return source.normal(size=shape)


def small_wins(source: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw negative skew: many small wins, few large losses."""
    return 1 - source.exponential(size=shape)


def small_losses(source: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw positive skew: many small losses, few large wins."""
    return source.exponential(size=shape) - 1


def rare(source: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw zero in four of five cases."""
    return source.normal(size=shape) * (source.random(shape) < 0.2) / math.sqrt(0.2)


def likert(latent: np.ndarray) -> np.ndarray:
    """Five steps from 0 to 1."""
    return np.digitize(latent, (-1.2, -0.4, 0.4, 1.2)) / 4


def binary(latent: np.ndarray) -> np.ndarray:
    """Right or wrong, right in about two of three."""
    return (latent > -0.5).astype(float)


def unchanged(latent: np.ndarray) -> np.ndarray:
    """The number itself."""
    return latent


@dataclass(frozen=True)
class World:
    """A suite whose candidates are no worse than its base.

    `sizes` are the clusters' (of one case each: no clusters), `icc` is the share of a difference's
    variance that a cluster's cases have in common. Unless `moved` is symmetric only the candidate
    moves, so that differences have its shape; else both arms are drawn alike.
    """

    name: str
    sizes: tuple[int, ...]
    moved: Noise = normal
    scored: Callable[[np.ndarray], np.ndarray] = unchanged
    icc: float = 0.0
    trials: int = 1
    metrics: int = 1
    candidates: int = 1
    missing: float = 0.0

    @property
    def clustered(self) -> bool:
        """Whether any cases share a cluster."""
        return max(self.sizes) > 1

    def clusters(self) -> dict[str, str]:
        """Return case id -> cluster, for clusters of more than one case."""
        owners = np.repeat(np.arange(len(self.sizes)), self.sizes)
        return {f"case-{i}": f"origin-{owner}" for i, owner in enumerate(owners)}

    def series(self, source: np.random.Generator) -> Iterator[tuple[Series, Series]]:
        """Yield (baseline, candidate) of every metric and candidate of one run."""
        for metric in range(self.metrics):
            name = f"suite.metric_{metric}"
            level = source.normal(size=(sum(self.sizes), 1))
            still = self.moved in (small_wins, small_losses)
            before = level if still else level + self._moves(source)
            base = self._series(name, "base", before, source)
            for candidate in range(self.candidates):
                after = level + self._moves(source)
                yield base, self._series(name, f"candidate-{candidate}", after, source)

    def _moves(self, source: np.random.Generator) -> np.ndarray:
        shared = np.repeat(self.moved(source, (len(self.sizes), 1)), self.sizes, axis=0)
        own = self.moved(source, (sum(self.sizes), 1))
        return math.sqrt(self.icc) * shared + math.sqrt(1 - self.icc) * own

    def _series(
        self, metric: str, model: str, latent: np.ndarray, source: np.random.Generator
    ) -> Series:
        noise = source.normal(size=(len(latent), self.trials)) if self.trials > 1 else 0.0
        lost = source.random(len(latent)) < self.missing
        values = self.scored(latent + noise).tolist()
        return Series(
            metric,
            model,
            {
                f"case-{i}": (_unscored(metric),) * self.trials if lost[i] else _scores(metric, row)
                for i, row in enumerate(values)
            },
        )


def _scores(metric: str, values: Sequence[float]) -> tuple[Score, ...]:
    return tuple(_score(metric, value) for value in values)


@lru_cache(maxsize=4096)  # answers of a few kinds are made once
def _score(metric: str, value: float) -> Score:
    return Score(metric, value, low=None, high=None)


@cache
def _unscored(metric: str) -> Score:
    return Score(metric, None, unscored="no reply", low=None, high=None)


def zipf(clusters: int, cases: int) -> tuple[int, ...]:
    """Return cluster sizes that fall like 1, 1/2, 1/3, ..., of about `cases` together."""
    unit = cases / math.fsum(1 / rank for rank in range(1, clusters + 1))
    return tuple(max(1, round(unit / rank)) for rank in range(1, clusters + 1))


def alone(cases: int) -> tuple[int, ...]:
    """Return the cluster sizes of `cases` that stand alone."""
    return (1,) * cases


WORLDS = (
    World("continuous, n = 30", alone(30)),
    World("Likert, n = 50", alone(50), scored=likert),
    World("zero-inflated, n = 60", alone(60), rare),
    World("negative skew, n = 30", alone(30), small_wins),
    World("negative skew, n = 100", alone(100), small_wins),
    World("12 clusters of 4, ICC .3", (4,) * 12, icc=0.3),
    World("10 clusters of 5, ICC .7", (5,) * 10, icc=0.7),
    World("10 clusters of 5, binary, ICC .7", (5,) * 10, scored=binary, icc=0.7),
    World("10 Zipf clusters, ICC .7", zipf(10, 60), icc=0.7),
    World("10 Zipf clusters, binary, ICC .7", zipf(10, 60), scored=binary, icc=0.7),
    World("20 Zipf clusters, Likert, ICC .5", zipf(20, 80), scored=likert, icc=0.5),
    World("20 Zipf clusters, negative skew, ICC .7", zipf(20, 80), small_wins, icc=0.7),
    World("3 trials, binary, n = 30", alone(30), scored=binary, trials=3),
    World("8 trials, Likert, n = 20", alone(20), scored=likert, trials=8),
    World("1 % missing, Likert, n = 100", alone(100), scored=likert, missing=0.005),
    World("12 metrics, n = 20", alone(20), metrics=12),
    World("10 candidates, binary, n = 25", alone(25), scored=binary, candidates=10),
)
CROWD = World("12 metrics, 10 candidates", alone(20), scored=likert, metrics=12, candidates=10)
SKEWED_WORLDS = (
    World("positive skew, n = 20", alone(20), small_losses),
    World("positive skew, n = 50", alone(50), small_losses),
    World("positive skew, n = 100", alone(100), small_losses),
    World("positive skew, 10 clusters of 3", (3,) * 10, small_losses, icc=0.7),
)


@dataclass(frozen=True)
class Tally:
    """How many of `runs` failed: by our gate, and by those known to be bad.

    `warned` counts runs with a warning of skew, `warned_alarms` those of them that failed.
    """

    runs: int = 0
    ours: int = 0
    lower_mean: int = 0
    unadjusted: int = 0
    clusters_ignored: int = 0
    warned: int = 0
    warned_alarms: int = 0

    def __add__(self, other: Tally) -> Tally:
        both = zip(_counts(self), _counts(other), strict=True)
        return Tally(*(mine + theirs for mine, theirs in both))

    def rate(self, count: int) -> float:
        """Return `count` as a share of the runs."""
        return count / self.runs


def _counts(tally: Tally) -> tuple[int, ...]:
    return tuple(vars(tally).values())


def simulate(world: World, runs: int, seed: int = 0) -> Tally:
    """Return how often the gates fail `runs` runs in which nothing got worse."""
    tally = Tally()
    for source in np.random.default_rng(seed).spawn(runs):
        tally += _one_run(world, source)
    return tally


def _one_run(world: World, source: np.random.Generator) -> Tally:
    pairs = list(world.series(source))
    found = _compared(pairs, world.clusters() if world.clustered else {})
    failed = _fails(found)
    warned = any((one.skew or 0.0) > SKEWED for one in found)
    return Tally(
        runs=1,
        ours=failed,
        lower_mean=any((one.difference or 0.0) < 0 for one in found),
        unadjusted=any((one.p or 0.0) <= ALPHA for one in found),
        clusters_ignored=world.clustered and _fails(_compared(pairs, {})),
        warned=warned,
        warned_alarms=warned and failed,
    )


def _compared(
    pairs: Sequence[tuple[Series, Series]], clusters: Mapping[str, str]
) -> list[Comparison]:
    return list(itertools.starmap(lambda old, new: compare(old, new, clusters, ALPHA), pairs))


def _fails(comparisons: Sequence[Comparison]) -> bool:
    verdicts = decide(comparisons, [], GateSettings())
    return any(verdict.decision is Decision.FAIL for verdict in verdicts)
