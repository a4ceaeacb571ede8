"""False alarms of whole runs in simulated worlds where no candidate is worse than its base."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from gate_simulation import CROWD, SKEWED_WORLDS, WORLDS, World, alone, simulate

pytestmark = pytest.mark.slow

RUNS, CROWD_RUNS = 1_000, 100
LIMIT = 0.065


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_a_run_without_any_drop_rarely_fails(world: World) -> None:
    tally = simulate(world, RUNS, seed=1)
    assert tally.rate(tally.ours) <= LIMIT
    assert tally.rate(tally.lower_mean) > LIMIT
    if world.clustered:
        assert tally.rate(tally.clusters_ignored) > LIMIT
    if world.metrics * world.candidates > 1:
        assert tally.rate(tally.unadjusted) > LIMIT


def test_a_crowd_of_metrics_and_candidates_shares_one_error_rate() -> None:
    tally = simulate(CROWD, CROWD_RUNS)
    assert tally.rate(tally.ours) <= LIMIT
    assert tally.rate(tally.unadjusted) > 0.9


@pytest.mark.parametrize("world", SKEWED_WORLDS, ids=lambda world: world.name)
def test_positive_skew_cries_wolf_and_is_warned_about(
    world: World, record_property: Callable[[str, object], None]
) -> None:
    tally = simulate(world, RUNS)
    record_property("false_alarms", tally.rate(tally.ours))
    assert tally.rate(tally.ours) > LIMIT
    assert tally.rate(tally.warned) > (0.9 if len(world.sizes) >= 20 else 0.6)


@pytest.mark.parametrize(("cases", "most"), [(20, 0.16), (50, 0.08), (100, 0.03)])
def test_symmetric_differences_are_seldom_called_skewed(cases: int, most: float) -> None:
    tally = simulate(World("symmetric", alone(cases)), 1_000)
    assert tally.rate(tally.warned) < most
