"""`make bench`: how near to the wire are the replies, and what does the rest of a run cost?

Whole `pytest` processes against a server on this machine that takes 100 ms for an answer, beside a
bare asynchronous client, bare pytest, and other tools where they can be installed; then against one
that fails in every way, and ones that admit only so many calls a second. All ratios are of one run
of this file. Exit status 1 if a limit is missed. `--no-peers` leaves the other tools out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import replies_peers
from loopback import Loopback

LATENCY_S, IN_FLIGHT = 0.1, 64
CASES, MANY_CASES, FEW_CASES = 2_000, 20_000, 200
MODELS = ["first", "second"]
MOST_OF_RAW, MOST_OF_LIMIT, MOST_OF_BARE = 1.5, 2.0, 2.5
MOST_MEGABYTES = 600
STORM_CASES, STORM_TIMEOUT_S = 1_000, 1.0
STORM = {"refused": 0.30, "failed": 0.05, "dropped": 0.02, "truncated": 0.02, "silent": 0.01}
RATES = {5: 150, 50: 1_000, 500: 8_000}
"""Calls that a server admits a second -> how many calls are made."""
OFF_THE_RATE = 0.2
TIMES_FASTER = {"deepeval": 12.0, "pytest-evals": 12.0, "inspect_ai": 2.5}
HERE = Path(__file__).parent

SUITE = """
import pytest

pytestmark = pytest.mark.cases("cases.jsonl")


def test_answer(score):
    score.exact()
"""
BARE = """
import pytest


@pytest.mark.parametrize("number", range({count}))
def test_nothing(number):
    pass
"""
SETTINGS = """
[tool.harness]
base = "first"

[tool.harness.models.first]
model = "openai:first"
base_url = "{url}"
{more}

[tool.harness.models.second]
model = "openai:second"
base_url = "{url}"
{more}

[tool.harness.candidates.new]
model = "second"

[tool.pytest.ini_options]
addopts = ["-q", "-p", "finetune"]
"""


@dataclass(frozen=True)
class Took:
    """What a process took: seconds on the clock, and its largest resident memory."""

    seconds: float
    megabytes: float


def main(arguments: Sequence[str]) -> int:
    """Print all tables; return the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        parts = (_wire, _memory, _storm, _rates)
        missed = [sentence for part in parts for sentence in part(Path(folder))]
        if "--no-peers" not in arguments:
            missed += _peers(Path(folder))
    for sentence in missed:
        print(f"MISSED: {sentence}")
    return 1 if missed else 0


def _wire(folder: Path) -> Iterator[str]:
    calls = CASES * len(MODELS)
    limit = calls * LATENCY_S / IN_FLIGHT
    print(f"\n{CASES} cases x {len(MODELS)} models, {LATENCY_S} s each, {IN_FLIGHT} in flight\n")
    with Loopback(latency_s=LATENCY_S, wrong_every=9) as server:
        project = project_of(folder / "wire", server, CASES)
        raw = _raw_client(server, project)
        server.forget()
        cold = run(project, "-m", "pytest", "evals/")
        asked = server.stats()
        warm = run(project, "-m", "pytest", "evals/")
        left = server.stats()["requests"] - asked["requests"]
        bare = run(project, "-m", "pytest", "-p", "no:finetune", "bare/", plain=True)
    row("calls x latency / in flight", f"{limit:.2f} s")
    row("bare openai client", f"{raw.seconds:.2f} s", f"{raw.seconds / limit:.2f} x the limit")
    row("pytest, first run", f"{cold.seconds:.2f} s", f"{cold.seconds / limit:.2f} x the limit")
    row("", "", f"{cold.seconds / raw.seconds:.2f} x the bare client")
    row("of that, first call to last answer", f"{asked['seconds']:.2f} s")
    row("pytest, next run", f"{warm.seconds:.2f} s", f"{warm.seconds / bare.seconds:.2f} x bare")
    row("bare pytest, as many empty tests", f"{bare.seconds:.2f} s")
    if asked["requests"] != calls or left:
        yield f"{asked['requests']} calls instead of {calls}, and {left} in the next run"
    yield from above("first run / bare client", cold.seconds / raw.seconds, MOST_OF_RAW)
    yield from above("first run / limit", cold.seconds / limit, MOST_OF_LIMIT)
    yield from above("next run / bare pytest", warm.seconds / bare.seconds, MOST_OF_BARE)


def _memory(folder: Path) -> Iterator[str]:
    with Loopback() as server:
        took = run(project_of(folder / "many", server, MANY_CASES), "-m", "pytest", "evals/")
    print()
    row(f"{MANY_CASES} cases x {len(MODELS)} models", f"{took.megabytes:.0f} MB resident")
    row("", f"{took.seconds:.0f} s without latency")
    yield from above("megabytes", took.megabytes, MOST_MEGABYTES)


