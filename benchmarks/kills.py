"""90 kills: nothing lost but what was in flight, nothing paid twice, no wrong status, no leftovers.

    python benchmarks/kills.py [--share 1.0]

SIGKILL at moments drawn from a seed: while models behind an endpoint are asked, while a service
trains, while a model is trained here, while a damaged store is rescued, while the report is
written. After each kill the same command is given again, and must end as if nothing had been.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from loopback import Loopback

from harness.records import Reply
from harness.store import Store, StoredCall

sys.path += [
    str(Path(__file__).parent.parent / f"tests/{name}") for name in ("servers", "interruption")
]

from test_killed_hosted_runs import Life, moment

KILLS = {"asking": 30, "hosted": 26, "rescue": 16, "report": 14, "training": 4}
CASES, CONCURRENCY, PADDING, PAGE = 24, 4, 4_000, 4096
PATIENCE_S = 300
PASSING = {
    "run_id",
    "started",
    "finished",
    "cached",
    "seconds",
    "latency_p50_s",
    "latency_p95_s",
    "notes",
    "alarms",
}
"""What may differ from an undisturbed run's results."""

SUITE = """
import pytest

pytestmark = pytest.mark.cases("cases.jsonl")


def test_answer(score):
    score.exact()
"""


# ---------------------------------------------------------------------- a project


@dataclass(frozen=True)
class Project:
    """A folder with one suite and two models behind `url`."""

    root: Path
    url: str

    def write(self) -> None:
        """Make the files."""
        (self.root / "evals").mkdir(parents=True)
        (self.root / "evals/test_demo.py").write_text(SUITE)
        rows = [
            {
                "id": f"c{n}",
                "messages": [
                    {"role": "user", "content": f"is it {n}"},
                    {"role": "assistant", "content": "yes"},
                ],
            }
            for n in range(CASES)
        ]
        lines = "\n".join(map(json.dumps, rows))
        (self.root / "cases.jsonl").write_text(lines)
        models = "".join(
            f'[tool.harness.models.{name}]\nmodel = "openai:{name}"\nbase_url = "{self.url}"\n'
            f"max_concurrency = {CONCURRENCY}\n"
            for name in ("first", "second")
        )
        (self.root / "pyproject.toml").write_text(
            f'[tool.harness]\nbase = "first"\n{models}'
            '[tool.harness.candidates.new]\nmodel = "second"\n'
            '[tool.harness.gates]\n"demo.exact_match" = {{ at_least = 0.5 }}\n'.replace(
                "{{", "{"
            ).replace("}}", "}")
        )

    @property
    def store(self) -> Path:
        """Where replies and runs are."""
        return self.root / ".harness/store.sqlite"

    def run(self, killed_after_s: float = PATIENCE_S) -> int:
        """Run the suite, for at most so long; return its exit status."""
        command = [sys.executable, "-m", "pytest", "evals/", "-q", "-p", "no:cacheprovider"]
        return run_for(command, self.root, killed_after_s)

    def results(self) -> Any:
        """Return the latest run's results, without what differs between two runs."""
        return lasting(json.loads((self.root / "reports/latest/results.json").read_text()))

    def leftovers(self) -> Iterator[str]:
        """Name what should not be there after a run."""
        known = {"store.sqlite", "store.sqlite.lock", "locks", "candidates"}
        for path in (self.root / ".harness").iterdir():
            if path.name not in known and ".damaged-" not in path.name:
                yield path.name
        for folder in (self.root / "reports").iterdir():
            names = sorted(path.name for path in folder.iterdir())
            if names != ["index.html", "results.json", "summary.md"]:
                yield f"{folder.name}: {names}"


