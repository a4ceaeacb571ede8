from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
from openai.types.fine_tuning import FineTuningJob

USUAL, QUICK = "gpt-4o-mini-2024-07-18", "gpt-3.5-turbo-0125"
WORDS = ["kettle", "lamp", "chair", "phone", "radio", "table", "clock", "knife", "glass", "brush"]
FINAL = ("succeeded", "failed", "cancelled")
TOKEN = "LOCAL_TOKEN"


def example(word: str, number: int = 0) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "system", "content": "Name the thing."},
            {"role": "user", "content": f"my {word} {number} is broken"},
            {"role": "assistant", "content": f'{{"item": "{word}"}}'},
        ]
    }


def jsonl(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


TRAINING = jsonl([example(word, number) for number, word in enumerate([*WORDS, *WORDS[:2]])])
NUMBERS = {"n_epochs": 2, "learning_rate_multiplier": 10}
VALIDATION = jsonl([example(word, 50 + number) for number, word in enumerate(WORDS[:4])])


@dataclass
class Server:
    """`harness serve` in a process of its own."""

    root: Path
    process: subprocess.Popen[str]
    url: str

    @property
    def api(self) -> str:
        return f"{self.url}/v1"

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.api, api_key="any", max_retries=0)

    @property
    def raw(self) -> httpx.Client:
        return httpx.Client(base_url=self.api, timeout=60)

    def finished(self, job: FineTuningJob | str) -> FineTuningJob:
        name, deadline = job if isinstance(job, str) else job.id, time.monotonic() + 120
        while (found := self.client.fine_tuning.jobs.retrieve(name)).status not in FINAL:
            assert time.monotonic() < deadline, found
            time.sleep(0.1)
        return found

    def upload(self, content: bytes = TRAINING, name: str = "train.jsonl") -> str:
        return self.client.files.create(file=(name, content), purpose="fine-tune").id

    def job(self, content: bytes = TRAINING, **more: Any) -> FineTuningJob:
        chosen = {"model": QUICK, "training_file": self.upload(content), **more}
        return self.client.fine_tuning.jobs.create(**chosen)

    def messages(self, name: str) -> list[str]:
        return [event.message for event in self.client.fine_tuning.jobs.list_events(name)]

    def end(self, how: int = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(timeout=20)


def command(root: Path, *options: str, before: str = "") -> subprocess.Popen[str]:
    """Start a server, in a process that runs the code `before` first."""
    code = f"{before}\nfrom harness.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "serve", *options],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1", TOKEN: "sesame"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


Start = Callable[..., Server]


def started(root: Path, *options: str, before: str = "") -> Server:
    process = command(root, "--port", "0", *options, before=before)
    assert process.stdout
    lines = [process.stdout.readline(), process.stdout.readline()]
    if not lines[1]:
        assert process.stderr
        raise AssertionError(process.stderr.read())
    return Server(root, process, lines[1].strip().partition("=")[2].removesuffix("/v1"))


@pytest.fixture
def start(tiny_base: Path, tmp_path: Path) -> Iterator[Start]:
    """Start servers of the project in `tmp_path`; they end with the test."""
    servers: list[Server] = []

    def one(*options: str) -> Server:
        servers.append(started(tmp_path, "--alias", f"{QUICK}=local:{tiny_base}", *options))
        return servers[-1]

    yield one
    for server in servers:
        server.process.kill()
        server.process.communicate()


@pytest.fixture(scope="session")
def server(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that do not mind each other."""
    aliases = (f"{USUAL}=bundled:pocket", f"{QUICK}=local:{tiny_base}")
    options = [part for alias in aliases for part in ("--alias", alias)]
    running = started(tmp_path_factory.mktemp("served"), *options, "--max-file-mb", "1")
    yield running
    running.process.kill()
    running.process.communicate()


@pytest.fixture(scope="session")
def trained(server: Server) -> FineTuningJob:
    """A job that has really trained, with a validation file."""
    job = server.job(
        validation_file=server.upload(VALIDATION, "validation.jsonl"),
        method={"type": "supervised", "supervised": {"hyperparameters": NUMBERS}},
        suffix="my-items",
        seed=7,
        metadata={"recipe": "abc", "team": "lamps"},
    )
    return server.finished(job)
