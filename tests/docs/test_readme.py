"""The README's examples are run, not only read."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from harness.config import parse
from harness.data.jsonl import read_rows

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLE = re.compile(r"<!-- example: (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)


COMMANDS = re.compile(r"<!-- commands: going away -->\n```console\n(.*?)```", re.DOTALL)
PROJECT = """
[tool.harness]
base = "python:services:switched_off_soon"

[tool.harness.models.old]
model = "python:services:switched_off_soon"

[tool.harness.candidates.new]
model = "python:services:successor"
"""
SERVICES = """
def switched_off_soon(messages):
    return "yes"


def successor(messages):
    return "yes"
"""
SUITE = """
import pytest

pytestmark = pytest.mark.cases("datasets/questions.jsonl")


def test_answer(score):
    score.exact()
"""


def run(command: str, folder: Path) -> str:
    """Run a command of the README in `folder`; it must end well."""
    name, *arguments = shlex.split(command)
    code = {
        "harness": "from harness.cli import main; main()",
        "pytest": "import pytest; raise SystemExit(pytest.main())",
    }[name]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, command + done.stdout + done.stderr
    return done.stdout


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_example_project_collects_and_plans_its_training(tmp_path):
    shutil.copytree(ROOT / "datasets", tmp_path / "datasets")
    for path, text in EXAMPLE.findall(README):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "evals/", "--harness-plan", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "candidate tickets: qlora on bundled:pocket" in done.stdout
    assert "requests to base: 150" in done.stdout


def test_the_commands_about_a_model_that_goes_away_work_in_their_order(tmp_path):
    row = blocks("json")[0].replace('{\\"category\\": \\"defect\\"}', "yes")
    for path, text in {
        "pyproject.toml": PROJECT,
        "services.py": SERVICES,
        "evals/test_questions.py": SUITE,
        "datasets/questions.jsonl": row,
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    commands = [line[2:] for block in COMMANDS.findall(README) for line in block.splitlines()]
    assert len(commands) == 8
    for command in commands:
        run(command, tmp_path)
    assert read_rows(tmp_path / "datasets/old.jsonl", tmp_path)[0].messages[-1]["content"] == "yes"
    [setting] = [block for block in blocks("toml") if "replay:" in block]
    replayed = PROJECT.replace("[tool.harness]\n", setting)
    (tmp_path / "pyproject.toml").write_text(replayed, encoding="utf-8")
    (tmp_path / "services.py").write_text(SERVICES.replace("switched_off_soon", "gone"))
    assert "baseline is a recording of python:services:switched_off_soon" in run(
        "pytest evals/", tmp_path
    )


def test_the_example_row_is_a_case(tmp_path):
    path = tmp_path / "cases.jsonl"
    path.write_text(blocks("json")[0], encoding="utf-8")
    [row] = read_rows(path, tmp_path)
    assert row.id == "t-1"
    assert row.tags == ("refund",)


def test_every_toml_example_is_a_valid_configuration():
    examples = blocks("toml")
    assert len(examples) == 5
    for example in examples:
        parse(tomllib.loads(example)["tool"]["harness"])
