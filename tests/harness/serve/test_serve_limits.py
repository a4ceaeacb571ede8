"""One client does not stop the others: what is asked for is bounded, and refused in words."""

import contextlib
import json
import resource
import select
import socket
import threading
import time
from pathlib import Path

import httpx2 as httpx
import pytest

from harness.serve import chat, connections, guard, wire

from .conftest import QUICK, TRAINING, started
from .shapes import refused

MB = 2**20
USER = {"role": "user", "content": "my lamp is broken"}


def body(**change):
    return {"model": QUICK, "messages": [USER], "max_tokens": 1, "temperature": 0, **change}


def said(text):
    return body(messages=[{"role": "user", "content": text}])


def raw(text):
    return b'{"model": "x", "messages": ' + text + b"}"


ABUSE = {
    "a long stop": (body(stop="x" * (chat.LONGEST_STOP + 1)), 400, "stop"),
    "a long stop of several": (body(stop=["x", "y" * MB]), 400, "stop.1"),
    "many stops": (body(stop=["x"] * 10_000), 400, "stop"),
    "no end": (body(max_tokens=10**9), 400, "max_tokens"),
    "no end by the other name": (body(max_completion_tokens=10**30), 400, "max_completion_tokens"),
    "many choices": (body(n=10**6), 400, "n"),
    "many messages": (body(messages=[USER] * (chat.MOST_MESSAGES + 1)), 400, "messages"),
    "more characters than fit": (said("x " * MB), 400, "messages"),
    "more tokens than fit": (said("lamp " * 2_000), 400, "messages"),
    "a prompt of 15 MB": (said("x" * 15 * MB), 413, None),
    "many values": (raw(b"[" + b"{}," * MB + b"{}]"), 400, None),
    "many strings": (raw(b"[" + b'"",' * MB + b'""]'), 400, None),
    "strings that end in backslashes": (raw(rb"[" + rb'"\\",' * 600_000 + b'""]'), 400, None),
    "a string without an end": (raw(rb'"' + rb"\"" * MB)[:-1], 400, None),
    "deep nesting": (raw(b"[" * 9_000 + b"]" * 9_000), 400, None),
    "deeper nesting": (raw(b'[{"a":' * 300_000), 400, None),
    "a long name": ({**body(), "k" * MB: 1}, 400, f"{'k' * 100}…"),
}


@pytest.mark.parametrize("name", ABUSE)
def test_what_would_stop_others_is_refused(server, name):
    asked, status, param = ABUSE[name]
    content = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
    error = refused(server.raw.post("/chat/completions", content=content), status)
    assert error["param"] == param
    assert len(error["message"]) < 400


def test_as_much_as_is_promised_is_taken(server):
    many = [*[{"role": "user", "content": ""}] * (chat.MOST_MESSAGES - 1), USER]
    most = body(messages=many, max_tokens=chat.MOST_TOKENS)
    error = refused(server.raw.post("/chat/completions", json=most), 400)
    assert error["code"] == "context_length_exceeded"  # and not that there are too many
    stops = ["x" * chat.LONGEST_STOP] * 4
    assert server.raw.post("/chat/completions", json=body(stop=stops)).status_code == 200


def test_a_client_is_answered_beside_abusive_ones(server):
    """Each abuse goes on without a pause as long as the client asks."""
    contents = [
        asked if isinstance(asked, bytes) else json.dumps(asked).encode()
        for asked, _, _ in ABUSE.values()
    ]
    contents.append(json.dumps(body(n=128, max_tokens=60, temperature=2)).encode())
    ended = threading.Event()

    def attack():
        with server.raw as client:
            while not ended.is_set():
                for content in contents:
                    client.post("/chat/completions", content=content)

    attackers = [threading.Thread(target=attack) for _ in range(2)]
    for attacker in attackers:
        attacker.start()
    try:
        for _ in range(4):
            assert server.raw.post("/chat/completions", json=body(), timeout=30).status_code == 200
            assert server.raw.get("/models", timeout=30).status_code == 200
    finally:
        ended.set()
        for attacker in attackers:
            attacker.join()


# ---------------------------------------------------------------------- connections

IMPATIENT = """
from harness.serve import connections, guard
guard.PATIENCE_S = connections.HEADERS_S = connections.TAKING_S = 0.5
guard.SLOWEST, connections.MOST = 2**20, 6
"""


