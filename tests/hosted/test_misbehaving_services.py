"""A tenth of `benchmarks/fuzz_services.py`: services that misbehave in every way at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz_services import examine, examine_sessions


@pytest.mark.parametrize("seed", range(100, 104))
def test_a_misbehaving_service_makes_one_job_and_loses_no_model(seed: int, tmp_path: Path) -> None:
    assert examine(seed, tmp_path).faults == []


def test_a_run_at_a_misbehaving_service_has_a_model_or_ends_with_6(tmp_path: Path) -> None:
    outcome = examine_sessions(43, tmp_path)
    assert outcome.faults == []
    assert set(outcome.runs) <= {"status 0", "status 6"}