def run_for(command: list[str], root: Path, seconds: float) -> int:
    """Run a command, SIGKILL it after so many seconds; return its exit status."""
    process = subprocess.Popen(
        command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def lasting(results: Any) -> Any:
    """Return results without times, ids, what came from the cache, and what was told of it."""
    if isinstance(results, dict):
        return {key: lasting(value) for key, value in results.items() if key not in PASSING}
    return [lasting(value) for value in results] if isinstance(results, list) else results


# ---------------------------------------------------------------------- kinds of kills


class TooFastError(Exception):
    """The command was over before it could be killed."""


@dataclass(frozen=True)
class World:
    """A server, a project that was never disturbed, and how long its runs take in seconds."""

    server: Loopback
    undisturbed: Project
    asking_s: float
    cached_s: float


def world(server: Loopback, folder: Path) -> World:
    """Run a project twice: it asks, then it knows."""
    project = Project(folder / "undisturbed", server.url)
    project.write()
    seconds = []
    for _ in range(2):
        started = time.monotonic()
        assert project.run() == 0
        seconds.append(time.monotonic() - started)
    return World(server, project, *seconds)


def asking(world: World, draw: random.Random, folder: Path) -> Iterator[str]:
    """Kill a run that asks, then let it end."""
    project = Project(folder, world.server.url)
    project.write()
    world.server.forget()
    yield from dead(project.run(draw.uniform(0.1, 1.0) * world.asking_s))
    yield from ended(project, world)
    asked = world.server.stats()["asked"]
    twice = [text for text, count in asked.items() if count > 1]
    if max(asked.values()) > 2 or len(twice) > 2 * CONCURRENCY:
        yield f"asked again: {len(twice)} requests, {2 * CONCURRENCY} can be in flight"


def report(world: World, draw: random.Random, folder: Path) -> Iterator[str]:
    """Kill a run that knows all replies, in its second half; then let it end."""
    project = copied(world, folder)
    world.server.forget()
    yield from dead(project.run(draw.uniform(0.5, 1.0) * world.cached_s))
    yield from ended(project, world)
    if world.server.stats()["requests"]:
        yield "asked again though everything was known"


def rescue(world: World, draw: random.Random, folder: Path) -> Iterator[str]:
    """Kill a run that rescues a damaged store, then let it end."""
    project = copied(world, folder)
    padding = {f"{number:064}": Reply(text=f"{number} " * 90) for number in range(PADDING)}
    with closing(Store(project.store)) as store:
        store.put_replies(padding, dict.fromkeys(padding, StoredCall("pad", {}, "openai:x")))
    data = bytearray(project.store.read_bytes())
    lost = draw.random() < 0.5
    page = data.index(b"2000 2000 2000") // PAGE * PAGE if lost else 0
    data[page : page + PAGE] = bytes(PAGE)
    project.store.write_bytes(data)
    world.server.forget()
    yield from dead(project.run(draw.uniform(0.3, 1.2) * (world.cached_s + 0.5)))
    yield from ended(project, world)
    if world.server.stats()["requests"]:
        yield "asked again though everything could be read"
    with closing(Store(project.store)) as store:
        if len(store.replies(padding)) < PADDING - 12 * lost:
            yield f"lost {PADDING - len(store.replies(padding))} replies"
        if bool(store.losses()) != lost:
            yield f"losses: {store.losses()}"


def hosted(world: World, draw: random.Random, folder: Path) -> Iterator[str]:
    """Kill a training at a service, then let it end."""
    life = Life(folder)
    with redirect_stderr(StringIO()), life.service:  # it complains of callers that hang up
        life.write()
        yield from dead(life.run(*moment(draw)))
        # In doubt whether there is a job, it is left to a person (6).
        if (status := life.run(10_000, 0)) not in (0, 6):
            yield f"the next one ended with {status}"
        if len(life.service.jobs) > 1:
            yield f"{len(life.service.jobs)} jobs"
        if status == 0 and len(life.made) != 1:
            yield f"models: {life.made}"


def training(world: World, draw: random.Random, folder: Path) -> Iterator[str]:
    """Kill a training on this machine, then let it end."""
    row = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]}
    folder.mkdir()
    (folder / "train.jsonl").write_text(
        "\n".join(json.dumps({"id": f"r{n}", **row}) for n in range(16))
    )
    (folder / "pyproject.toml").write_text(
        '[tool.harness]\nbase = "bundled:pocket"\n[tool.harness.candidates.tuned]\n'
        'trainer = "lora"\ntrain = "train.jsonl"\nepochs = 2\n'
    )
    code = "from harness.cli import main; main()"
    command = [sys.executable, "-c", code, "train", "tuned"]
    yield from dead(run_for(command, folder, draw.uniform(2, 12)))
    if run_for(command, folder, PATIENCE_S) != 0:
        yield "the next one did not end with 0"
    made = sorted(path.name for path in (folder / ".harness/candidates").iterdir())
    if len([name for name in made if not name.endswith(".lock")]) != 1:
        yield f"candidates: {made}"


def copied(world: World, folder: Path) -> Project:
    """Return a copy of the undisturbed project, without its reports."""
    ignored = shutil.ignore_patterns("reports", "__pycache__")
    shutil.copytree(world.undisturbed.root, folder, ignore=ignored)
    return Project(folder, world.server.url)


def dead(status: int) -> Iterator[str]:
    """Say what is wrong with how a command ended that was to be killed."""
    if status == 0:
        raise TooFastError
    if status != -9:
        yield f"the killed command ended with {status}"


def ended(project: Project, world: World) -> Iterator[str]:
    """Let the next run end, and compare it with the undisturbed one's."""
    status = project.run()
    if status != 0:
        yield f"the next run ended with {status}"
        return
    if project.results() != world.undisturbed.results():
        yield "the results differ from an undisturbed run's"
    yield from (f"left over: {name}" for name in project.leftovers())


KINDS: Mapping[str, Callable[[World, random.Random, Path], Iterator[str]]] = {
    "asking": asking,
    "hosted": hosted,
    "rescue": rescue,
    "report": report,
    "training": training,
}


def faults_of(kind: str, count: int, world: World, folder: Path) -> Iterator[str]:
    """Kill `count` commands, each in a project of its own; yield what went wrong."""
    kills, seed = 0, 0
    while kills < count:
        seed += 1
        try:
            for fault in KINDS[kind](
                world, random.Random(f"{kind} {seed}"), folder / f"{kind}-{seed}"
            ):
                yield f"{kind} {seed}: {fault}"
            kills += 1
        except TooFastError:
            continue


def main() -> int:
    """Print a line for each kind; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=1.0, help="of the 90 kills")
    share = parser.parse_args().share
    faults = 0
    with TemporaryDirectory() as name, Loopback(latency_s=0.05) as server:
        made = world(server, Path(name))
        for kind, count in KILLS.items():
            count = max(1, round(share * count))
            told = list(faults_of(kind, count, made, Path(name)))
            print(f"{kind:10} {count:3} kills, {len(told)} faults", flush=True)
            print(*told, sep="\n", end="\n" if told else "", flush=True)
            faults += len(told)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
