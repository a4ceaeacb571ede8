"""A fine-tuning service in memory, over real HTTP, that fails in every way that it is told to.

with Scripted() as service:
    service.faults["create"] = ["500 after"]   # the job is made, and the answer is a 500
    ...  # fine-tune at service.url
    service.jobs, service.seen
"""

from __future__ import annotations

import base64
import json
import random
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

OPENAI = "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"
AZURE = (
    "step,train_loss,train_mean_token_accuracy,valid_loss,validation_mean_token_accuracy,"
    "full_valid_loss,full_valid_mean_token_accuracy"
)
ROUTES = (
    ("create", "POST", r"/fine_tuning/jobs"),
    ("list", "GET", r"/fine_tuning/jobs"),
    ("job", "GET", r"/fine_tuning/jobs/([^/]+)"),
    ("cancel", "POST", r"/fine_tuning/jobs/([^/]+)/cancel"),
    ("events", "GET", r"/fine_tuning/jobs/([^/]+)/events"),
    ("checkpoints", "GET", r"/fine_tuning/jobs/([^/]+)/checkpoints"),
    ("upload", "POST", r"/files"),
    ("file", "GET", r"/files/([^/]+)"),
    ("content", "GET", r"/files/([^/]+)/content"),
    ("models", "GET", r"/models"),
    ("model", "GET", r"/models/(.+)"),
    ("count", "POST", r"/responses/input_tokens"),
    ("chat", "POST", r"/chat/completions"),
)

HTML = b"<!doctype html><html><body>Just a moment...</body></html>"
ANSWERS = {"garbage": b'{"half": ', "html": HTML, "null": b"null", "list": b"[]", "empty": b""}
"""Faults after which the work is done and this is answered, with status 200."""

SUCCESSES = ("succeeded", "success", "completed", "JOB_STATE_COMPLETED")
DEAD = ("failed", "cancelled", "canceled", "expired", "error", "stopped", "user_error", "FAILED")


def tokens_of(messages: list[dict[str, Any]]) -> int:
    """Return how many tokens this service counts: words, and three for each message."""
    return sum(len(str(message.get("content") or "").split()) + 3 for message in messages)


