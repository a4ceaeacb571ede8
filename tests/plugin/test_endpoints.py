"""Models behind an endpoint, in whole runs: what is sent, what is kept, and what stays secret."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
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


PRICES = "".join(
    f'[tool.harness.prices."openai:{name}"]\ninput = 1.0\noutput = 1000.0\n'
    for name in ("first", "second")
)


@pytest.mark.parametrize(
    ("table", "status", "words"),
    [
        ("max_tokens = 8", 0, ""),
        ('max_tokens = 8\nrename = { max_tokens = "max_new_tokens" }', 0, ""),
        ('max_tokens = 8\nomit = ["max_tokens"]', 4, "nothing limits the replies of openai:first"),
        ("max_tokens = 8\nextra_body = { max_tokens = 90000 }", 4, "48 requests can cost up to"),
        ('omit = ["max_tokens"]\nextra_body = { max_completion_tokens = 8 }', 0, ""),
    ],
)
def test_what_a_run_may_cost_hangs_on_the_limit_that_is_sent(
    project: Any, table: str, status: int, words: str
) -> None:
    with Loopback() as server:
        project.pyproject(settings(server, table) + PRICES)
        run = project.run("evals/", "--harness-max-cost", "1")
        assert run.status == status
        assert words in " ".join(run.errors)
        assert server.stats()["requests"] == (0 if status else 48)


PREFERS = """
import pytest

pytestmark = pytest.mark.cases("data/demo.jsonl")


def test_exact(score):
    score.exact()
    score.prefer()
"""


def test_models_that_reason_are_asked_without_a_temperature_and_may_judge(
    project: Any,
) -> None:
    refuses = {"second": ["temperature", "max_tokens"], "wise": ["temperature", "seed"]}
    with Loopback(refuses=refuses, wrong_every=2) as server:
        judge = f'[tool.harness.judges.wise]\nmodel = "openai:wise"\nbase_url = "{server.url}"\n'
        project.pyproject(settings(server) + judge)
        project.write("evals/test_demo.py", PREFERS)
        first = project.run("evals/", "-n", "2")
        refused, asked = server.stats()["statuses"]["400"], server.stats()["requests"]
        second = project.run("evals/")
        assert server.stats()["requests"] == asked
    assert refused <= 2 * 8 * 2  # what was in flight, for two fields of two models
    assert first.status == second.status == 0
    for outcome in (first, second):
        said = " ".join(outcome.text.split())
        assert "new: its service refuses temperature, so it is asked without" in said
        assert "new: its service takes the limit of tokens as max_completion_tokens" in said
        assert "judge wise: its service refuses seed and temperature" in said
        alarm = "new is asked without temperature, first with temperature and seed"
        assert any(one.startswith(alarm) for one in outcome.results["alarms"])


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


def test_a_key_is_nowhere_with_workers_and_in_what_the_command_says(project: Any) -> None:
    with Loopback(echo=True) as server:
        told = f"{server.url}?key={quote(CANARY, safe='')}"
        project.pyproject(settings(server, url=told))
        project.rows("data/demo.jsonl", project.questions(6))
        project.write("evals/test_demo.py", CURIOUS)
        outcome = project.run("evals/", "-n", "2", *NOISY, "--junitxml=junit.xml")
        status, said = project.harness("record", "first", "data/demo.jsonl", "-o", "first.jsonl")
    assert (outcome.status, status) == (6, 6)
    assert "401" in said
    for writing in WRITINGS:
        assert writing not in outcome.text + said
        assert found_in(project.root, writing) == []


@pytest.mark.parametrize("key", [CANARY, "0123456789abcdef0123456789abcdef".replace("0", "e", 1)])
def test_a_key_where_its_variables_name_belongs_is_nowhere(project: Any, key: str) -> None:
    with Loopback() as server:
        project.pyproject(settings(server).replace("CANARY_KEY", key))
        outcome = project.run("evals/", *NOISY, "--junitxml=junit.xml")
    assert outcome.status == (4 if key == CANARY else 6)
    assert key not in outcome.text
    assert found_in(project.root, key) == []


def found_in(root: Path, writing: str) -> list[str]:
    """Name the files below `root` that hold the text, but for the settings themselves."""
    return [
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file()
        and path.name != "pyproject.toml"
        and writing.encode() in path.read_bytes()
    ]


KILLS, IN_FLIGHT, CALLS = 50, 8, 500
PASSING = {"run_id", "started", "finished", "cached", "latency_p50_s", "latency_p95_s"}
RUNS = """
import os
import sys

import openai
import pytest
import tenacity

import harness.models.chat
import harness.session
import pytest_finetune

openai.AsyncOpenAI(api_key="none").chat

for _ in sys.stdin:
    run = os.fork()
    if not run:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        os._exit(pytest.main(["evals/", "-q"]))
    print(run, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(run, 0)[1]), flush=True)
"""
"""Runs of pytest in processes of their own that find everything imported: many take no time."""


def stored(root: Path) -> set[str]:
    """Return which calls the store holds, as the server names them."""
    folder = shutil.copytree(root / ".harness", root / "copy", dirs_exist_ok=True)
    connection = sqlite3.connect(folder / "store.sqlite")  # reading would repair the real one
    rows = connection.execute("SELECT model, label FROM replies").fetchall()
    connection.close()
    shutil.rmtree(folder)
    return {f"{model.split(':')[1]} is it {label.split(':c')[1]}" for model, label in rows}


def lasting(results: Any) -> Any:
    """Return results without times, ids and what came from the cache."""
    if isinstance(results, dict):
        return {key: lasting(value) for key, value in results.items() if key not in PASSING}
    return [lasting(value) for value in results] if isinstance(results, list) else results


@pytest.mark.slow
def test_runs_that_are_killed_lose_at_most_what_was_in_flight(project: Any) -> None:
    draw, known, killed, lost = random.Random(4), set[str](), 0, 0
    with Loopback(latency_s=0.02, wrong_every=7) as server:
        project.pyproject(settings(server, f"max_concurrency = {IN_FLIGHT}"))
        project.rows("data/demo.jsonl", project.questions(CALLS // 2))
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen([sys.executable, "-c", RUNS], text=True, **pipes) as runs:
            while killed < KILLS:
                server.forget()
                runs.stdin.write("\n")
                runs.stdin.flush()
                run = int(runs.stdout.readline())
                # Anywhere on the way through what is left, and rather soon than late.
                share = min(0.9, draw.uniform(0, 2 / (KILLS - killed)))
                wanted = int(share * (CALLS - len(known)))
                while server.stats()["requests"] < wanted:
                    time.sleep(0.01)
                time.sleep(draw.uniform(0, 0.03))
                os.kill(run, signal.SIGKILL)
                killed += int(runs.stdout.readline()) == -signal.SIGKILL
                asked, before, known = server.stats()["asked"], known, stored(project.root)
                assert before <= known
                assert not before & asked.keys(), "what is known is asked again"
                assert known - before <= asked.keys()
                assert set(asked.values()) <= {1}
                assert len(asked.keys() - known) <= IN_FLIGHT
                lost += len(asked.keys() - known)
            runs.stdin.close()
        assert lost > 0
        resumed = project.run("evals/")
        shutil.rmtree(project.root / ".harness")
        undisturbed = project.run("evals/")
    assert resumed.status == undisturbed.status
    assert lasting(resumed.results) == lasting(undisturbed.results)
