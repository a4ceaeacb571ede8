"""Real pytest sessions with models whose pass rates are known, for the tests and the benchmark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

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


EQUAL = Truth(100, losses=0.1, wins=0.1)
WORSE_BY_15_POINTS = Truth(100, losses=0.175, wins=0.025)
UNCHANGED = Truth(500, losses=0.05, wins=0.05, mode="release")
AT_THE_MARGIN = Truth(500, losses=0.075, wins=0.025, mode="release")


def rate(folder: Path, truth: Truth, status: int, sessions: int) -> float:
    """Run `sessions` below `folder`, two at a time; return the share that ended with `status`.

    Raises:
        RuntimeError: a session did not decide.

    """
    with ThreadPoolExecutor(max_workers=2) as pool:
        ended = list(pool.map(lambda n: _session(folder / str(n), truth, n), range(sessions)))
    if not set(ended) <= {0, 1}:
        raise RuntimeError(f"sessions ended with {sorted(set(ended))}")
    return ended.count(status) / sessions


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


def main() -> int:
    """Print how often sessions end as they should not; return the exit status."""
    sessions = 200
    promises = [
        ("equal models fail", EQUAL, 1, "at most", 0.08),
        ("a drop of 15 points fails", WORSE_BY_15_POINTS, 1, "at least", 0.9),
        ("an unchanged model is released", UNCHANGED, 0, "at least", 0.9),
        ("a model at the margin is released", AT_THE_MARGIN, 0, "at most", 0.06),
    ]
    missed = 0
    for title, truth, status, words, limit in promises:
        with TemporaryDirectory() as folder:
            found = rate(Path(folder), truth, status, sessions)
        kept = found <= limit if words == "at most" else found >= limit
        missed += not kept
        print(f"{title:<36} {found:.3f} of {sessions} sessions, {words} {limit}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
