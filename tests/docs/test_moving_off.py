"""docs/moving-off.md is run from its start to its end, on the bundled base."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from serving import serving

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/moving-off.md").read_text(encoding="utf-8")
SERVICES = '''
WORDS = {"invoice": "billing", "charge": "billing", "parcel": "delivery", "deliver": "delivery"}


def old(messages):
    """The fine-tune that is going away."""
    text = messages[-1]["content"].lower()
    team = next((team for word, team in WORDS.items() if word in text), "support")
    return '{"team": "' + team + '"}'
'''
CHARACTERS = 100
SCHEMA = {
    "type": "object",
    "properties": {"team": {"enum": ["billing", "delivery", "support"]}},
    "required": ["team"],
    "additionalProperties": False,
}

pytestmark = pytest.mark.slow


def marked(kind: str) -> list[str]:
    return re.findall(rf"<!-- {kind} -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)


def prompts(name: str, count: int) -> str:
    """How messages of customers begin, without any answer: short ones are trained on faster."""
    lines = (ROOT / f"datasets/tickets/{name}.jsonl").read_text("utf-8").splitlines()[:count]
    texts = [json.loads(line)["messages"][-2]["content"][:CHARACTERS] for line in lines]
    turns = [{"role": "user", "content": text} for text in texts]
    rows = [{"id": f"{name}-{n}", "messages": [turn]} for n, turn in enumerate(turns)]
    return "".join(json.dumps(row) + "\n" for row in rows)


def run(command: str, folder: Path) -> str:
    name, *arguments = command.split()
    code = {
        "harness": "from harness.cli import main; main()",
        "pytest": "import pytest; raise SystemExit(pytest.main())",
    }[name]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, command + done.stdout + done.stderr
    return done.stdout


def test_the_recipe_moves_a_model_off_its_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = re.findall(r"<!-- example: (\S+) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    files = {
        **dict(examples),
        "services.py": SERVICES,
        "datasets/prompts.jsonl": prompts("train", 120),
        "datasets/held-out.jsonl": prompts("test", 60),
        "datasets/schema.json": json.dumps(SCHEMA),
    }
    old = "openai:ft:gpt-4o-mini-2024-07-18:acme:router:9fGhKq2L"
    assert old in files["pyproject.toml"]
    files["pyproject.toml"] = files["pyproject.toml"].replace(old, "python:services:old")
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    commands = [line[2:] for block in marked("commands") for line in block.splitlines()]
    assert len(commands) == 3
    for command in commands:
        if command.startswith("pytest"):
            (tmp_path / "services.py").unlink()  # it is switched off
        said = run(command, tmp_path)
    assert "baseline is a recording of python:services:old" in said
    results = json.loads((tmp_path / "reports/latest/results.json").read_text("utf-8"))
    [metric] = [one for one in results["metrics"] if one["metric"] == "routing.schema_match"]
    assert metric["verdict"] == "non_inferior"
    assert marked("server") == ["$ harness serve\n"]
    [client] = marked("client")
    with serving(tmp_path) as url:
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        made: dict[str, str] = {}
        exec(client, made)
    assert set(json.loads(made["answer"])) == {"team"}
