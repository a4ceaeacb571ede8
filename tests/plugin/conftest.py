"""A user's project in its own folder, evaluated by real pytest processes with stub models."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest

from harness.report.results import schema

STUBS = '''
import json
import time
from pathlib import Path

LOG = Path(__file__).with_name("calls.log")


def _said(name, messages, reply):
    with LOG.open("a") as log:
        log.write(json.dumps([name, messages]) + "\\n")
    return reply


def _number(messages):
    return int("".join(c for c in messages[-1]["content"] if c.isdigit()) or 0)


def right(messages):
    return _said("right", messages, "yes")


def wrong(messages):
    return _said("wrong", messages, "no")


def half(messages):
    return _said("half", messages, "yes" if _number(messages) % 2 else "no")


def other_half(messages):
    return _said("other_half", messages, "no" if _number(messages) % 2 else "yes")


def quarter(messages):
    return _said("quarter", messages, "yes" if _number(messages) % 4 in (1, 2) else "no")


def slow(messages):
    """Answer when two workers have begun (see the test), and then slowly."""
    deadline = time.monotonic() + 20
    while len(list(LOG.parent.glob("begun-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    return _said("slow", messages, "yes")


def unreachable_at_3(messages):
    if _number(messages) == 3:
        _said("unreachable_at_3", messages, "")
        raise OSError("no route to the model")
    return _said("unreachable_at_3", messages, "yes")


def moody(messages):
    """Two questions of three get another answer the second time they are asked."""
    steady = _number(messages) % 3 == 0
    return _said("moody", messages, "yes" if steady or not _first_time(messages) else "no")


def _first_time(messages):
    """Whether nobody asked this before: threads and processes may ask at once."""
    try:
        LOG.with_name(f"asked-{_number(messages)}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def by_prompt(messages):
    """Right if a system message or the text itself asks for it."""
    told = any("answer yes" in message["content"] for message in messages)
    return _said("by_prompt", messages, "yes" if told else "no")


def by_shots(messages):
    """Right with exactly one example before the question."""
    shots = sum(message["role"] == "assistant" for message in messages)
    return _said("by_shots", messages, "yes" if shots == 1 else "no")


def hostile(messages):
    return _said("hostile", messages, "\\x1b[2J\\x00<script>alert(1)</script>\\u202e\\ud800 yes")
'''

SUITE = """
import pytest

pytestmark = pytest.mark.cases("data/demo.jsonl")


def test_exact(score):
    score.exact()
