from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.config import CandidateSettings
from trainers.recipe import Recipe, resolve

WORDS = ["kettle", "lamp", "chair", "phone", "radio", "table", "clock", "knife", "glass", "brush"]


@dataclass(frozen=True)
class Project:
    """A user's project around the tiny base."""

    root: Path
    base: Path

    @property
    def home(self) -> Path:
        return self.root / ".harness"

    @staticmethod
    def row(text: str, answer: str | None) -> dict[str, Any]:
        answers = [] if answer is None else [{"role": "assistant", "content": answer}]
        return {"messages": [{"role": "user", "content": text}, *answers]}

    def tickets(self, count: int) -> list[dict[str, Any]]:
        """Rows that a small model can learn by heart."""
        return [
            self.row(
                f"my {WORDS[i % 10]} {i} is broken", f'{{"item": "{WORDS[i % 10]}", "n": {i % 7}}}'
            )
            for i in range(count)
        ]

    def write(self, name: str, rows: Sequence[object]) -> Path:
        path = self.root / name
        path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
        return path

    def recipe(
        self, rows: Sequence[object] | None = None, name: str = "tickets", **settings: Any
    ) -> Recipe:
        """Resolve a recipe on the tiny base, with `rows` as training data."""
        if rows is not None:
            self.write("train.jsonl", rows)
        chosen = {"trainer": "qlora", "train": "train.jsonl", **settings}
        return resolve(name, CandidateSettings(**chosen), f"local:{self.base}", self.root)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    # A model this small is fastest on one thread, above all where tests share the processors.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def new_project(tiny_base: Path) -> Callable[[Path], Project]:
    return lambda root: Project(root, tiny_base)


@pytest.fixture
def project(new_project: Callable[[Path], Project], tmp_path: Path) -> Project:
    return new_project(tmp_path)
