"""The gate's error rates in real pytest sessions, with models whose pass rates are known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

SESSIONS = 50
"""Per kind of session; there are four kinds."""

MODELS = '''
import os
import random

LOSSES, WINS = float(os.environ["LOSSES"]), float(os.environ["WINS"])


def _right(messages, arm):
    """What both arms say is drawn together: a loss, a win, or the same."""
    draw = random.Random(os.environ["DRAW"] + messages[-1]["content"])
    kind, luck = draw.random(), draw.random()
    if kind < LOSSES:
        return arm == "before"
    if kind < LOSSES + WINS:
        return arm == "after"
    return luck < 0.7


def before(messages):
    return "yes" if _right(messages, "before") else "no"


def after(messages):
    return "yes" if _right(messages, "after") else "no"
'''
SUITE = """
import pytest

pytestmark = pytest.mark.cases("cases.jsonl")


def test_answer(score):
    score.exact()
"""
SETTINGS = """
[tool.harness]
base = "python:known_models:before"
mode = "{mode}"

[tool.harness.candidates.after]
model = "python:known_models:after"
"""
MARGIN = "\n[tool.harness.gates]\nexact_match = { margin = 0.05 }\n"


@dataclass(frozen=True)
class Truth:
    """Two models: how many cases there are, and the shares that the second loses and wins."""

    cases: int
    losses: float
    wins: float
    mode: str = "detect"

    @property
    def settings(self) -> str:
        """The project's pyproject.toml."""
        return SETTINGS.format(mode=self.mode) + (MARGIN if self.mode == "release" else "")


@pytest.fixture
def rate(tmp_path: Path):
    """Run sessions on models of known rates and return the share that ended with a status."""

    def measure(truth: Truth, status: int) -> float:
        def ran(number: int) -> int:
            return _session(tmp_path / str(number), truth, number)

        with ThreadPoolExecutor(max_workers=2) as pool:
            ended = list(pool.map(ran, range(SESSIONS)))
        assert set(ended) <= {0, 1}, "every session decides"
        return ended.count(status) / SESSIONS

    return measure


def _session(folder: Path, truth: Truth, number: int) -> int:
    (folder / "evals").mkdir(parents=True)
    (folder / "known_models.py").write_text(MODELS)
    (folder / "evals" / "test_known.py").write_text(SUITE)
    (folder / "pyproject.toml").write_text(truth.settings)
    rows = ({"id": f"c{n}", "messages": _messages(n)} for n in range(truth.cases))
    (folder / "cases.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    draw = {"DRAW": f"{number}:", "LOSSES": str(truth.losses), "WINS": str(truth.wins)}
    alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
    command = [sys.executable, "-m", "pytest", "evals", "-q", "-p", "pytest_finetune"]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **draw, **alone}, capture_output=True, check=False
    )
    return done.returncode


def _messages(number: int) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": f"question {number}"},
        {"role": "assistant", "content": "yes"},
    ]


@pytest.mark.slow
def test_equal_models_rarely_fail(rate):
    assert rate(Truth(100, losses=0.1, wins=0.1), status=1) <= 0.08


@pytest.mark.slow
def test_a_drop_of_15_points_fails(rate):
    assert rate(Truth(100, losses=0.175, wins=0.025), status=1) >= 0.9


@pytest.mark.slow
def test_an_unchanged_model_is_released(rate):
    assert rate(Truth(500, losses=0.05, wins=0.05, mode="release"), status=0) >= 0.9


@pytest.mark.slow
def test_a_model_at_the_margin_is_not_released(rate):
    assert rate(Truth(500, losses=0.075, wins=0.025, mode="release"), status=0) <= 0.06
