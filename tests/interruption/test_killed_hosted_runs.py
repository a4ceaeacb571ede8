"""SIGKILL at random moments of a hosted job's life: there is one job, and it is joined again."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from scripted import Scripted

pytestmark = pytest.mark.slow

METHOD = {"type": "supervised", "supervised": {"hyperparameters": {}}}
KILLS = 20
LIFE = 24
"""Moments of a job's life that are drawn from: each request, when it comes and when it is done."""


class Life:
    """A project with one hosted candidate, from its upload to its model."""

    def __init__(self, root: Path, **behaviour: Any) -> None:
        self.root = root
        self.service = Scripted(job_s=0.5, counts=False, **behaviour)
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
        return self.harness("train", "tuned")

    def harness(self, *words: str) -> int:
        """Run a command and return its status."""
        code = "from harness.cli import main; main()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, *words],
            cwd=self.root,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return self._process.wait(timeout=120)

    def kill_creating(self) -> None:
        """SIGKILL the next run when its job has been asked for."""
        self.service.watch = lambda: (
            self._process.kill() if self._process and self.service.seen[-1] == "create" else None
        )

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
            life.service.files["x"] = b""  # whose job shows that the service keeps metadata
            other = {"model": "m", "training_file": "x", "metadata": {"of": "somebody"}}
            life.service._create({**other, "method": METHOD})
            while (status := life.run(*moment(draw))) != 0:
                assert status == -9
                assert len(life.service.jobs) <= 2
                kills += 1
                if kills >= KILLS:
                    assert life.run(10_000, 0) == 0
                    break
            assert len(life.service.jobs) == 2
            assert life.made == ["ft:base-1:org:tuned:ftjob-1"]
            assert life.service.calls["create"] == 1
    assert lives > 1


def test_a_run_that_is_killed_while_it_asks_for_a_job_leaves_one_job_to_adopt(
    tmp_path: Path,
) -> None:
    """The service keeps no metadata: nothing tells whether the job is ours."""
    life = Life(tmp_path / "life", metadata_kept=False)
    with life.service:
        life.write()
        life.kill_creating()
        assert life.harness("train", "tuned") == -9
        assert life.harness("train", "tuned") == 6
        assert life.harness("jobs", "adopt", "ftjob-9") == 4
        assert life.harness("jobs", "adopt", "ftjob-0") == 0
        assert life.harness("train", "tuned") == 0
        assert life.service.calls["create"] == 1
        assert life.made == ["ft:base-1:org:tuned:ftjob-0"]


def moment(draw: random.Random) -> tuple[int, float]:
    return draw.randint(1, LIFE), draw.choice([0.0, 0.0, 0.1 * draw.random()])
