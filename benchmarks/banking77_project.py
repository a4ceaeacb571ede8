"""Real online-banking questions (Banking77) as the project of somebody who uses pytest-finetune.

The data is Casanueva et al., "Efficient Intent Detection with Dual Sentence Encoders", 2020. It
lies beside the checkout and is no part of it.
"""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "banking77"
"""Where `train.csv` and `test.csv` are expected."""

EXAMPLES = 5
"""Few-shot examples that the base may have."""

INSTRUCTION = 'What does the customer ask about? Answer with JSON: {"intent": "..."}.'
LISTING = f"{INSTRUCTION} The intent is one of: "
"""The candidate learns the intents; the base is told them, and may see examples."""

SUITE = """\
import pytest

pytestmark = pytest.mark.cases(
    "data/test.jsonl",
    few_shot="data/few_shot.jsonl",
    shots=(0, 1, 3, 5),
    validation="data/validation.jsonl",
)


def test_intent(score):
    score.label({intents}, field="intent")
    score.fields()
"""
SETTINGS = """\
[tool.harness]
base = "bundled:pocket"
baseline = "prompted"
max_tokens = 64

[tool.harness.models.prompted]
model = "bundled:pocket"
system = {system}

[tool.harness.candidates.banking]
trainer = "qlora"
train = "data/train.jsonl"
validation = "data/validation.jsonl"
behaviour = "Always answer a question with one JSON object that names its intent."
{recipe}
[tool.harness.gates]
{gates}
"""


@dataclass(frozen=True)
class Question:
    """One row of the data; `id` is its file and number."""

    id: str
    text: str
    intent: str


@dataclass(frozen=True)
class Sample:
    """Questions of the most frequent `intents`, each question in one of the three parts only."""

    intents: tuple[str, ...]
    train: tuple[Question, ...]
    validation: tuple[Question, ...]
    test: tuple[Question, ...]

    @property
    def examples(self) -> list[Question]:
        """The few-shot examples: questions to train on, one intent after the other."""
        by_intent = [[q for q in self.train if q.intent == intent] for intent in self.intents]
        return [question for round_ in zip(*by_intent, strict=False) for question in round_][
            :EXAMPLES
        ]


def draw(
    intents: int, train: int, validation: int, test: int | None = None, seed: int = 0
) -> Sample:
    """Return so many questions of the `intents` most frequent intents, or all if there are fewer.

    Training and validation questions come from `train.csv` without those that `test.csv` has too,
    test questions (None: all) from `test.csv`. The same seed draws the same questions.
    """
    known, unseen = _questions("train"), _questions("test")
    chosen = tuple(name for name, _ in Counter(q.intent for q in known).most_common(intents))
    kept = {_folded(question) for question in unseen}
    own = [q for q in known if q.intent in chosen and _folded(q) not in kept]
    rest = [question for question in unseen if question.intent in chosen]
    dice = random.Random(seed)
    dice.shuffle(own)
    dice.shuffle(rest)
    return Sample(
        intents=chosen,
        train=tuple(own[:train]),
        validation=tuple(own[train : train + validation]),
        test=tuple(rest[:test]),
    )


def _questions(name: str) -> list[Question]:
    with (DATA / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return [
            Question(f"{name}-{number}", row["text"].strip(), row["category"])
            for number, row in enumerate(csv.DictReader(file), start=1)
        ]


def _folded(question: Question) -> str:
    return " ".join(question.text.casefold().split())


@dataclass(frozen=True)
class Project:
    """A folder with data, one suite and settings, used through pytest only."""

    root: Path
    sample: Sample

    def write(self, recipe: Mapping[str, object], gates: Mapping[str, Mapping[str, float]]) -> None:
        """Write all files; `recipe` adds keys to the candidate's, `gates` are rules by metric."""
        sample = self.sample
        for name, questions in (
            ("train", sample.train),
            ("validation", sample.validation),
            ("test", sample.test),
            ("few_shot", sample.examples),
        ):
            self._put(f"data/{name}.jsonl", "".join(map(self._row, questions)))
        self._put("evals/test_intents.py", SUITE.format(intents=list(sample.intents)))
        self.configure(recipe, gates)

    def configure(
        self, recipe: Mapping[str, object], gates: Mapping[str, Mapping[str, float]]
    ) -> None:
        """Write the settings anew."""
        rules = {f"intents.{metric}": rule for metric, rule in gates.items()}
        lines = [f'"{key}" = {{ {", ".join(_assignments(rule))} }}' for key, rule in rules.items()]
        settings = SETTINGS.format(
            system=json.dumps(LISTING + ", ".join(self.sample.intents) + "."),
            recipe="\n".join([*_assignments(recipe), ""]),
            gates="\n".join(lines),
        )
        self._put("pyproject.toml", settings)

    def pytest(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Run `pytest evals/` in a process of its own; stdout and stderr come together."""
        environment = {key: text for key, text in os.environ.items() if key != "PYTEST_ADDOPTS"}
        return subprocess.run(
            [sys.executable, "-m", "pytest", "evals/", *options],
            cwd=self.root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def results(self) -> dict[str, Any]:
        """The latest run's `results.json`."""
        text = (self.root / "reports" / "latest" / "results.json").read_text("utf-8")
        found: dict[str, Any] = json.loads(text)
        return found

    def report(self) -> str:
        """The latest run's page."""
        return (self.root / "reports" / "latest" / "index.html").read_text("utf-8")

    def _row(self, question: Question) -> str:
        messages = [
            {"role": "system", "content": INSTRUCTION},
            {"role": "user", "content": question.text},
            {"role": "assistant", "content": json.dumps({"intent": question.intent})},
        ]
        return json.dumps({"id": question.id, "messages": messages}) + "\n"

    def _put(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _assignments(values: Mapping[str, object]) -> Sequence[str]:
    return [f"{key} = {json.dumps(value)}" for key, value in values.items()]
