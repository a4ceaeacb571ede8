"""The shipped project in copies of its own, which share one trained candidate and its replies."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

REPO = Path(__file__).parents[2]
PATIENCE_S = 900


@dataclass(frozen=True)
class Run:
    """What one `pytest` process left behind."""

    status: int
    output: str
    errors: str
    results: dict[str, Any] = field(default_factory=dict)
    gates: dict[str, str] = field(default_factory=dict)

    def metric(self, name: str) -> dict[str, Any]:
        """Return the comparison of one metric."""
        [found] = [one for one in self.results["metrics"] if one["metric"] == name]
        return dict(found)

    def asked(self) -> dict[str, int]:
        """Return model -> number of requests that were not in the cache."""
        usage = self.results["usage"].items()
        return {name: used["requests"] - used["cached"] for name, used in usage}

    def trained(self) -> list[str]:
        """Return the candidates that this run trained."""
        return [made["candidate"] for made in self.results["training"] if not made["cached"]]

    def failed_gates(self) -> set[str]:
        """Return the metrics whose gates stand as failures in the JUnit file."""
        return {
            name.partition("[")[0] for name, outcome in self.gates.items() if outcome != "passed"
        }


@dataclass(frozen=True)
class Project:
    """A copy of the shipped project; `settings` is the content of its `[tool.harness]`."""

    root: Path
    settings: dict[str, Any]

    @property
    def home(self) -> Path:
        return self.root / self.settings.get("store", ".harness")

    def configure(self, **changes: Any) -> None:
        """Replace keys of `[tool.harness]`."""
        self.settings.update(changes)
        (self.root / "pyproject.toml").write_text(f"tool.harness = {_toml(self.settings)}\n")

    def write(self, name: str, text: str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(text, encoding="utf-8")

    def rows(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.root / name).read_text("utf-8").splitlines()]

    def write_rows(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        self.write(name, "".join(json.dumps(row) + "\n" for row in rows))

    def suites(self, **texts: str) -> None:
        """Make these the only suites; a text of "" keeps the shipped one."""
        for path in (self.root / "evals").glob("test_*.py"):
            if path.stem.removeprefix("test_") not in texts:
                path.unlink()
        for name, text in texts.items():
            if text:
                self.write(f"evals/test_{name}.py", text)

    def run(self, *options: str) -> Run:
        """Run `pytest evals/` as a user does."""
        junit = self.root / "junit.xml"
        junit.unlink(missing_ok=True)
        fixed = ("evals/", "-p", "no:randomly", f"--junitxml={junit}")
        done = self.command("pytest", *fixed, *options)
        latest = self.root / "reports" / "latest" / "results.json"
        results = json.loads(latest.read_text("utf-8")) if latest.is_file() else {}
        return Run(done.returncode, done.stdout, done.stderr, results, _gates(junit))

    def command(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a console command of this Python environment in the project."""
        return subprocess.run(
            [Path(sys.executable).with_name(name), *arguments],
            cwd=self.root,
            env=_environment(),
            capture_output=True,
            encoding="utf-8",
            timeout=PATIENCE_S,
            check=False,
        )


def _environment() -> dict[str, str]:
    mine = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    return {**mine, "HF_HUB_OFFLINE": "1", "COLUMNS": "160"}


def _gates(junit: Path) -> dict[str, str]:
    entries = ElementTree.parse(junit).getroot().iter("testcase") if junit.is_file() else ()
    return {
        str(entry.get("name")): next((child.tag for child in entry), "passed")
        for entry in entries
        if entry.get("classname") == "gates"
    }


def _toml(value: Any) -> str:
    """Write a value as TOML, tables inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    return json.dumps(value)


def _copy(root: Path, **changes: Any) -> Project:
    for folder in ("evals", "datasets"):
        shutil.copytree(REPO / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shipped = tomllib.loads((REPO / "pyproject.toml").read_text("utf-8"))["tool"]["harness"]
    project = Project(root, shipped)
    project.configure(**changes)
    return project


@dataclass(frozen=True)
class Shipped:
    """The shipped project after `harness train tickets`, which the whole session shares."""

    project: Project

    @property
    def fingerprint(self) -> str:
        return _fingerprint(self.project)

    @cached_property
    def first_run(self) -> Run:
        """The first `pytest evals/` after the training; one process of the session makes it."""
        from filelock import FileLock

        kept = self.project.root / "first_run.json"
        with FileLock(f"{kept}.lock"):
            if not kept.exists():
                run = self.project.run()
                kept.write_text(json.dumps(vars(run)))
        return Run(**json.loads(kept.read_text()))

    @property
    def production(self) -> dict[str, Any]:
        """The candidate as the model in production: what a retrain is compared with."""
        adapter = str(self.project.home / "candidates" / self.fingerprint)
        return {"model": self.project.settings["base"], "adapter": adapter, "quantization": "nf4"}


def _fingerprint(project: Project) -> str:
    from harness.config import load
    from trainers.recipe import resolve

    settings = load(project.root)
    return resolve(
        "tickets", settings.candidates["tickets"], settings.base, project.root
    ).fingerprint


def _reuse(project: Project) -> None:
    """Take over what `make evals` trained and asked in this checkout, where it is the same."""
    made = REPO / ".harness"
    trained = made / "candidates" / _fingerprint(project)
    if trained.is_dir() and (made / "store.sqlite").is_file():
        _take_over(made, project)


def _take_over(made: Path, project: Project) -> None:
    """Copy the shipped candidate and all replies from the folder `made`."""
    home, trained = project.home, Path("candidates", _fingerprint(project))
    shutil.copytree(made / trained, home / trained)
    with (
        closing(sqlite3.connect(made / "store.sqlite")) as theirs,
        closing(sqlite3.connect(home / "store.sqlite")) as ours,
    ):
        theirs.backup(ours)


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    """The shipped project with its candidate, trained once for all workers of xdist."""
    from filelock import FileLock

    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shipped"
    root.mkdir(exist_ok=True)
    with FileLock(root / "made.lock"):
        if not (root / "made").exists():
            project = _copy(root)
            _reuse(project)
            done = project.command("harness", "train", "tickets")
            assert done.returncode == 0, done.stderr
            (root / "made").write_text(done.stdout)
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["harness"]
    return Shipped(Project(root, settings))


@pytest.fixture
def project(shipped: Shipped, tmp_path: Path) -> Project:
    """A copy of the shipped project, its candidate and its replies: no test waits for another."""
    assert shipped.first_run.status == 0
    project = _copy(tmp_path)
    _take_over(shipped.project.home, project)
    return project


@pytest.fixture
def empty_project(tmp_path: Path) -> Project:
    """A copy of the shipped project in which nothing was trained or asked."""
    return _copy(tmp_path)
