"""The README's examples are run, not only read."""

import re
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


def test_the_example_row_is_a_case(tmp_path):
    path = tmp_path / "cases.jsonl"
    path.write_text(blocks("json")[0], encoding="utf-8")
    [row] = read_rows(path, tmp_path)
    assert row.id == "t-1"
    assert row.tags == ("refund",)


def test_every_toml_example_is_a_valid_configuration():
    examples = blocks("toml")
    assert len(examples) == 3
    for example in examples:
        parse(tomllib.loads(example)["tool"]["harness"])
