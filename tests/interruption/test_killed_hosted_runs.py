"""SIGKILL at random moments of a hosted job's life: there is one job, and it is joined again."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from scripted import Scripted

pytestmark = pytest.mark.slow

KILLS = 20
LIFE = 24
"""Moments of a job's life that are drawn from: each request, when it comes and when it is done."""


class Life:
    """A project with one hosted candidate, from its upload to its model."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.service = Scripted(job_s=0.5, counts=False)
        self._moment = self._passed = 0
        self._delay_s = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    def write(self) -> None:
        self.root.mkdir()
        row = {
            "messages": [
                {"role": "user", "content": "is it so"},
                {"role": "assistant", "content": "yes"},
            ]
        }
        rows = [json.dumps({"id": f"r{n}", **row}) for n in range(12)]
        (self.root / "train.jsonl").write_text("\n".join(rows))
        (self.root / "pyproject.toml").write_text(
            '[tool.harness]\nbase = "served"\n[tool.harness.models.served]\n'
            f'model = "openai:base-1"\nbase_url = "{self.service.url}"\n'
            '[tool.harness.candidates.tuned]\ntrainer = "openai"\ntrain = "train.jsonl"\n'
        )

    def run(self, moment: int, delay_s: float) -> int:
        """Run `harness train`; SIGKILL it at this moment, a little later. Return its status."""
        self._moment, self._delay_s, self._passed = moment, delay_s, 0
        self.service.watch = self._watch
        code = "from harness.cli import main; main()"
        command = [sys.executable, "-c", code, "train", "tuned"]
        self._process = subprocess.Popen(
            command, cwd=self.root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        return self._process.wait(timeout=120)

    def _watch(self) -> None:
        self._passed += 1
        if self._passed == self._moment and self._process:
            if self._delay_s:
                threading.Timer(self._delay_s, self._process.kill).start()
            else:
                self._process.kill()
                time.sleep(0.02)  # what the service does next, nobody hears

    @property
    def made(self) -> list[str]:
        """The models in the store."""
        found = (self.root / ".harness/candidates").glob("[!.]*/candidate.json")
        return [json.loads(path.read_text())["model"] for path in found]


def test_there_is_one_job_after_every_kill_and_it_is_joined_again(tmp_path: Path) -> None:
    draw, kills, lives = random.Random(5), 0, 0
    while kills < KILLS:
        life = Life(tmp_path / f"life-{lives}")
        lives += 1
        with life.service:
            life.write()
            while (status := life.run(*moment(draw))) != 0:
                assert status == -9
                assert len(life.service.jobs) <= 1
                kills += 1
                if kills >= KILLS:
                    assert life.run(10_000, 0) == 0
                    break
            assert len(life.service.jobs) == 1
            assert life.made == ["ft:base-1:org:tuned:ftjob-0"]
            assert life.service.calls["create"] == 1
    assert lives > 1


def moment(draw: random.Random) -> tuple[int, float]:
    return draw.randint(1, LIFE), draw.choice([0.0, 0.0, 0.1 * draw.random()])
