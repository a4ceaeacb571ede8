"""`make bench`: what a server of this machine gives to many clients, and whether it keeps memory.

`harness serve` with the bundled model in a process of its own; the clients are in this one, so both
share the processors. All ratios are of one run. Exit status 1 if a limit is missed.
"""

from __future__ import annotations

import asyncio
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2 as httpx

MODEL = "gpt-4o-mini-2024-07-18"
CLIENTS, EACH, ALONE = 64, 10, 60
MANY, MEASURED_EVERY = 5_000, 1_000
TIMES_ONE, MOST_GROWTH_MB = 5.0, 30.0
TOKENS = 48
ROOM = httpx.Limits(max_connections=CLIENTS)


@dataclass(frozen=True)
class Took:
    """What a crowd of clients saw: seconds of each call, and of all together."""

    calls: list[float]
    seconds: float

    @property
    def rate(self) -> float:
        """Calls a second."""
        return len(self.calls) / self.seconds

    def __str__(self) -> str:
        p95 = statistics.quantiles(self.calls, n=20)[-1]
        median = statistics.median(self.calls)
        return f"{self.rate:7.1f} calls/s   p50 {median * 1e3:6.0f} ms   p95 {p95 * 1e3:6.0f} ms"


def main() -> int:
    """Print the table; return the exit status."""
    with tempfile.TemporaryDirectory() as folder, _server(Path(folder)) as (url, process):
        asyncio.run(_crowd(url, 1, 3))  # the model is loaded with the first call
        one = asyncio.run(_crowd(url, 1, ALONE))
        print(f"  {'1 client':34} {one}")
        crowd = asyncio.run(_crowd(url, CLIENTS, EACH))
        times = crowd.rate / one.rate
        print(f"  {f'{CLIENTS} clients':34} {crowd}   {times:.1f} x one client", flush=True)
        before = _megabytes(process.pid)
        for done in range(0, MANY, MEASURED_EVERY):
            asyncio.run(_crowd(url, CLIENTS, MEASURED_EVERY // CLIENTS + 1))
            now = _megabytes(process.pid)
            print(f"  resident after {done + MEASURED_EVERY:5} calls {now:19.0f} MB", flush=True)
    missed = []
    if times < TIMES_ONE:
        missed.append(f"{times:.1f} x one client, not {TIMES_ONE:g} x")
    if now - before > MOST_GROWTH_MB:
        missed.append(f"{now - before:.0f} MB more after {MANY} calls")
    for sentence in missed:
        print(f"MISSED: {sentence}")
    return 1 if missed else 0


@contextmanager
def _server(folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    (folder / "pyproject.toml").touch()
    alias = f"{MODEL}=bundled:pocket"
    code = "from harness.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "serve", "--port", "0", "--alias", alias],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    lines = [process.stdout.readline() for _ in range(2)]
    try:
        yield re.sub(r"^\w+=", "", lines[1].strip()), process
    finally:
        process.terminate()
        process.wait()


async def _crowd(url: str, clients: int, each: int) -> Took:
    calls: list[float] = []
    started = time.perf_counter()
    async with httpx.AsyncClient(base_url=url, limits=ROOM, timeout=300) as client:
        await asyncio.gather(*(_one(client, number, each, calls) for number in range(clients)))
    return Took(calls, time.perf_counter() - started)


async def _one(client: httpx.AsyncClient, number: int, each: int, calls: list[float]) -> None:
    for place in range(each):
        question = f"Order {number}-{place} has not come, and the lamp was for Friday. Mara Lind"
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": TOKENS,
        }
        started = time.perf_counter()
        response = await client.post("/chat/completions", json=body)
        calls.append(time.perf_counter() - started)
        response.raise_for_status()


def _megabytes(process: int) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    sys.exit(main())