"""


@dataclass(frozen=True)
class Outcome:
    """What a pytest process ended with and left behind."""

    status: int
    text: str
    lines: list[str]
    counts: Mapping[str, int]
    results: dict[str, Any]

    @property
    def errors(self) -> list[str]:
        """The sentences that told the user what is wrong."""
        found = [line.partition("ERROR: ")[2] for line in self.lines if line.startswith("ERROR: ")]
        return [sentence for sentence in found if sentence]

    @property
    def verdicts(self) -> dict[str, str]:
        """Metric (with its candidate, where there are several) -> verdict."""
        return {f"{m['metric']}[{m['candidate']}]": m["verdict"] for m in self.results["metrics"]}

    def metric(self, name: str) -> dict[str, Any]:
        """The entry of a metric in results.json."""
        return next(metric for metric in self.results["metrics"] if metric["metric"] == name)


class Project:
    """The folder of a project that uses the plugin."""

    def __init__(self, pytester: pytest.Pytester, folder: str = ".") -> None:
        self._pytester = pytester
        self.root = pytester.path / folder
        self.write("stub_models.py", STUBS)
        self.write("evals/test_demo.py", SUITE)
        self.rows("data/demo.jsonl", self.questions(24))

    @staticmethod
    def row(text: str, id_: str | None = None) -> dict[str, Any]:
        """One line of a JSONL file: a question whose answer is yes."""
        turns = [{"role": "user", "content": text}, {"role": "assistant", "content": "yes"}]
        return {"id": id_ or text, "messages": turns}

    def questions(self, count: int) -> list[dict[str, Any]]:
        """Rows that the stub models tell apart by their number."""
        return [self.row(f"is it {number}", f"c{number}") for number in range(count)]

    def write(self, path: str, text: str) -> Path:
        """Write a file of the project."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    def rows(self, path: str, lines: Iterable[Mapping[str, Any]]) -> Path:
        """Write a JSONL file."""
        return self.write(path, "".join(json.dumps(line) + "\n" for line in lines))

    def settings(self, text: str = "", *, base: str = "half", **candidates: str) -> None:
        """Write pyproject.toml: a stub as base, stubs as candidates, and more of [tool.harness]."""
        tables = [
            f'[tool.harness.candidates.{name}]\nmodel = "python:stub_models:{stub}"\n'
            for name, stub in candidates.items()
        ]
        base = base if ":" in base else f"python:stub_models:{base}"
        self.pyproject(f'[tool.harness]\nbase = "{base}"\n{"".join(tables)}{text}')

    def pyproject(self, text: str) -> None:
        """Write pyproject.toml with the pytest section that all projects share."""
        self.write(
            "pyproject.toml",
            f"{text}\n[tool.pytest.ini_options]\n"
            'pythonpath = ["."]\naddopts = ["-p", "finetune", "--import-mode=importlib"]\n',
        )

    def run(self, *arguments: str, folder: str = ".") -> Outcome:
        """Run pytest in a process of its own; with `-n`, under xdist."""
        before = self._latest()
        workers = ["-p", "xdist"] if "-n" in arguments else []
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.root / folder)
            patch.delenv("CI", raising=False)  # there pytest prints users' tracebacks whole
            patch.delenv("PYTEST_XDIST_WORKER", raising=False)
            done = self._pytester.runpytest_subprocess(*workers, *arguments)
        text = f"{done.stdout}\n{done.stderr}"
        assert "Traceback" not in text, text
        assert "INTERNALERROR" not in text, text
        results = self._results() if self._latest() != before else {}
        _refuse_contradictions(results, int(done.ret))
        return Outcome(
            status=int(done.ret),
            text=text,
            lines=[*done.outlines, *done.errlines],
            counts=_counts(done.outlines),
            results=results,
        )

    def harness(self, *arguments: str) -> tuple[int, str]:
        """Run our command as its installed script does: without the project on the path."""
        code = "import sys; sys.path.remove(''); from harness.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=self.root,
            env={**os.environ, "COLUMNS": "120"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout + done.stderr

    def _latest(self) -> str | None:
        latest = self.root / "reports" / "latest"
        return str(latest.readlink()) if latest.is_symlink() else None

    def _results(self) -> dict[str, Any]:
        text = (self.root / "reports/latest/results.json").read_text("utf-8")
        return dict(json.loads(text))

    def calls(self) -> list[tuple[str, str]]:
        """Return (stub, last user message) of every call so far, in no meaningful order."""
        return [(name, messages[-1]["content"]) for name, messages in self.conversations()]

    def conversations(self) -> list[tuple[str, Sequence[Mapping[str, str]]]]:
        """Return (stub, messages) of every call so far."""
        log = self.root / "calls.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [(name, messages) for name, messages in map(json.loads, lines)]

    def forget_calls(self) -> None:
        """Start counting the calls anew."""
        (self.root / "calls.log").unlink(missing_ok=True)

    def gates(self, path: str = "junit.xml") -> dict[str, str]:
        """Return the gates in a JUnit file: name -> passed, failure or error."""
        entries = ElementTree.parse(self.root / path).getroot().iter("testcase")
        return {
            str(entry.get("name")): next((child.tag for child in entry), "passed")
            for entry in entries
            if entry.get("classname") == "gates"
        }


def _refuse_contradictions(results: Mapping[str, Any], status: int) -> None:
    """What every results.json keeps to: its schema, and the word of the process."""
    if results:
        jsonschema.validate(results, schema())
        assert results["exit_status"] == status
        statuses = {"pass": (0, 1), "evaluated": (0, 1), "fail": (1,), "undecidable": (6,)}
        assert status in statuses[results["verdict"]]


def _counts(lines: Sequence[str]) -> dict[str, int]:
    """Read pytest's last line: `2 failed, 22 passed in 0.1s`."""
    ends = [line.split(" in ")[0] for line in lines if re.search(r" in \d+\.\d+s", line)]
    return {word: int(n) for n, word in re.findall(r"(\d+) ([a-z]+)", ends[-1])} if ends else {}


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    """An empty project; other plugins than ours are off, which saves half of the time."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    return Project(pytester)


@pytest.fixture
def service(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project in the folder `service` of a repository."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    return Project(pytester, "service")


@pytest.fixture(params=["serial", "two workers"])
def workers(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Options to run serially and under xdist."""
    return () if request.param == "serial" else ("-n", "2")
