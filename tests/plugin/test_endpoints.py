"""Models behind an endpoint, in whole runs: what is sent, what is kept, and what stays secret."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from base64 import b64encode
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from loopback import Loopback

CANARY = "sk-canary/Zq7%2F+end/0123456789"
STORM = {"refused": 0.2, "failed": 0.1, "dropped": 0.05, "truncated": 0.05}


def settings(server: Loopback, more: str = "", url: str = "") -> str:
    """Two models behind one endpoint, the second as the candidate."""
    table = f'base_url = "{url or server.url}"\napi_key_env = "CANARY_KEY"\n{more}'
    return (
        '[tool.harness]\nbase = "first"\n'
        f'[tool.harness.models.first]\nmodel = "openai:first"\n{table}\n'
        f'[tool.harness.models.second]\nmodel = "openai:second"\n{table}\n'
        '[tool.harness.candidates.new]\nmodel = "second"\n'
    )


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_KEY", CANARY)


def test_a_run_asks_each_case_once_and_the_next_one_nothing(project: Any) -> None:
    with Loopback(latency_s=0.01) as server:
        project.pyproject(settings(server))
        first = project.run("evals/")
        assert first.status == 0
        assert set(server.stats()["asked"].values()) == {1}
        assert server.stats()["requests"] == 48
        assert project.run("evals/").status == 0
        assert server.stats()["requests"] == 48
    assert first.results["usage"]["new"]["prompt_tokens_mean"] == 3


def test_a_run_comes_through_a_storm(project: Any) -> None:
    with Loopback(**STORM) as server:
        project.pyproject(settings(server, "timeout_s = 2"))
        assert project.run("evals/").status == 0
        assert set(server.stats()["done"].values()) == {1}


WRITINGS = (
    CANARY,
    quote(CANARY),
    quote(CANARY, safe=""),
    repr(CANARY)[1:-1],
    b64encode(CANARY.encode()).decode().rstrip("=")[:-1],
)
NOISY = ("-rA", "--showlocals", "-vv", "--tb=long", "--log-cli-level=DEBUG", "--full-trace")
CURIOUS = """
import logging

import pytest

pytestmark = pytest.mark.cases("data/demo.jsonl")


def test_exact(score, model, harness_item, request):
    session = request.config
    logging.getLogger("demo").debug("%r %r", model, harness_item)
    score.exact()


def test_breaks(reply, model, harness_item):
    item = harness_item.item
    model.ask("and now?")
    raise RuntimeError("broken")
"""


@pytest.mark.parametrize("behaviour", [{"echo": True}, STORM], ids=["echo", "storm"])
@pytest.mark.parametrize("where", ["header", "account", "query", "table"])
def test_a_key_is_nowhere(project: Any, behaviour: dict[str, Any], where: str) -> None:
    with Loopback(**behaviour) as server:
        address, told = server.url.removeprefix("http://"), quote(CANARY, safe="")
        url = {
            "account": f"http://user:{told}@{address}",
            "query": f"{server.url}?key={told}",
        }.get(where, "")
        more = f'headers = {{ "X-Key" = "{CANARY}" }}' if where == "table" else ""
        project.pyproject(settings(server, more, url))
        project.rows("data/demo.jsonl", project.questions(6))
        project.write("evals/test_demo.py", CURIOUS)
        outcome = project.run(
            "evals/", *NOISY, "--junitxml=junit.xml", "--log-file=debug.log", "--harness-trials=1"
        )
    assert outcome.status == 6
    if "echo" in behaviour:
        assert "the server answered 401: Incorrect API key provided: " in outcome.text
    for writing in WRITINGS:
        assert writing not in outcome.text
        assert found_in(project.root, writing) == []


def found_in(root: Path, writing: str) -> list[str]:
    """Name the files below `root` that hold the text, but for the settings themselves."""
    return [
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file()
        and path.name != "pyproject.toml"
        and writing.encode() in path.read_bytes()
    ]


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.1, 0.4, 0.7])
def test_a_killed_run_repeats_at_most_what_was_in_flight(project: Any, share: float) -> None:
    with Loopback(latency_s=0.05, wrong_every=7) as server:
        project.pyproject(settings(server, "max_concurrency = 16"))
        project.rows("data/demo.jsonl", project.questions(250))
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "evals/", "-q"],
            cwd=project.root,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while server.stats()["requests"] < share * 500:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.2)  # what was in flight is answered to nobody
        resumed = project.run("evals/")
        # In flight were at most 16, and as many may have arrived and not been stored yet.
        assert server.stats()["requests"] <= 500 + 2 * 16
        shutil.rmtree(project.root / ".harness")
        undisturbed = project.run("evals/")
    assert resumed.status == undisturbed.status
    assert resumed.results["cases"] == undisturbed.results["cases"]
    assert resumed.results["metrics"] == undisturbed.results["metrics"]
