"""A part of `benchmarks/kills.py`: a run that is killed while it rescues a damaged store."""

from __future__ import annotations

from pathlib import Path

import pytest
from kills import faults_of, world
from loopback import Loopback

pytestmark = pytest.mark.slow


def test_a_killed_rescue_costs_the_next_run_nothing(tmp_path: Path) -> None:
    with Loopback() as server:
        made = world(server, tmp_path)
        assert list(faults_of("rescue", 2, made, tmp_path)) == []
