"""What the documentation of each peer makes a user write to evaluate two models over an API.

Each peer is installed into an environment of its own (`environment`); its text, `BASE_URL`, `CASES`
and `MODELS` filled in, is written to a folder and run there.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Peer:
    """Another tool: what pip installs, the file that is written, and how it is run."""

    packages: tuple[str, ...]
    file: str
    text: str
    command: tuple[str, ...]
    environment: Mapping[str, str]


_ROWS = """
import json
from pathlib import Path

BASE_URL, CASES, MODELS = SETTINGS
ROWS = [json.loads(line)["messages"] for line in Path(CASES).read_text().splitlines()]
PAIRS = [(model, row) for model in MODELS for row in ROWS]
"""
_CLIENT = """
import pytest
from openai import OpenAI

CLIENT = OpenAI(base_url=BASE_URL, api_key="none")


def ask(model, row):
    done = CLIENT.chat.completions.create(
        model=model, messages=row[:-1], temperature=0, seed=0, max_tokens=128
    )
    return done.choices[0].message.content
"""
_DEEPEVAL = (
    _ROWS
    + _CLIENT
    + """
from deepeval import assert_test
from deepeval.metrics import BaseMetric
from deepeval.test_case import LLMTestCase


class Exact(BaseMetric):
    threshold = 0.5
    async_mode = False

    def measure(self, test_case, *args, **kwargs):
        self.score = float(test_case.actual_output == test_case.expected_output)
        self.success = self.score >= self.threshold
        return self.score

    async def a_measure(self, test_case, *args, **kwargs):
        return self.measure(test_case)

    def is_successful(self):
        return self.success

    @property
    def __name__(self):
        return "Exact"


@pytest.mark.parametrize(("model", "row"), PAIRS)
def test_answer(model, row):
    case = LLMTestCase(
        input=row[-2]["content"], actual_output=ask(model, row), expected_output=row[-1]["content"]
    )
    assert_test(case, [Exact()], run_async=False)
"""
)
_PYTEST_EVALS = (
    _ROWS
    + _CLIENT
    + """

@pytest.mark.eval(name="demo")
@pytest.mark.parametrize(("model", "row"), PAIRS)
def test_answer(model, row, eval_bag):
    eval_bag.right = ask(model, row) == row[-1]["content"]


@pytest.mark.eval_analysis(name="demo")
def test_analysis(eval_results):
    assert sum(one.result.right for one in eval_results) >= 0
"""
)
_INSPECT = (
    _ROWS
    + """
from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig, get_model
from inspect_ai.scorer import exact
from inspect_ai.solver import generate

samples = [Sample(input=row[-2]["content"], target=row[-1]["content"]) for row in ROWS]
CHAT = {"responses_api": False}  # the protocol that the others are asked with
config = GenerateConfig(max_connections=64, temperature=0.0, seed=0, max_tokens=128)
models = [
    get_model(f"openai/{name}", base_url=BASE_URL, api_key="none", config=config, **CHAT)
    for name in MODELS
]
task = Task(dataset=MemoryDataset(samples), solver=generate(), scorer=exact())
done = eval(task, model=models, display="none", max_samples=64, max_tasks=2, log_dir="logs")
assert all(log.status == "success" for log in done), [log.error for log in done]
"""
)

PEERS: Mapping[str, Peer] = {
    "deepeval": Peer(
        ("deepeval", "openai"),
        "test_peer.py",
        _DEEPEVAL,
        ("-m", "pytest", "-q", "test_peer.py"),
        {"DEEPEVAL_TELEMETRY_OPT_OUT": "YES", "DEEPEVAL_DISABLE_DOTENV": "1"},
    ),
    "pytest-evals": Peer(
        ("pytest-evals", "openai"),
        "test_peer.py",
        _PYTEST_EVALS,
        ("-m", "pytest", "-q", "--run-eval", "test_peer.py"),
        {},
    ),
    "inspect_ai": Peer(("inspect_ai", "openai"), "peer.py", _INSPECT, ("peer.py",), {}),
}


def environment(name: str, folder: Path) -> tuple[Path | None, str]:
    """Return the Python that has the peer installed and its version; without one, the reason."""
    return installed(folder / name, PEERS[name].packages)


def installed(
    home: Path, packages: Sequence[str], *, beside_project: bool = False
) -> tuple[Path | None, str]:
    """Return the Python of an environment with `packages` and the version of the first.

    Without one, None and the reason. `beside_project`: it sees what the project has installed too,
    and installs only what that lacks.
    """
    python = home / "bin" / "python"
    try:
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(home)], check=True, timeout=120)
            if beside_project:
                _show_project(home)
        install = [str(python), "-m", "pip", "install", "--quiet", *packages]
        subprocess.run(install, check=True, timeout=900, capture_output=True, text=True)
        show = f"import importlib.metadata as m; print(m.version({packages[0]!r}))"
        shown = subprocess.run(
            [str(python), "-c", show], check=True, capture_output=True, text=True
        )
    except (subprocess.SubprocessError, OSError) as problem:
        said = str(getattr(problem, "stderr", "") or problem).strip().splitlines()
        return None, said[-1] if said else "it cannot be installed"
    return python, shown.stdout.strip()


def _show_project(home: Path) -> None:
    """Let the environment in `home` see the packages of this one, after its own."""
    seen = [path for path in sys.path if Path(path).name == "site-packages"]
    lines = [f"import site; site.addsitedir({path!r})" for path in seen]
    for packages in home.glob("lib/python*/site-packages"):
        (packages / "project.pth").write_text("\n".join(lines) + "\n")


def text(name: str, base_url: str, cases: Path, models: list[str]) -> str:
    """Return the peer's file for these cases."""
    return PEERS[name].text.replace("SETTINGS", repr((base_url, str(cases), models)))
