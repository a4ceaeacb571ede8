"""The gate in real pytest sessions; `make bench` runs many more of them and measures the rates."""

from __future__ import annotations

import gate_sessions as sessions
import pytest

pytestmark = pytest.mark.slow
FEW = 10


def test_equal_models_do_not_fail(tmp_path):
    assert sessions.rate(tmp_path, sessions.EQUAL, 1, FEW) <= 0.1


def test_a_drop_of_15_points_fails(tmp_path):
    assert sessions.rate(tmp_path, sessions.WORSE_BY_15_POINTS, 1, FEW) >= 0.9


def test_an_unchanged_model_is_released(tmp_path):
    assert sessions.rate(tmp_path, sessions.UNCHANGED, 0, FEW) >= 0.9


def test_a_model_at_the_margin_is_not_released(tmp_path):
    assert sessions.rate(tmp_path, sessions.AT_THE_MARGIN, 0, FEW) <= 0.1
