"""`make bench`: how fast are the replies of local models, and are they the same as one by one?

200 shipped cases are asked of the bundled base and of the shipped candidate, each way in a process
of its own: as a run does, with one `generate` per prompt, and through lm-evaluation-harness's
Hugging Face backend with the same batch size; once with the same prompts for both, once with the
examples before the base's tickets. Exit status 1 if a limit is missed. `--no-peers` leaves
lm-evaluation-harness out.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import replies_peers
from local_asking import Plan

from harness.replies import BATCH_ROWS

ROOT = Path(__file__).parents[1]
TICKETS, GENERAL = 150, 50
TIMES_ONE_BY_ONE, TIMES_LM_EVAL, MOST_MEMORY = 8.0, 1.0, 1.25


@dataclass(frozen=True)
class Took:
    """What one way took: see `local_asking`; `texts` are the replies by model."""

    seconds: float
    megabytes: float
    texts: Mapping[str, Sequence[str]]


def main(arguments: Sequence[str]) -> int:
    """Print both tables; return the exit status."""
    adapter = _candidate()
    with tempfile.TemporaryDirectory() as folder:
        peer, said = None, "left out"
        if "--no-peers" not in arguments:
            peer, said = replies_peers.installed(
                Path(folder) / "lm-eval", ["lm_eval"], beside_project=True
            )
        missed = []
        for examples in (0, 5):
            plan = _plan(adapter, examples)
            missed += _measured(Path(folder), plan, peer, said)
    for sentence in missed:
        print(f"MISSED: {sentence}")
    return 1 if missed else 0


def _measured(folder: Path, plan: Plan, peer: Path | None, said: str) -> Iterator[str]:
    shots = f"{len(plan.examples) // 2} examples before the base's tickets"
    print(f"\n{TICKETS + GENERAL} cases x (base + candidate), {os.cpu_count()} cores, {shots}\n")
    (folder / "plan.json").write_text(json.dumps(asdict(plan)))
    # Between the others, so that a machine that slows down slows down all.
    rounds = [_asked(folder, "ours")]
    single = _asked(folder, "one-by-one")
    rounds.append(_asked(folder, "ours"))
    theirs = _asked(folder, "lm-eval", peer) if peer else None
    rounds.append(_asked(folder, "ours"))
    unshared, alone = _asked(folder, "ours-unshared"), _asked(folder, "ours-base")
    ours = statistics.median(took.seconds for took in rounds)
    memory = max(took.megabytes for took in rounds)
    _row("pytest-finetune", f"{ours:.1f} s", f"{memory:.0f} MB")
    _row("  shared beginnings read per row", *_against(unshared, ours))
    _row("  the base alone", f"{alone.seconds:.1f} s", f"{alone.megabytes:.0f} MB")
    _row("one generate per prompt", *_against(single, ours))
    same = _same(rounds[0], single)
    _row("", f"{same} of {2 * len(plan.cases)} replies the same")
    if theirs:
        _row(f"lm-evaluation-harness {said}", *_against(theirs, ours))
        _row("", f"{_same(theirs, single)} of {2 * len(plan.cases)} replies the same")
        yield from _below("lm-evaluation-harness / ours", theirs.seconds / ours, TIMES_LM_EVAL)
    else:
        _row("lm-evaluation-harness", "not measured", said[:80])
    yield from _below("one by one / ours", single.seconds / ours, TIMES_ONE_BY_ONE)
    if memory / alone.megabytes > MOST_MEMORY:
        yield f"peak memory: {memory / alone.megabytes:.2f} x that of one model > {MOST_MEMORY}"
    if same != 2 * len(plan.cases):
        yield f"only {same} replies are the same as one by one"


def _candidate() -> Path:
    """Return the folder of the shipped candidate, which is trained once."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("harness")), "train", "tickets"],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return ROOT / done.stdout.split()[-1]


def _plan(adapter: Path, examples: int) -> Plan:
    tickets = _rows("tickets/test.jsonl")[:TICKETS]
    general = _rows("general/test.jsonl")[:GENERAL]
    shown = _rows("tickets/few_shot.jsonl")[:examples]
    return Plan(
        base=str(ROOT / "trainers" / "pocket" / "weights"),
        adapter=str(adapter),
        rows=BATCH_ROWS,
        cases=[row[:-1] for row in tickets + general],
        shown=len(tickets),
        examples=[turn for row in shown for turn in row if turn["role"] != "system"],
    )


def _rows(name: str) -> list[list[dict[str, Any]]]:
    lines = (ROOT / "datasets" / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["messages"] for line in lines]


def _asked(folder: Path, way: str, python: Path | None = None) -> Took:
    script, out = str(Path(__file__).with_name("local_asking.py")), folder / "took.json"
    command = [str(python or sys.executable), script, way, str(folder / "plan.json"), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{way} ended with {done.returncode}: {done.stderr[-2000:]}")
    return Took(**json.loads(out.read_text()))


def _same(took: Took, other: Took) -> int:
    return sum(
        text == reference
        for name, texts in other.texts.items()
        for text, reference in zip(took.texts[name], texts, strict=True)
    )


def _against(took: Took, ours: float) -> tuple[str, str, str]:
    times = f"{took.seconds / ours:.1f} x ours"
    return f"{took.seconds:.1f} s", f"{took.megabytes:.0f} MB", times


def _below(what: str, value: float, least: float) -> Iterator[str]:
    if value < least:
        yield f"{what}: {value:.2f} < {least:g}"


def _row(*cells: str) -> None:
    print(f"  {cells[0]:34}" + "".join(f"{cell:>14}" for cell in cells[1:]), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