class Scripted:
    """The service, running from `with` to its end; `stop` and `start` are a restart.

    A job takes `job_s` seconds and passes through `statuses`. `faults` maps a route (see `ROUTES`)
    to what befalls its next requests: a status ("429"), one with a text as error ("text 500"),
    either after the work was done ("500 after"), "drop", "drop after", "slow", "plain" (the right
    answer with a wrong content type), one of `ANSWERS`, or "" for nothing; `always` maps routes to
    what befalls all their requests. `storm` is the share of all other requests that fail. `errors`
    is the error of a job by its status. `watch` is called when a request has come and again when
    its work is done, before it is answered. `dialect` is the field of a request that holds the
    hyperparameters; a file is processed for `processing_s` seconds; a job that is not `named` makes
    a model without a name; `result` are the bytes of its result file.
    """

    def __init__(self, **behaviour: Any) -> None:
        self.job_s = behaviour.pop("job_s", 0.1)
        self.statuses = behaviour.pop("statuses", ("validating_files", "running", "succeeded"))
        self.errors: dict[str, Any] = behaviour.pop("errors", {})
        self.headers = behaviour.pop("headers", OPENAI)
        self.encoded = behaviour.pop("encoded", False)
        self.counts = behaviour.pop("counts", True)
        self.shutdown_date = behaviour.pop("shutdown_date", None)
        self.metadata_kept = behaviour.pop("metadata_kept", True)
        self.suffix_shown = behaviour.pop("suffix_shown", False)
        self.dialect = behaviour.pop("dialect", "method")
        self.processing_s = behaviour.pop("processing_s", 0.0)
        self.named = behaviour.pop("named", True)
        self.result: bytes | None = behaviour.pop("result", None)
        self.always: dict[str, str] = behaviour.pop("always", {})
        self.storm = behaviour.pop("storm", 0.0)
        assert not behaviour
        self.faults: dict[str, list[str]] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self.uploaded: dict[str, float] = {}
        self.seen: list[str] = []
        self.keys: list[str] = []
        self.watch: Callable[[], None] = lambda: None
        self._random = random.Random(7)
        self._lock = threading.RLock()
        self._server: ThreadingHTTPServer | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def calls(self) -> Counter[str]:
        """How often each route was asked."""
        return Counter(self.seen)

    @property
    def alive(self) -> list[dict[str, Any]]:
        """The jobs that neither failed nor were cancelled."""
        return [job for job in self.jobs.values() if self._status(job) not in DEAD]

    def __enter__(self) -> Scripted:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, at the port of the last time."""
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # one packet an answer: two would wait for each other

            def do_GET(self) -> None:
                service._answer(self, "GET")

            def do_POST(self) -> None:
                service._answer(self, "POST")

            def log_message(self, *_: object) -> None:
                pass

        ThreadingHTTPServer.daemon_threads = True
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    # ------------------------------------------------------------------ requests

    def _answer(self, http: BaseHTTPRequestHandler, method: str) -> None:
        length = int(http.headers.get("content-length") or 0)
        body = http.rfile.read(length)
        url = urlsplit(http.path)
        route, found = self._route(method, url.path.removeprefix("/v1"))
        with self._lock:
            self.seen.append(route)
            self.keys.append(http.headers.get("authorization", ""))
            fault = self._fault(route)
        self.watch()
        if fault == "drop":
            return self._drop(http)
        if fault == "slow":
            time.sleep(0.2)
        if re.fullmatch(r"(text )?\d+", fault):
            return self._send(http, int(fault[-3:]), self._refusal(fault))
        with self._lock:
            status, value = self._work(route, found, body, dict(parse_qsl(url.query)), http)
        self.watch()
        if fault == "drop after":
            return self._drop(http)
        if fault.endswith("after"):
            return self._send(http, int(fault.split()[-2]), self._refusal(fault))
        kind = {"html": "text/html", "plain": "text/plain"}.get(fault, "application/json")
        return self._send(http, status, ANSWERS.get(fault, value), kind)

    def _route(self, method: str, path: str) -> tuple[str, list[str]]:
        for name, wanted, pattern in ROUTES:
            if method == wanted and (found := re.fullmatch(pattern, path)):
                return name, list(found.groups())
        return "unknown", []

    def _fault(self, route: str) -> str:
        if self.faults.get(route):
            return self.faults[route].pop(0)
        if route in self.always:
            return self.always[route]
        if self._random.random() < self.storm:
            return self._random.choice(["500", "429", "drop", "garbage", "503 after", "drop after"])
        return ""

    @staticmethod
    def _refusal(fault: str) -> dict[str, Any]:
        if fault.startswith("text"):
            return {"error": f"told to say {fault}"}
        return {"error": {"message": f"told to say {fault}", "type": "scripted", "code": None}}

    @staticmethod
    def _drop(http: BaseHTTPRequestHandler) -> None:
        http.close_connection = True
        with suppress(OSError):
            http.connection.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _send(
        http: BaseHTTPRequestHandler, status: int, value: Any, kind: str = "application/json"
    ) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        with suppress(OSError):  # whoever asked may have been killed
            http.send_response(status)
            http.send_header("content-type", kind)
            http.send_header("content-length", str(len(content)))
            http.end_headers()
            http.wfile.write(content)
            http.wfile.flush()

    def _work(
        self, route: str, found: list[str], body: bytes, query: dict[str, str], http: Any
    ) -> tuple[int, Any]:
        work: Callable[..., tuple[int, Any]] = getattr(self, f"_{route}")
        if route == "upload":
            return work(body, http.headers["content-type"])
        if route in ("create", "count", "chat"):
            return work(json.loads(body))
        return work(query) if route == "list" else work(*found)

    def _unknown(self, *_: Any) -> tuple[int, Any]:
        return self._missing("route")

    @staticmethod
    def _missing(what: str) -> tuple[int, Any]:
        return 404, {"error": {"message": f"no such {what}", "type": "invalid_request_error"}}

    # ------------------------------------------------------------------ files, models, replies

    def _upload(self, body: bytes, kind: str) -> tuple[int, Any]:
        boundary = kind.partition("boundary=")[2].encode()
        parts = [part for part in body.split(b"--" + boundary) if b"filename=" in part]
        content = parts[0].partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
        name = f"file-{len(self.files)}"
        self.files[name] = content
        self.uploaded[name] = time.time()
        return self._file(name)

    def _file(self, name: str) -> tuple[int, Any]:
        if name not in self.files:
            return self._missing("file")
        return 200, {
            "id": name,
            "object": "file",
            "bytes": len(self.files[name]),
            "created_at": int(time.time()),
            "filename": "x.jsonl",
            "purpose": "fine-tune",
            "status": "processed" if self._is_processed(name) else "processing",
        }

    def _is_processed(self, name: str) -> bool:
        return time.time() >= self.uploaded.get(name, 0.0) + self.processing_s

    def _models(self) -> tuple[int, Any]:
        return 200, {"object": "list", "data": [{"id": "other-1", "object": "model"}]}

    def _content(self, name: str) -> tuple[int, Any]:
        if name not in self.files:
            return self._missing("file")
        return 200, self.files[name]

    def _model(self, name: str) -> tuple[int, Any]:
        if name == "missing":
            return self._missing("model")
        return 200, {
            "id": name,
            "object": "model",
            "created": 1,
            "owned_by": "scripted",
            "shutdown_date": self.shutdown_date,
        }

    def _count(self, body: dict[str, Any]) -> tuple[int, Any]:
        if not self.counts:
            return self._missing("route")
        return 200, {"object": "response.input_tokens", "input_tokens": tokens_of(body["input"])}

    def _chat(self, body: dict[str, Any]) -> tuple[int, Any]:
        text = "yes" if body["model"].startswith("ft:") else "no"
        return 200, {
            "id": "chat-1",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": text},
                }
            ],
            "usage": {
                "prompt_tokens": tokens_of(body["messages"]),
                "completion_tokens": 1,
                "total_tokens": tokens_of(body["messages"]) + 1,
            },
        }

    # ------------------------------------------------------------------ jobs

    def _create(self, body: dict[str, Any]) -> tuple[int, Any]:
        if self.dialect not in body or not self._is_processed(body["training_file"]):
            return 400, {"error": {"message": "that is no job of this service"}}
        name = f"ftjob-{len(self.jobs)}"
        self.jobs[name] = {"id": name, "body": body, "made": time.time(), "cancelled": False}
        self.jobs[name]["billed"] = self._billed(body)
        return 200, self._shown(self.jobs[name])

    def _list(self, query: dict[str, str]) -> tuple[int, Any]:
        wanted = {
            key.removeprefix("metadata[").rstrip("]"): value
            for key, value in query.items()
            if key.startswith("metadata[")
        }
        jobs = [self._shown(job) for job in reversed(self.jobs.values())]
        found = [job for job in jobs if wanted.items() <= (job["metadata"] or {}).items()]
        return 200, {"object": "list", "data": found, "has_more": False}

    def _job(self, name: str) -> tuple[int, Any]:
        return (200, self._shown(self.jobs[name])) if name in self.jobs else self._missing("job")

    def _cancel(self, name: str) -> tuple[int, Any]:
        self.jobs[name]["cancelled"] = True
        return self._job(name)

    def _events(self, name: str) -> tuple[int, Any]:
        status = self._status(self.jobs[name])
        passed = [*self.statuses[: self.statuses.index(status)], status]
        data = [
            {
                "id": f"{name}-{number}",
                "object": "fine_tuning.job.event",
                "created_at": int(time.time()),
                "level": "info",
                "type": "message",
                "message": f"the job is {status}",
            }
            for number, status in enumerate(passed)
        ]
        return 200, {"object": "list", "data": data[::-1], "has_more": False}

    def _checkpoints(self, name: str) -> tuple[int, Any]:
        data = [
            {
                "id": f"ckpt-{step}",
                "object": "fine_tuning.job.checkpoint",
                "created_at": 1,
                "fine_tuned_model_checkpoint": f"{self.tuned(name)}:ckpt-step-{step}",
                "fine_tuning_job_id": name,
                "step_number": step,
                "metrics": {"step": step, "train_loss": 1.0 / step, "full_valid_loss": 1.1 / step},
            }
            for step in (4, 8)
        ]
        return 200, {"object": "list", "data": data, "has_more": False}

    def _status(self, job: dict[str, Any]) -> str:
        if job["cancelled"]:
            return "cancelled"
        passed = (time.time() - job["made"]) / max(self.job_s, 1e-6)
        last = len(self.statuses) - 1
        return str(self.statuses[min(int(passed * last), last)])

    def tuned(self, name: str) -> str:
        body = self.jobs[name]["body"]
        return f"ft:{body['model']}:org:{body.get('suffix') or ''}:{name}"

    def _shown(self, job: dict[str, Any]) -> dict[str, Any]:
        body, status = job["body"], self._status(job)
        done = status in SUCCESSES
        if done:
            self.files.setdefault(f"result-{job['id']}", self._result())
        return {
            "id": job["id"],
            "object": "fine_tuning.job",
            "created_at": int(job["made"]),
            "error": self.errors.get(status, {}),
            "fine_tuned_model": self.tuned(job["id"]) if done and self.named else None,
            "finished_at": int(job["made"] + self.job_s) if done else None,
            "hyperparameters": {"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 1.0},
            "model": body["model"],
            "organization_id": "org",
            "result_files": [f"result-{job['id']}"] if done else [],
            "seed": body.get("seed", 0),
            "status": status,
            "trained_tokens": job["billed"] if done else None,
            "training_file": body["training_file"],
            "validation_file": body.get("validation_file"),
            "method": body.get("method"),
            "metadata": body.get("metadata") if self.metadata_kept else None,
            **({"suffix": body.get("suffix")} if self.suffix_shown else {}),
        }

    def _billed(self, body: dict[str, Any]) -> int:
        rows = [json.loads(line) for line in self.files[body["training_file"]].splitlines()]
        method = body.get("method", {})
        asked = method.get(method.get("type"), body)["hyperparameters"]
        epochs = asked.get("n_epochs", "auto")
        answers = [
            [*row["input"]["messages"], *row[key]]
            for row in rows
            if "input" in row
            for key in ("preferred_output", "non_preferred_output")
        ]
        plain = [row["messages"] for row in rows if "messages" in row]
        return (3 if epochs == "auto" else int(epochs)) * sum(map(tokens_of, [*answers, *plain]))

    def _result(self) -> bytes:
        if self.result is not None:
            return self.result
        names = self.headers.split(",")
        rows = [self.headers]
        for step in range(1, 13):
            values = {"step": step, "train_loss": round(2 / step, 4)}
            if step % 4 == 0:
                values |= {"valid_loss": round(2.5 / step, 4), "full_valid_loss": 0.5}
            rows.append(",".join(str(values.get(name, "")) for name in names))
        content = "\n".join(rows).encode()
        return base64.b64encode(content) if self.encoded else content
