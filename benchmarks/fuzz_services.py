"""Misbehaving fine-tuning services: no traceback, nothing paid twice, no model lost.

    python benchmarks/fuzz_services.py [--services 40] [--sessions 4]

Each service is drawn from a seed: calls answered by errors, HTML, half a body, a delay, a dropped
connection before or after the work is done, in its own dialect, with statuses, errors and result
files of its own, with or without metadata, lists and other routes. It trains one recipe in two
runs, then behaves, and a person settles what is in doubt. A service that refuses with 4xx what it
did is not among them: it lies. Nor is one that takes its time with files and cannot be asked of it.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

sys.path.append(str(Path(__file__).parent.parent / "tests/servers"))

from scripted import AZURE, DEAD, OPENAI, SUCCESSES, Scripted

SERVICES, SESSIONS = 40, 4
PASSING = ("500", "text 502", "503", "drop", "garbage", "html", "null", "empty", "slow", "plain")
"""What may befall any call once or twice."""

UNHEARD = ("500 after", "text 502 after", "drop after", "504 after")
"""What may befall a creation that made the job."""

ABSENT = ("404", "405", "501")
OPTIONAL = ("list", "events", "checkpoints", "file", "model", "models", "count", "content")
ENDS = (*4 * SUCCESSES, *DEAD)
MIDDLES = ("pending", "QUEUED", "running", "compressing", "paused", "", "validating_files")
ERRORS: tuple[Any, ...] = ("no money", {"code": "x", "message": "no money"}, ["no money"], {}, None)
RESULTS = (
    None,
    b"",
    b"\0\xff\r" * 99,
    b"step,train_loss\r1,2\r2,1\r",
    b"step,train_loss\n1," + b"9" * (1 << 18),
    b"<!doctype html>",
    b"c3RlcA==",
    b'{"step": 1}',
)
FASTER = {
    "trainers.service": {"PATIENCE_S": 1.5, "LONGEST_WAIT_S": 0.02},
    "trainers.protocol": {"EXTRAS_S": 0.3},
    "trainers.hosted": {
        "SETTLED_S": 0.3,
        "NAMED_S": 0.2,
        "FILE_S": 0.5,
        "LOOK_S": 0.05,
        "FIRST_POLL_S": 0.02,
    },
}
"""Waits as a benchmark can wait; what is waited for stays the same."""

ROW = [{"role": "user", "content": "is it so"}, {"role": "assistant", "content": "yes"}]


@dataclass
class Outcome:
    """What became of one service: how each run ended, and what must not have happened."""

    seed: int
    runs: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def service_of(seed: int) -> Scripted:
    """Return the service of a seed; it is not running."""
    draw = random.Random(seed)
    end = draw.choice(ENDS)
    dialect = draw.choice(["method", "hyperparameters"])
    service = Scripted(
        job_s=draw.choice([0.0, 0.1, 0.3]),
        statuses=(*draw.sample(MIDDLES, 2), end),
        errors={end: draw.choice(ERRORS)},
        headers=draw.choice([OPENAI, AZURE]),
        encoded=draw.random() < 0.3,
        counts=draw.random() < 0.5,
        metadata_kept=draw.random() < 0.4,
        suffix_shown=draw.random() < 0.3,
        dialect=dialect,
        processing_s=draw.choice([0.0, 0.0, 0.2]),
        named=draw.random() < 0.9,
        result=draw.choice(RESULTS),
        always={route: draw.choice(ABSENT) for route in OPTIONAL if draw.random() < 0.15},
    )
    if "file" in service.always:
        service.processing_s = 0.0
    if "model" in service.always:
        service.always["models"] = "404"  # it would say that it has no such model
    for route in ("upload", "job", *OPTIONAL):
        service.faults[route] = draw.choices(("", *PASSING), k=draw.randint(0, 2))
    misfortune = draw.choice((*PASSING, *UNHEARD, *UNHEARD, "429", "409"))
    service.faults["create"] = [misfortune if draw.random() < 0.6 else ""]
    return service


@contextmanager
def faster() -> Iterator[None]:
    """Wait less."""
    with ExitStack() as stack:
        for module, values in FASTER.items():
            stack.enter_context(patch.multiple(module, **values))
        yield


@contextmanager
def silent(_: str) -> Iterator[Callable[..., None]]:
    """Show no progress."""
    yield lambda *_: None


class Project:
    """A project with one recipe for one service."""

    def __init__(self, root: Path, service: Scripted) -> None:
        self.root, self.service = root, service
        self.home = root / ".harness"
        rows = [json.dumps({"id": f"r{n}", "messages": ROW}) for n in range(12)]
        (root / "train.jsonl").write_text("\n".join(rows))

    @property
    def recipe(self) -> Any:
        """The recipe, resolved anew."""
        from harness.config import CandidateSettings
        from harness.records import ModelSpec
        from trainers.hosted_recipe import resolve_hosted

        settings = CandidateSettings(
            trainer="openai", train="train.jsonl", epochs=2, dialect=self.service.dialect
        )
        spec = ModelSpec("cand", "openai", "base-1", options={"base_url": self.service.url})
        return resolve_hosted("cand", settings, spec, self.root)

    def run(self) -> tuple[str, str]:
        """Train as a run does; return the model, or "" and why there is none."""
        from harness.hosting import Consent, Hosting
        from harness.prices import Prices

        hosting = Hosting({"cand": self.recipe}, self.home, silent)
        with closing(hosting):
            hosting.find()
            hosting.rejoin()
            hosting.examine(Prices(), Consent())
            hosting.submit()
            hosting.wait()
        made = hosting.candidates.get("cand")
        return (made.model or "", "") if made else ("", hosting.failed["cand"])

    def settle(self) -> None:
        """Look at the service as a person does, and say what there is."""
        from trainers import hosted
        from trainers.service import Service

        recipe = self.recipe
        with Service(recipe.base) as service:
            jobs = [job["id"] for job in self.service.alive]
            if jobs:
                hosted.adopt(recipe, self.home, service, jobs[0])
            else:
                hosted.forget(recipe, self.home, service)


def examine(seed: int, root: Path) -> Outcome:
    """Train at the service of a seed, and return what became of it."""
    outcome = Outcome(seed)
    with faster(), service_of(seed) as service:
        project = Project(root, service)
        try:
            for _ in range(2):
                _run(project, outcome)
            service.faults.clear()
            if not _run(project, outcome) and "it is not known" in outcome.runs[-1]:
                project.settle()
                _run(project, outcome)
        except Exception:
            outcome.faults.append(traceback.format_exc())
        _judge_end(service, outcome)
    return outcome


def _run(project: Project, outcome: Outcome) -> str:
    model, reason = project.run()
    outcome.runs.append(model or reason)
    service = project.service
    if len(service.alive) > 1:
        outcome.faults.append(f"{len(service.alive)} jobs are paid for")
    if model and not any(model.startswith(service.tuned(job)) for job in service.jobs):
        outcome.faults.append(f"{model} was never made")
    return model


def _judge_end(service: Scripted, outcome: Outcome) -> None:
    made = outcome.runs[-1].startswith("ft:") if outcome.runs else False
    named = service.named or "checkpoints" not in service.always
    if service.statuses[-1] in SUCCESSES and named and not made:
        outcome.faults.append(f"the model is not usable: {outcome.runs[-1:]}")


# ---------------------------------------------------------------------- whole sessions

SETTINGS = """
[tool.harness]
base = "served"

