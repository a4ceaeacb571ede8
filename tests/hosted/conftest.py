from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from scripted import Scripted

from harness.config import CandidateSettings
from harness.hosting import Consent, Hosting
from harness.prices import Prices
from harness.progress import task
from harness.records import ModelSpec
from trainers.hosted_recipe import HostedRecipe, resolve_hosted


def row(text: str, answer: str = "yes", **more: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **more}


@dataclass
class Account:
    """A project with an account at a scripted service."""

    root: Path
    service: Scripted
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.root / ".harness"

    def write(self, rows: Sequence[object], name: str = "train.jsonl") -> None:
        text = "".join(json.dumps(one) + "\n" for one in rows)
        (self.root / name).write_text(text, encoding="utf-8")

    def recipe(self, model: str = "base-1", **settings: Any) -> HostedRecipe:
        chosen = CandidateSettings(**{"trainer": "openai", "train": "train.jsonl"} | settings)
        spec = ModelSpec(
            "cand", "openai", model, options={"base_url": self.service.url, **self.options}
        )
        return resolve_hosted("cand", chosen, spec, self.root)

    def train(
        self, recipe: HostedRecipe, prices: Prices | None = None, consent: Consent | None = None
    ) -> Hosting:
        """Do what a run does for a hosted candidate, from its beginning to its end."""
        hosting = Hosting({"cand": recipe}, self.home, task)
        with closing(hosting):
            hosting.find()
            hosting.rejoin()
            hosting.examine(prices or Prices(), consent or Consent())
            hosting.submit()
            hosting.wait()
        return hosting


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait as a test can; what is waited for stays the same."""
    from trainers import hosted, protocol, service

    monkeypatch.setattr(hosted, "SETTLED_S", 1.0)
    monkeypatch.setattr(hosted, "NAMED_S", 0.3)
    monkeypatch.setattr(hosted, "LOOK_S", 0.05)
    monkeypatch.setattr(protocol, "EXTRAS_S", 1.0)
    monkeypatch.setattr(hosted, "FIRST_POLL_S", 0.02)
    monkeypatch.setattr(service, "LONGEST_WAIT_S", 0.05)


@pytest.fixture
def scripted() -> Iterator[Callable[..., Scripted]]:
    """Start services that behave as told."""
    running: list[Scripted] = []

    def start(**behaviour: Any) -> Scripted:
        running.append(Scripted(**behaviour))
        running[-1].start()
        return running[-1]

    yield start
    for service in running:
        service.stop()


@pytest.fixture
def account(tmp_path: Path, scripted: Callable[..., Scripted]) -> Callable[..., Account]:
    """Make a project of twelve rows with an account at a new service."""

    def make(**behaviour: Any) -> Account:
        made = Account(tmp_path, scripted(**behaviour))
        made.write([row(f"is it {n}", id=f"c{n}", tags=["x"]) for n in range(12)])
        return made

    return make