def _storm(folder: Path) -> Iterator[str]:
    calls = STORM_CASES * len(MODELS)
    told = ", ".join(f"{share:.0%} {fault}" for fault, share in STORM.items())
    print(f"\n{calls} calls, of which the server answers {told}\n")
    with Loopback(latency_s=0.01, **STORM) as server:
        more = f"timeout_s = {STORM_TIMEOUT_S}"
        project = project_of(folder / "storm", server, STORM_CASES, more)
        took = run(project, "-m", "pytest", "evals/")
        first = server.stats()
        run(project, "-m", "pytest", "evals/")
        again = server.stats()["requests"] - first["requests"]
    errors = json.loads((project / "reports/latest/results.json").read_text())["errors"]
    twice = sum(times > 1 for times in first["done"].values())
    row("replies", f"{len(first['done'])} of {calls}", f"{took.seconds:.1f} s")
    row("requests", f"{first['requests']}")
    row("answered and asked again", f"{twice}")
    if len(first["done"]) != calls or twice or again or errors:
        yield f"the storm: {len(first['done'])} replies, {twice} twice, {again} again, {errors}"


def _rates(folder: Path) -> Iterator[str]:
    print("\nservers that admit L calls a second: answers a second in the second half of the run\n")
    for rate, calls in RATES.items():
        with Loopback(latency_s=LATENCY_S, rate=rate) as server:
            cases = calls // len(MODELS)
            project = project_of(folder / f"rate-{rate}", server, cases, "max_concurrency = 128")
            run(project, "-m", "pytest", "evals/")
            stats = server.stats()
        late = stats["times"][calls // 2 :]
        settled = (len(late) - 1) / (late[-1] - late[0])
        refused = stats["statuses"].get("429", 0)
        row(f"L = {rate}", f"{settled:.1f} a second", f"{refused} of {calls} refused")
        if abs(settled / rate - 1) > OFF_THE_RATE or stats["answered"] != calls:
            yield f"L = {rate}: {stats['answered']} answers, {settled:.1f} a second"


def _peers(folder: Path) -> Iterator[str]:
    print(f"\n{FEW_CASES} cases x {len(MODELS)} models, {LATENCY_S} s each\n")
    with Loopback(latency_s=LATENCY_S) as server:
        project = project_of(folder / "few", server, FEW_CASES)
        ours = run(project, "-m", "pytest", "evals/")
        row("pytest-finetune", f"{ours.seconds:.2f} s")
        for name, least in TIMES_FASTER.items():
            python, said = replies_peers.environment(name, folder / "peers")
            if python is None:
                row(name, "not measured", said[:80])
                continue
            try:
                theirs = _peer(name, python, server, project)
            except RuntimeError as problem:
                row(f"{name} {said}", "not measured", str(problem)[-80:])
                continue
            times = theirs.seconds / ours.seconds
            row(f"{name} {said}", f"{theirs.seconds:.2f} s", f"{times:.1f} x ours")
            if times < least:
                yield f"only {times:.1f} x faster than {name}, not {least:g} x"


def _peer(name: str, python: Path, server: Loopback, project: Path) -> Took:
    peer = replies_peers.PEERS[name]
    folder = project.with_name(f"{project.name}-{name}")  # not below our settings
    folder.mkdir()
    text = replies_peers.text(name, server.url, project / "cases.jsonl", MODELS)
    (folder / peer.file).write_text(text)
    server.forget()
    took = run(folder, *peer.command, python=str(python), environment=peer.environment)
    if (calls := server.stats()["answered"]) != FEW_CASES * len(MODELS):
        raise RuntimeError(f"it made {calls} calls")
    return took


def project_of(root: Path, server: Loopback, cases: int, more: str = "") -> Path:
    """Make a project with a suite of so many cases, its models behind `server`.

    `more` are lines of TOML for the tables of both models.
    """
    for folder in ("evals", "bare"):
        (root / folder).mkdir(parents=True)
    rows = (
        {"id": f"c{n}", "messages": [_turn("user", f"is it {n}"), _turn("assistant", "yes")]}
        for n in range(cases)
    )
    (root / "cases.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "evals" / "test_demo.py").write_text(SUITE)
    (root / "bare" / "test_bare.py").write_text(BARE.format(count=cases * len(MODELS)))
    (root / "pyproject.toml").write_text(SETTINGS.format(url=server.url, more=more))
    return root


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _raw_client(server: Loopback, project: Path) -> Took:
    script = str(HERE / "raw_client.py")
    cases = str(project / "cases.jsonl")
    return run(project, script, server.url, cases, str(IN_FLIGHT), *MODELS)


def run(
    folder: Path,
    *command: str,
    python: str = sys.executable,
    environment: Mapping[str, str] | None = None,
    plain: bool = False,
) -> Took:
    """Run Python in `folder`; `plain`: without the settings of the project."""
    own = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "OMP_NUM_THREADS": "1"}
    if environment is not None:  # a peer: its plugin is loaded as its users have it
        own = {**os.environ, **environment}
        own.pop("PYTHONPATH", None)
    arguments = [*command, *(["-c", os.devnull, "-q", "--rootdir=bare"] if plain else [])]
    started = time.perf_counter()
    with (folder / "output.txt").open("w+") as output:
        process = subprocess.Popen(
            [python, *arguments], cwd=folder, env=own, stdout=output, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        if process.returncode not in (0, 1):
            raise RuntimeError(
                f"{command} ended with {process.returncode}: {output.read()[-2000:]}"
            )
    return Took(seconds, usage.ru_maxrss / 1024)


def above(what: str, value: float, most: float) -> Iterator[str]:
    """Yield a sentence if a limit is missed."""
    if value > most:
        yield f"{what}: {value:.2f} > {most:g}"


def row(*cells: str) -> None:
    """Print a row of a table."""
    print(f"  {cells[0]:38}" + "".join(f"{cell:>20}  " for cell in cells[1:]), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
