"""A judge on a loopback server: a chat endpoint whose verdicts are scripted.

with ScriptedJudge(decide) as judge:
    ...  # ask judge.url
"""

from __future__ import annotations

import json
import re
import threading
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

FORM = re.compile(r'^\{"id": "([0-9a-f]{32})", .*\}$', re.MULTILINE)
UNSEEN = re.compile("[\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufe00-\ufe0f\ufeff]")


@dataclass(frozen=True)
class Asked:
    """What the judge was sent.

    `texts` are the quotations by their names, `outside` is everything else, `bound` the mark of the
    call; `seed` grows with the trial.
    """

    kind: str
    bound: str
    texts: dict[str, str]
    outside: str
    seed: int
    model: str

    @property
    def criteria(self) -> int:
        """How many yes-or-no criteria are asked."""
        return len(re.findall(r"^\d+: ", self.outside, re.MULTILINE))

    def verdict(self, value: Any, evidence: str = "it says so") -> str:
        """The JSON object of a verdict: a score, a side, or a truth value for all criteria."""
        if self.kind == "criteria":
            row = {"evidence": evidence, "met": value}
            rows = [{"number": number, **row} for number in range(1, self.criteria + 1)]
            return json.dumps({"id": self.bound, "criteria": rows})
        key = "score" if self.kind == "rubric" else "better"
        return json.dumps({"id": self.bound, "evidence": evidence, key: value})


def read(body: dict[str, Any]) -> Asked:
    """Take a request apart, as credulous as can be.

    Any line that looks like the end of a quotation ends it, whatever its mark and its writing.
    """
    system, user = (message["content"] for message in body["messages"])
    bound = FORM.findall(user)[-1]
    texts: dict[str, list[str]] = {}
    outside, inside = [system], ""
    for line in user.splitlines():
        words = plain(line).split(maxsplit=2)
        if words[:1] == ["begin"] and not inside:
            inside = words[-1]
            texts[inside] = []
        elif words[:1] == ["end"]:
            inside = ""
        elif inside:
            texts[inside].append(line[2:])
        else:
            outside.append(line)
    told = "\n".join(outside)
    kind = "rubric" if '"score"' in told else "criteria" if '"criteria"' in told else "preference"
    return Asked(
        kind=kind,
        bound=bound,
        texts={name: "\n".join(lines) for name, lines in texts.items()},
        outside=told.replace(bound, "MARK"),
        seed=body["seed"],
        model=body["model"],
    )


def plain(text: str) -> str:
    """What a reader sees who overlooks what cannot be seen and takes look-alikes for the same."""
    return UNSEEN.sub("", unicodedata.normalize("NFKC", text)).casefold()


class ScriptedJudge:
    """The server, running from `with` to its end; `decide` returns the text of each answer.

    Or it returns the message, with its `finish_reason`. `asked` are all requests so far.
    """

    def __init__(self, decide: Callable[[Asked], str | dict[str, Any]]) -> None:
        self.asked: list[Asked] = []
        judge = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                asked = read(body)
                judge.asked.append(asked)
                data = _completion(decide(asked))
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        """What a judge's table takes as base_url."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def table(self, name: str = "strict", more: str = "") -> str:
        """The judge's table in pyproject.toml."""
        place = f'model = "openai:{name}"\nbase_url = "{self.url}"'
        return f"[tool.harness.judges.{name}]\n{place}\n{more}\n"

    def __enter__(self) -> ScriptedJudge:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def _completion(answer: str | dict[str, Any]) -> bytes:
    message = {"content": answer} if isinstance(answer, str) else dict(answer)
    finish = message.pop("finish_reason", "stop")
    choice = {"message": {"role": "assistant", **message}, "finish_reason": finish}
    used = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return json.dumps({"model": "scripted-2026", "choices": [choice], "usage": used}).encode()
