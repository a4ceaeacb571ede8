"""A project whose cases are mutated lines: whole commands, none of which may break."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.cases import load_cases
from harness.data.jsonl import read_rows
from harness.records import HarnessError

CASES = 400

BOT = """
import json


def yes(messages):
    json.dumps(messages, ensure_ascii=False).encode()
    return messages[-1]["content"] or "yes"


def calls(messages):
    function = {"name": "weather", "arguments": "{}"}
    return {"tool_calls": ({"id": "1", "type": "function", "function": function},)}
"""
SETTINGS = """
[tool.pytest.ini_options]
pythonpath = ["."]

[tool.harness]
base = "python:bot:yes"

[tool.harness.candidates.caller]
model = "python:bot:calls"

[tool.harness.judges.strict]
model = "python:bot:yes"
"""
SUITE = """
import pytest

pytestmark = pytest.mark.cases("cases.jsonl")


def test_answer(score, case, reply):
    if case.expected:
        score.exact()
        score.rouge()
    if case.expected_tool_calls:
        score.tool_call()
    score.judge("correctness")
    score.prefer()
    assert reply.text
"""
COMMANDS = {
    "pytest --harness-plan": (0,),
    "pytest": (0, 1, 6),
    "harness review --out page.html": (0,),
    "harness record python:bot:calls cases.jsonl -o kept.jsonl --training train.jsonl": (0,),
}
"""What is run, and the statuses that are right."""


def broken(lines: Sequence[bytes]) -> Iterator[str]:
    """Yield what is wrong with the commands in a project with these lines as its cases."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, text in (("bot.py", BOT), ("pyproject.toml", SETTINGS)):
            (folder / file).write_text(text)
        (folder / "evals").mkdir()
        (folder / "evals/test_s.py").write_text(SUITE)
        (folder / "cases.jsonl").write_bytes(b"\n".join(_distinct(lines, folder)))
        for command, right in COMMANDS.items():
            yield from _run(command.split(), right, folder)
        if not read_rows(folder / "train.jsonl", folder):
            yield "no row was recorded"


def _distinct(lines: Sequence[bytes], folder: Path) -> Iterator[bytes]:
    """Yield the lines that can stand in one file."""
    ids: set[str] = set()
    path = folder / "one.jsonl"
    for line in lines:
        path.write_bytes(b"\n" + line)
        try:
            found = load_cases(path, "s", folder)
        except HarnessError:
            continue
        if len(found) == 1 and found[0].id not in ids and len(ids) < CASES:
            ids.add(found[0].id)
            yield line


def _run(command: Sequence[str], right: Sequence[int], folder: Path) -> Iterator[str]:
    program = Path(sys.executable).with_name(command[0])
    done = subprocess.run(
        [program, *command[1:]], cwd=folder, capture_output=True, text=True, check=False
    )
    told = done.stdout + done.stderr
    if done.returncode not in right or "Traceback" in told or "INTERNALERROR" in told:
        yield f"{command}: status {done.returncode}: {told[-2_000:]}"
