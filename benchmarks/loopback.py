"""A chat server on this machine, in a process of its own, fast and as unruly as ordered.

    with Loopback(latency_s=0.1) as server:
        ...  # ask server.url
        server.stats()["requests"]

Also by hand: `python benchmarks/loopback.py '{"latency_s": 0.1}'`. No server library is fast
enough to leave a core to whoever is measured: this is the protocol of asyncio, and no more.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import subprocess
import sys
import urllib.request
import zlib
from base64 import b64encode
from collections import Counter
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import quote

_JUDGED = re.compile(r'^\{"id": "([0-9a-f]{32})".*"better"', re.MULTILINE)


@dataclass(frozen=True)
class Behaviour:
    """How the server answers; shares are of all requests, in [0, 1], drawn with `seed`.

    `rate` calls a second are admitted (a bucket that holds those of `burst_s` seconds), others are
    told when to come again: in whole seconds where `whole_seconds`. `pause_s` is what the 429s by
    `refused` ask to wait. With `echo` every answer is a 401 that repeats what was sent. About one
    text in `wrong_every` is answered "no" instead of "yes". Where a judge is asked which answer is
    better, it is the first in every other call. Requests for a model of `refuses` that hold one of
    its fields are told that there is no such parameter.
    """

    latency_s: float = 0.0
    rate: float = 0.0
    burst_s: float = 1.0
    whole_seconds: bool = False
    refused: float = 0.0
    pause_s: float = 0.02
    failed: float = 0.0
    dropped: float = 0.0
    truncated: float = 0.0
    silent: float = 0.0
    endless: float = 0.0
    echo: bool = False
    wrong_every: int = 0
    seed: int = 0
    refuses: dict[str, list[str]] = field(default_factory=dict)


class Loopback:
    """The server, running from `with` to its end."""

    def __init__(self, **behaviour: Any) -> None:
        self._behaviour = Behaviour(**behaviour)
        self._process: subprocess.Popen[str] | None = None
        self.port = 0

    def __enter__(self) -> Loopback:
        order = json.dumps(asdict(self._behaviour))
        self._process = subprocess.Popen(
            [sys.executable, __file__, order], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process
        self._process.kill()
        self._process.communicate()

    @property
    def url(self) -> str:
        """What a model's table takes as base_url."""
        return f"http://127.0.0.1:{self.port}/v1"

    def stats(self) -> dict[str, Any]:
        """Count requests and answers since the last `forget`.

        `requests`, `answered` and `busiest` are numbers, `asked` and `done` map `model text` to how
        often it was asked and completely answered, `times` are those of the complete answers and
        `seconds` that of the last, since the first request; `statuses` counts by HTTP status.
        """
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/stats") as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def forget(self) -> None:
        """Start counting anew."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/forget"):
            pass


class _Server:
    """What all connections share."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.draw = random.Random(behaviour.seed)
        self.tokens = behaviour.rate * behaviour.burst_s
        self.filled = 0.0
        self.forget()

    def forget(self) -> None:
        self.asked, self.done, self.statuses = Counter[str](), Counter[str](), Counter[int]()
        self.busy = self.busiest = 0
        self.first = 0.0
        self.times: list[float] = []

    def stats(self) -> dict[str, Any]:
        return {
            "requests": self.asked.total(),
            "answered": self.done.total(),
            "busiest": self.busiest,
            "seconds": self.times[-1] if self.times else 0.0,
            "times": self.times,
            "asked": self.asked,
            "done": self.done,
            "statuses": self.statuses,
        }

    def fate(self) -> str:
        """Draw what becomes of a request."""
        share = self.draw.random()
        for name in ("refused", "failed", "dropped", "truncated", "silent", "endless"):
            share -= getattr(self.behaviour, name)
            if share < 0:
                return name
        return ""

    def wait_for_token(self, now: float) -> float:
        """Return 0.0 for a call that is admitted, else in how many seconds there will be room."""
        rate = self.behaviour.rate
        if not rate:
            return 0.0
        most = max(1.0, rate * self.behaviour.burst_s)
        self.tokens = min(most, self.tokens + (now - self.filled) * rate)
        self.filled = now
        if self.tokens >= 1.0:
            self.tokens -= 1.0
            return 0.0
        return (1.0 - self.tokens) / rate


