"""Projects whose `pytest evals/` runs in processes of its own, to be killed and doubled."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CASES = 24
PACE_S = 0.15
PATIENCE_S = 600
STUBS = """
import os
import time
from pathlib import Path

LOG = Path(__file__).with_name("calls.log")
PACE_S = float(os.environ["PACE_S"])


def _said(name, messages, reply):
    with LOG.open("a") as log:
        log.write(f"{name} {messages[-1]['content']}\\n")
    time.sleep(PACE_S)
    return reply


def half(messages):
    return _said("half", messages, "yes" if messages[-1]["content"][-1] in "02468" else "no")


def right(messages):
    return _said("right", messages, "yes")
"""
SUITE = """
import os
import time

import pytest

pytestmark = pytest.mark.cases("data/demo.jsonl")


def test_answer(score, reply):
    time.sleep(float(os.environ["SCORING_S"]))
    score.exact()
    assert reply.text
"""
SETTINGS = """
[tool.harness]
base = "python:stub_models:half"
max_tokens = 8

[tool.harness.candidates.plain]
model = "python:stub_models:right"

[tool.harness.gates]
"demo.exact_match" = { at_least = 0.9 }

[tool.pytest.ini_options]
addopts = ["-p", "finetune", "--import-mode=importlib"]
"""
RECIPE = """
[tool.harness.candidates.tuned]
trainer = "qlora"
base = "local:BASE"
train = "data/train.jsonl"
validation = "data/validation.jsonl"
epochs = 8
"""


def _rows(texts: list[str]) -> str:
    return "".join(
        json.dumps({"id": text, "messages": [_turn("user", text), _turn("assistant", "yes")]})
        + "\n"
        for text in texts
    )


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@dataclass(frozen=True)
class Running:
    """A `pytest evals/` process that leads a session, which all its descendants belong to."""

    process: subprocess.Popen[bytes]
    started: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        """How long ago the run was started."""
        return time.monotonic() - self.started

    def wait(self) -> int:
        """Return the exit status when the run is over."""
        return self.process.wait(PATIENCE_S)

    def survives(self, seconds: float) -> bool:
        """Return whether the run is still going on after so many seconds."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL the process, but none of its descendants."""
        self.process.kill()
        self.process.wait()

    def sweep(self) -> None:
        """SIGKILL whatever is left of the run."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def interrupt(self) -> None:
        """Do what a terminal does on Ctrl-C: SIGINT for the process and its descendants."""
        os.killpg(self.process.pid, signal.SIGINT)

    def processes(self) -> list[str]:
        """What of the run still lives; the dead that nobody waited for do not."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                name, _, fields = stat.read_text().rpartition(")")
                state, _, _, session = fields.split()[:4]
                if int(session) == self.process.pid and state not in "ZX":
                    found.append(f"{name}) {state}")
        return found

    def orphans(self, seconds: float = 20) -> list[str]:
        """What of the run still lives after at most so many seconds."""
        eventually(lambda: not self.processes(), seconds)
        return self.processes()


def eventually(condition: Callable[[], object], seconds: float = PATIENCE_S) -> bool:
    """Wait until `condition` is true; return whether it became true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


Row = tuple[str, ...]


@dataclass(frozen=True)
class Project:
    """A folder with one suite, two stub models and perhaps a recipe on the tiny base."""

    root: Path
    runs: list[Running]

    @property
    def candidates(self) -> Path:
        return self.root / ".harness" / "candidates"

    @property
    def output(self) -> str:
        """What all processes so far said."""
        return (self.root / "output.txt").read_text("utf-8")

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def start(self, *options: str, pace_s: float = PACE_S, scoring_s: float = 0) -> Running:
        """Start `pytest evals/`; a stub takes `pace_s` to reply, a test `scoring_s` to score."""
        environment = {
            **os.environ,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "OMP_NUM_THREADS": "1",
            "PACE_S": str(pace_s),
            "SCORING_S": str(scoring_s),
        }
        environment.pop("PYTEST_ADDOPTS", None)
        plugins = ["-p", "xdist"] if "-n" in options else []
        with (self.root / "output.txt").open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "pytest", "evals/", *plugins, *options],
                cwd=self.root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.runs.append(Running(process))
        return self.runs[-1]

    def run(self, *options: str) -> int:
        """Return the exit status of a whole run."""
        return self.start(*options).wait()

    def results(self) -> dict[str, Any]:
        """The latest run's results."""
        text = (self.root / "reports" / "latest" / "results.json").read_text("utf-8")
        results: dict[str, Any] = json.loads(text)
        return results

    def all_results(self) -> list[dict[str, Any]]:
        """The results of every run that the store holds."""
        return [
            {**json.loads(results), "cases": json.loads(cases)}
            for _, _, results, cases, *_ in self.table("runs")
        ]

    def replies(self) -> dict[str, Row]:
        """Key -> stored reply, with the time that it came."""
        return {key: tuple(row) for key, *row in self.table("replies")}

    def table(self, name: str) -> list[Row]:
        """The rows of a table of the store; read from a copy, because reading would repair it."""
        copy = self.root / "copy.sqlite"
        for ending in ("", "-wal"):
            source = self.root / ".harness" / f"store.sqlite{ending}"
            copied = copy.with_name(copy.name + ending)
            copied.unlink(missing_ok=True)
            if source.exists():
                shutil.copyfile(source, copied)
        connection = sqlite3.connect(copy)
        try:
            known = "SELECT count(*) FROM sqlite_master WHERE name = ?"
            made = connection.execute(known, (name,)).fetchone()[0]
            return connection.execute(f"SELECT * FROM {name}").fetchall() if made else []
        finally:
            connection.close()

    def calls(self) -> Counter[str]:
        """How often each stub was asked each question."""
        log = self.root / "calls.log"
        return Counter(log.read_text("utf-8").splitlines() if log.exists() else [])

    def forget_calls(self) -> None:
        """Start counting the calls anew."""
        (self.root / "calls.log").unlink(missing_ok=True)

    def waits_for(self, condition: Callable[[], object]) -> bool:
        """Wait until `condition` is true; return whether it became true in time."""
        return eventually(condition)


@dataclass(frozen=True)
class Projects:
    """Makes projects in folders of their own under `root`."""

    root: Path
    base: Path
    runs: list[Running] = field(default_factory=list)

    def new(self, name: str, *, training: bool = False) -> Project:
        project = Project(self.root / name, self.runs)
        project.write("stub_models.py", STUBS)
        project.write("evals/test_demo.py", SUITE)
        project.write("data/demo.jsonl", _rows([f"is it {n}" for n in range(CASES)]))
        project.write("data/train.jsonl", _rows([f"my lamp {n} is broken" for n in range(16)]))
        project.write("data/validation.jsonl", _rows([f"my clock {n} is lost" for n in range(4)]))
        recipe = RECIPE.replace("BASE", str(self.base)) if training else ""
        project.write("pyproject.toml", SETTINGS + recipe)
        return project


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Iterator[Projects]:
    if not Path("/proc/self/stat").exists():
        pytest.skip("looking for orphans needs Linux's /proc")
    projects = Projects(tmp_path_factory.mktemp("projects"), tiny_base)
    yield projects
    for run in projects.runs:
        run.sweep()