[tool.harness.models.served]
model = "openai:base-1"
base_url = "{url}"

[tool.harness.candidates.cand]
trainer = "openai"
train = "train.jsonl"
epochs = 2
dialect = "{dialect}"

[tool.harness.gates]
exact_match = {{ margin = 0.5 }}
"""
SUITE = """
import importlib

import pytest

for module, values in {faster!r}.items():
    vars(importlib.import_module(module)).update(values)

pytestmark = pytest.mark.cases("cases.jsonl")


def test_answer(score):
    score.exact()
"""


def examine_sessions(seed: int, root: Path) -> Outcome:
    """Run `pytest` twice at the service of a seed: 0 with a model, else 6, and no traceback."""
    outcome = Outcome(seed)
    with service_of(seed) as service:
        Project(root, service)
        _write_suite(root, service)
        for _ in range(2):
            command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "evals"]
            done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
            outcome.runs.append(f"status {done.returncode}")
            made = any((root / ".harness/candidates").glob("[!.]*/candidate.json"))
            if done.returncode != (0 if made else 6):
                outcome.faults.append(f"status {done.returncode}, a model: {made}\n{done.stdout}")
            if "Traceback" in done.stdout + done.stderr or "INTERNALERROR" in done.stdout:
                outcome.faults.append(done.stdout + done.stderr)
            if len(service.alive) > 1:
                outcome.faults.append(f"{len(service.alive)} jobs are paid for")
    return outcome


def _write_suite(root: Path, service: Scripted) -> None:
    (root / "pyproject.toml").write_text(
        SETTINGS.format(url=service.url, dialect=service.dialect), encoding="utf-8"
    )
    (root / "evals").mkdir()
    (root / "evals/test_answers.py").write_text(SUITE.format(faster=FASTER), encoding="utf-8")
    asked = [{"role": "user", "content": "was it so"}, ROW[1]]
    cases = [{**asked[0], "content": f"was it {n}"} for n in range(12)]
    rows = [json.dumps({"id": f"c{n}", "messages": [case, ROW[1]]}) for n, case in enumerate(cases)]
    (root / "cases.jsonl").write_text("\n".join(rows))


def _kind(run: str) -> str:
    """Say how a run ended, without names and numbers."""
    if run.startswith("ft:"):
        return "a model"
    return re.sub(r" at .*|ftjob-\d+ |training cand:? ?|[:;(].*", "", run).strip()


def main() -> None:
    """Examine services and say what was found; exit with 1 if anything was."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--services", type=int, default=SERVICES)
    parser.add_argument("--sessions", type=int, default=SESSIONS)
    options = parser.parse_args()
    outcomes = []
    for seed in range(options.services + options.sessions):
        check = examine if seed < options.services else examine_sessions
        with TemporaryDirectory() as folder:
            outcomes.append(check(seed, Path(folder)))
        for fault in outcomes[-1].faults:
            print(f"seed {seed}: {fault}")
    found = sum(bool(outcome.faults) for outcome in outcomes)
    ends = Counter(_kind(run) for outcome in outcomes for run in outcome.runs)
    print(f"{len(outcomes)} services, {sum(ends.values())} runs, {found} with faults")
    for end, count in ends.most_common():
        print(f"{count:5} {end[:90]}")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