class _Connection(asyncio.Protocol):
    """One connection; requests come one after the other."""

    def __init__(self, server: _Server) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._buffer = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        lines = head.decode("latin-1").split("\r\n")
        pairs = [line.split(": ", 1) for line in lines[1:]]
        headers = {name.lower(): value for name, value in pairs}
        length = int(headers.get("content-length", 0))
        if len(rest) >= length:
            self._buffer = rest[length:]
            self._answer(lines[0].split(" ")[1], headers, rest[:length])

    def _answer(self, path: str, headers: dict[str, str], body: bytes) -> None:
        if path == "/stats":
            self._send(200, self._server.stats())
        elif path == "/forget":
            self._server.forget()
            self._send(200, {})
        elif self._server.behaviour.echo:
            self._send(401, _echo(path, headers))
        else:
            self._chat(json.loads(body))

    def _chat(self, body: dict[str, Any]) -> None:
        server, now = self._server, self._loop.time()
        text = f"{body['model']} {body['messages'][-1]['content']}"
        server.asked[text] += 1
        server.first = server.first or now
        wait, fate = server.wait_for_token(now), server.fate()
        refused = [name for name in server.behaviour.refuses.get(body["model"], ()) if name in body]
        if refused:
            self._send(400, _unsupported(refused[0]))
        elif wait:
            whole = server.behaviour.whole_seconds
            self._refuse(f"{-int(-wait // 1)}" if whole else f"{wait:.6f}")
        elif fate == "refused":
            self._refuse(f"{server.behaviour.pause_s}")
        elif fate == "silent":
            return
        else:
            server.busy += 1
            server.busiest = max(server.busy, server.busiest)
            self._loop.call_later(server.behaviour.latency_s, self._reply, text, fate, body)

    def _refuse(self, wait: str) -> None:
        self._send(429, _error("slow down"), f"Retry-After: {wait}\r\n")

    def _reply(self, text: str, fate: str, body: dict[str, Any]) -> None:
        server = self._server
        server.busy -= 1
        if fate == "failed":
            self._send(500, _error("the server is not well"))
        elif fate == "dropped":
            self._transport.abort()
        elif fate in ("truncated", "endless"):
            self._transport.write(_http(200, _completion(text, body, server.behaviour))[:-40])
            if fate == "truncated":
                self._transport.close()
        elif not self._transport.is_closing():
            server.done[text] += 1
            server.times.append(self._loop.time() - server.first)
            self._send(200, _completion(text, body, server.behaviour))

    def _send(self, status: int, value: Any, headers: str = "") -> None:
        self._server.statuses[status] += 1
        self._transport.write(_http(status, value, headers))


def _http(status: int, value: Any, headers: str = "") -> bytes:
    data = json.dumps(value).encode()
    return (
        f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{headers}"
        f"Content-Length: {len(data)}\r\n\r\n"
    ).encode() + data


def _completion(text: str, body: dict[str, Any], behaviour: Behaviour) -> dict[str, Any]:
    number = zlib.crc32(text.encode())
    wrong = behaviour.wrong_every and number % behaviour.wrong_every == 0
    content = "no" if wrong else "yes"
    if mark := _JUDGED.search(text):
        better = "first" if number % 2 else "second"
        content = json.dumps({"id": mark[1], "evidence": "it is better", "better": better})
    words = sum(len(str(message["content"]).split()) for message in body["messages"])
    message = {"role": "assistant", "content": content}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": f"{body['model']}-2026",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {
            "prompt_tokens": words,
            "completion_tokens": 1,
            "total_tokens": words + 1,
            "prompt_tokens_details": {"cached_tokens": words // 2},
        },
    }


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "x", "code": None, "param": None}}


def _unsupported(name: str) -> dict[str, Any]:
    said = f"Unsupported parameter: '{name}' is not supported with this model."
    return {"error": {"message": said, "param": name, "code": "unsupported_parameter"}}


def _echo(path: str, headers: dict[str, str]) -> dict[str, Any]:
    """Say everything that should be kept secret, in several writings."""
    said = [path, *headers.values()]
    said += [word for value in headers.values() for word in value.split()]
    forms = [said, [quote(one) for one in said], [repr(one) for one in said]]
    forms.append([b64encode(one.encode()).decode() for one in said])
    return _error(f"Incorrect API key provided: {'; '.join(' '.join(form) for form in forms)}")


async def _serve(behaviour: Behaviour) -> None:
    server = _Server(behaviour)
    listener = await asyncio.get_running_loop().create_server(
        lambda: _Connection(server), "127.0.0.1", 0, backlog=1024
    )
    print(listener.sockets[0].getsockname()[1], flush=True)
    await listener.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(Behaviour(**json.loads(sys.argv[1] if len(sys.argv) > 1 else "{}"))))