@pytest.fixture(scope="module")
def impatient(tiny_base, tmp_path_factory):
    """A server that waits for half a second, and holds six connections."""
    root = tmp_path_factory.mktemp("impatient")
    running = started(root, "--alias", f"{QUICK}=local:{tiny_base}", before=IMPATIENT)
    yield running
    running.process.kill()
    running.process.communicate()


def connected(server):
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def answer(line):
    """Read the answer until the server closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := line.recv(2**16):
            received += piece
    head, _, content = received.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    headers = dict(row.split(": ", 1) for row in head.decode().lower().split("\r\n")[1:])
    return httpx.Response(status, headers=headers, content=content)


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
UPLOAD = (
    b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
)
SLOW = {
    "headers": b"POST /v1/chat/completions HTTP/1.1\r\nHost: loc",
    "body": HEAD + b'{"model": ',
    "upload": UPLOAD + b"2\r\n--\r\n",
}


@pytest.mark.parametrize("name", SLOW)
def test_who_sends_too_slowly_is_told_so_and_let_go(impatient, name):
    with connected(impatient) as line:
        line.sendall(SLOW[name])
        error = refused(answer(line), 408)
    assert error["code"] == "request_timeout"


def test_a_body_that_comes_byte_by_byte_is_not_waited_for(impatient):
    with connected(impatient) as line:
        line.sendall(HEAD)
        sent = 0
        while sent < 400 and not select.select([line], [], [], 0.05)[0]:
            line.sendall(b" ")
            sent += 1
        assert sent < 400
        refused(answer(line), 408)


def test_a_connection_on_which_nothing_is_asked_is_closed(impatient):
    with connected(impatient) as line:
        refused(answer(line), 408)


def test_what_is_no_http_gets_the_error_of_the_protocol(impatient):
    with connected(impatient) as line:
        line.sendall(b"nothing\r\n\r\n")
        refused(answer(line), 400)


def test_connections_that_wait_make_room_for_those_that_ask(impatient):
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(connected(impatient)) for _ in range(30)]
        for line in lines[::2]:
            with contextlib.suppress(ConnectionError):
                line.sendall(HEAD)
        for _ in range(3):
            assert impatient.raw.get("/models").status_code == 200


def test_who_does_not_take_an_answer_is_let_go(impatient):
    name = impatient.upload(b"x" * 20 * MB)  # more than all buffers between the two hold
    with connected(impatient) as line:
        line.sendall(f"GET /v1/files/{name}/content HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        time.sleep(2)
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while piece := line.recv(2**20):
                received += len(piece)
    assert received < 20 * MB


# ---------------------------------------------------------------------- the disk


def test_a_full_disk_is_told_and_the_server_goes_on(impatient):
    name = impatient.upload()
    limit = resource.prlimit(impatient.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(impatient.process.pid, resource.RLIMIT_FSIZE, (0, limit[1]))
    asked = {"model": QUICK, "training_file": name}
    try:
        upload = impatient.raw.post(
            "/files", files={"file": ("a", TRAINING)}, data={"purpose": "fine-tune"}
        )
        for response in (upload, impatient.raw.post("/fine_tuning/jobs", json=asked)):
            error = refused(response, 500)
            assert (error["type"], error["code"]) == ("server_error", "storage_error")
        assert impatient.raw.get("/models").status_code == 200
    finally:
        resource.prlimit(impatient.process.pid, resource.RLIMIT_FSIZE, limit)
    assert impatient.upload()
    few = impatient.job(TRAINING[:200])
    assert impatient.finished(few).error.code == "invalid_file_format"


def test_the_limits_are_those_of_the_documentation():
    page = (Path(__file__).parents[3] / "docs" / "serve.md").read_text(encoding="utf-8")
    for number in (
        chat.MOST_TOKENS,
        chat.MOST_MESSAGES,
        chat.LONGEST_STOP,
        wire.MOST_VALUES,
        connections.MOST,
        connections.HEADERS_S,
        connections.TAKING_S,
        guard.PATIENCE_S,
        guard.MOST_BODY // MB,
        guard.SLOWEST // 2**10,
    ):
        assert f"{number:,} " in page, number
