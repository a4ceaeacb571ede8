from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from harness.models import Models, endpoint, lane
from harness.models.failures import CallFailed
from harness.models.secrecy import public_options
from harness.records import Case, EvidenceError, HarnessError, ModelSpec, Reply, Sampling
from harness.replies import Progress, Replies
from harness.store import Store

KEY = "sk-very-secret-0123456789"

Answer = tuple[int, Any]


class Server(ThreadingHTTPServer):
    """Answers chat requests by `answer`, which sees how often this text was asked before."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.extra_headers: dict[str, str] = {}
        self.refuses: dict[str, Answer] = {}
        self.answer: Callable[[str, int], Answer] = lambda text, tries: (200, completion(text))
        self.busy = self.busiest = 0
        self.lock = threading.Lock()

    def handle_error(self, *_: object) -> None:
        """Clients that go away are part of the tests."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][-1]["content"]
        with self.server.lock:
            tries = sum(one["messages"][-1]["content"] == text for one in self.server.seen)
            self.server.seen.append(body)
            self.server.paths.append(self.path)
            self.server.headers.append({k.lower(): v for k, v in self.headers.items()})
            self.server.busy += 1
            self.server.busiest = max(self.server.busy, self.server.busiest)
        refused = [self.server.refuses[name] for name in self.server.refuses if name in body]
        status, value = refused[0] if refused else self.server.answer(text, tries)
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        with self.server.lock:
            self.server.busy -= 1
        self.send_response(status)
        for name, header in self.server.extra_headers.items():
            self.send_header(name, header)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def completion(text: str, **message: Any) -> dict[str, Any]:
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": f"re: {text}", **message},
            }
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
    }


def failure(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "x", "code": None, "param": None}}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(lane, "LONGEST_WAIT_S", 0.01)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def replies(tmp_path: Path) -> Iterator[Replies]:
    replies = Replies(Store(tmp_path / "store.sqlite"))
    yield replies
    replies.close()


def spec_of(server: Server, **options: Any) -> ModelSpec:
    options.setdefault("base_url", server.url)
    sampling = Sampling(temperature=0.5, max_tokens=9, seed=3)
    return ModelSpec("api", "openai", "m", system="s", sampling=sampling, options=options)


def ask(replies: Replies, spec: ModelSpec, *texts: str) -> list[Reply]:
    requests = [replies.plan(spec, [{"role": "user", "content": text}]) for text in texts]
    found = replies.gather(requests)
    return [found[request.key] for request in requests]


def test_a_call_carries_prompt_and_sampling_and_the_reply_what_it_took(
    server: Server, replies: Replies
) -> None:
    (reply,) = ask(replies, spec_of(server, headers={"X-Team": "blue"}), "hi")
    assert server.seen == [
        {
            "model": "m",
            "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}],
            "temperature": 0.5,
            "seed": 3,
            "max_tokens": 9,
        }
    ]
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert server.headers[0]["x-team"] == "blue"
    assert (reply.text, reply.finish_reason) == ("re: hi", "stop")
    assert (reply.prompt_tokens, reply.completion_tokens) == (5, 2)
    assert 0 < (reply.latency_s or 0) < 10


def test_tool_calls_are_kept(server: Server, replies: Replies) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    server.answer = lambda text, tries: (200, completion(text, content=None, tool_calls=[call]))
    (reply,) = ask(replies, spec_of(server), "hi")
    assert reply.text == ""
    assert reply.tool_calls == (call,)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_is_busy_is_asked_again(
    server: Server, replies: Replies, status: int
) -> None:
    server.answer = lambda text, tries: (
        (status, failure("busy")) if tries < 2 else (200, completion(text))
    )
    assert [reply.text for reply in ask(replies, spec_of(server), "a", "b")] == ["re: a", "re: b"]
    assert len(server.seen) == 6


def test_a_server_that_stays_busy_becomes_an_error(
    server: Server, replies: Replies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "PATIENCE_S", 0.2)
    server.answer = lambda text, tries: (429, failure("slow down"))
    (reply,) = ask(replies, spec_of(server), "a")
    assert reply.error == "the server answered 429: slow down"
    assert reply.attempts == len(server.seen) > 2


def test_a_server_that_stays_broken_becomes_an_error(server: Server, replies: Replies) -> None:
    server.answer = lambda text, tries: (500, failure("out of order"))
    (reply,) = ask(replies, spec_of(server), "a")
    assert reply.error == "the server answered 500: out of order"
    assert reply.attempts == len(server.seen) == lane.TRIES


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_ends_at_once_without_showing_the_key(
    server: Server,
    replies: Replies,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    status: int,
) -> None:
    caplog.set_level(logging.DEBUG)
    token = "team-token-987"
    server.answer = lambda text, tries: (
        status,
        failure(f"Incorrect API key provided: {KEY} \x1b[31m ({token})\nbye"),
    )
    (reply,) = ask(replies, spec_of(server, headers={"X-Token": token}), "a")
    assert reply.error == (
        f"the server answered {status}: Incorrect API key provided: ***  [31m (***) bye"
    )
    assert len(server.seen) == 1
    out = capfd.readouterr()
    for shown in (caplog.text, out.out, out.err, repr(replies), repr(vars(replies))):
        assert KEY not in shown
        assert token not in shown


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>gateway</html>",
        b"",
        b"[]",
        b"null",
        b"{}",
        {"choices": []},
        {"choices": [{"message": None}]},
        {"choices": [{"message": {"content": 3}}]},
        {"choices": "x"},
    ],
)
def test_an_answer_that_is_no_completion_is_an_error(
    server: Server, replies: Replies, answer: Any
) -> None:
    server.answer = lambda text, tries: (200, answer)
    (reply,) = ask(replies, spec_of(server), "a")
    assert reply.error


def choice_failure(code: int, text: str | None = None) -> dict[str, Any]:
    found = completion("", content=text)
    error = {"code": code, "message": f"Upstream died: {KEY}\x1b[2J"}
    found["choices"][0] |= {"finish_reason": "error", "error": error}
    return found


@pytest.mark.parametrize(
    "answer",
    [
        choice_failure(502),
        choice_failure(429, "half an ans"),
        {"error": {"message": "busy", "code": 503}},
        {**completion("x"), "error": {"message": "busy", "type": "server_error"}},
        b"<html>gateway</html>",
        b"",
        b'data: {"error": {"code": 500}}\n\n',
    ],
    ids=["choice", "half", "body", "beside", "page", "nothing", "stream"],
)
def test_a_passing_failure_with_status_200_is_asked_again(
    server: Server, replies: Replies, answer: Any
) -> None:
    server.answer = lambda text, tries: (200, answer if tries < 2 else completion(text))
    (reply,) = ask(replies, spec_of(server), "a")
    assert (reply.text, reply.attempts, len(server.seen)) == ("re: a", 3, 3)


def test_a_failure_with_status_200_is_told_and_never_stored(
    server: Server, replies: Replies
) -> None:
    server.answer = lambda text, tries: (200, choice_failure(429, "half an ans"))
    (reply,) = ask(replies, spec_of(server), "a")
    assert reply.error == "the server answered 429: Upstream died: *** [2J"
    assert reply.text == ""
    assert len(server.seen) == lane.TRIES
    server.answer = lambda text, tries: (200, completion(text))
    assert ask(replies, spec_of(server), "a")[0].text == "re: a"


def test_what_an_earlier_version_took_for_a_reply_is_asked_again(
    server: Server, replies: Replies, tmp_path: Path
) -> None:
    spec = spec_of(server)
    requests = [replies.plan(spec, [{"role": "user", "content": text}]) for text in ("a", "b")]
    stored = [Reply(text="half an", finish_reason="error"), Reply(text="yes", finish_reason="stop")]
    store = Store(tmp_path / "store.sqlite")
    store.put_replies({one.key: reply for one, reply in zip(requests, stored, strict=True)})
    store.close()
    assert [one.key for one in replies.missing(requests)] == [requests[0].key]
    found = replies.gather(requests)
    assert [found[one.key].text for one in requests] == ["re: a", "yes"]


@pytest.mark.filterwarnings("error")
def test_a_prompt_of_megabytes_is_sent_without_a_warning(replies: Replies, server: Server) -> None:
    long = "x" * 2_000_000
    assert [reply.text for reply in ask(replies, spec_of(server), long)] == [f"re: {long}"]


def test_a_server_that_is_not_there_is_an_error(replies: Replies, server: Server) -> None:
    (reply,) = ask(replies, spec_of(server, base_url="http://127.0.0.1:9/v1"), "a")
    failure = "the connection failed: Cannot connect to host 127.0.0.1:9 "
    assert (reply.error or "").startswith(failure)


def test_progress_tells_how_many_calls_are_in_flight(server: Server, replies: Replies) -> None:
    server.answer = lambda text, tries: (time.sleep(0.02), (200, completion(text)))[1]
    spec = spec_of(server, max_concurrency=4)
    planned = [replies.plan(spec, [{"role": "user", "content": str(n)}]) for n in range(30)]
    seen: list[Progress] = []
    replies.gather(planned, seen.append)
    assert 0 < max(one.in_flight for one in seen) <= 4
    assert (seen[-1].done, seen[-1].in_flight) == (30, 0)


def test_many_calls_run_at_once_and_not_more_than_allowed(server: Server, replies: Replies) -> None:
    spec = spec_of(server, max_concurrency=8)

    def slow(text: str, tries: int) -> Answer:
        time.sleep(0.02)
        return 200, completion(text)

    server.answer = slow
    texts = [str(number) for number in range(100)]
    assert [reply.text for reply in ask(replies, spec, *texts)] == [f"re: {text}" for text in texts]
    assert 4 <= server.busiest <= 8
    assert ask(replies, spec, "again")[0].text == "re: again"


def test_services_are_asked_at_the_same_time(server: Server, replies: Replies) -> None:
    both = threading.Barrier(2)

    def answer(text: str, tries: int) -> Answer:
        both.wait(timeout=20)
        return 200, completion(text)

    server.answer = answer
    specs = [spec_of(server), replace(spec_of(server, headers={"X-Team": "blue"}), target="other")]
    requests = [replies.plan(spec, [{"role": "user", "content": "hi"}]) for spec in specs]
    found = replies.gather(requests)
    assert [found[request.key].error for request in requests] == [None, None]


def test_what_arrived_before_a_break_is_kept(server: Server, replies: Replies) -> None:
    held = threading.Event()

    def answer(text: str, tries: int) -> Answer:
        if text == "late":
            held.wait(10)
        return 200, completion(text)

    server.answer = answer

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    spec = spec_of(server)
    requests = [replies.plan(spec, [{"role": "user", "content": t}]) for t in ("early", "late")]
    with pytest.raises(KeyboardInterrupt):
        replies.gather(requests, stop)
    held.set()
    asked = len(server.seen)
    assert ask(replies, spec, "early")[0].text == "re: early"
    assert len(server.seen) == asked


def test_a_missing_key_is_a_sentence(
    server: Server, replies: Replies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(EvidenceError, match=r"'api' \(openai:m\) needs a key: .* OPENAI_API_KEY"):
        ask(replies, spec_of(server, base_url=endpoint.OPENAI_URL), "a")
    with pytest.raises(EvidenceError, match="environment variable MY_KEY"):
        ask(replies, spec_of(server, api_key_env="MY_KEY"), "a")
    assert ask(replies, spec_of(server), "a")[0].text == "re: a"
    monkeypatch.setenv("MY_KEY", "another-key")
    ask(replies, spec_of(server, api_key_env="MY_KEY"), "b")
    assert server.headers[-1]["authorization"] == "Bearer another-key"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"base_url": "localhost:8000"}, "base_url that is no URL: 'localhost:8000'"),
        ({"base_url": f"{KEY}@localhost:8000"}, "base_url that is no URL; write one"),
        ({"base_url": "http://[::1"}, "base_url that is no URL"),
        ({"base_url": "http://h:99999"}, "base_url that is no URL"),
        ({"base_url": 3}, "base_url that is no URL: 3"),
        ({"api_key": KEY}, "no option 'api_key'; openai models take api_key_env, api_version"),
        ({"headers": ["X"]}, "wrong headers; write a table"),
        ({"headers": {"X": "\n" + KEY}}, "wrong headers.'X'; use printable ASCII"),
        ({"max_concurrency": 0}, "wrong max_concurrency; write a whole number from 1"),
        ({"timeout_s": "long"}, "wrong timeout_s; write a number of seconds"),
        ({"response_format": "json"}, "wrong response_format; write a table"),
        ({"tools": {}}, "wrong tools; write a list"),
        ({"extra_body": []}, "wrong extra_body; write a table"),
        ({"api_version": 2024}, "wrong api_version; write a text"),
        ({"omit": "seed"}, "wrong omit; write a list of fields that are sent by default"),
        ({"rename": {"seed": "model"}}, "wrong rename; give each field a name of its own"),
        ({"api_key_env": KEY}, "wrong api_key_env; write the name of an environment variable"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(HarnessError, match=sentence) as caught:
        Models().identity(ModelSpec("api", "openai", "m", options=options))
    assert KEY not in str(caught.value)


def test_the_endpoint_is_part_of_the_identity_and_headers_and_keys_are_not() -> None:
    def identity(**options: Any) -> Any:
        return Models().identity(ModelSpec("api", "openai", "m", options=options))

    assert identity() == identity(headers={"a": "b"}, api_key_env="X")
    assert identity() != identity(base_url="http://localhost:1/v1")
    assert identity(base_url="http://h/v1/") == identity(base_url="http://h/v1")


def test_what_decides_a_reply_is_part_of_the_identity_and_the_way_there_is_not() -> None:
    def identity(**options: Any) -> Any:
        return Models().identity(ModelSpec("api", "openai", "m", options=options))

    decisive: dict[str, Any] = {
        "response_format": {"type": "json_object"},
        "tools": [{"type": "function"}],
        "tool_choice": "none",
        "parallel_tool_calls": False,
        "top_p": 0.5,
        "stop": ["x"],
        "reasoning_effort": "low",
        "frequency_penalty": 1,
        "presence_penalty": 1,
        "logit_bias": {"5": 1},
        "verbosity": "low",
        "extra_body": {"top_k": 3},
        "api_version": "2026-01-01",
    }
    assert decisive.keys() == endpoint.BODY_OPTIONS | {"api_version"}
    for option, value in decisive.items():
        assert identity(**{option: value}) != identity(), option
    assert identity(max_concurrency=3, timeout_s=5) == identity()
    url = "http://user:word@h/v1?key=abcd"
    assert identity(base_url=url) == identity(base_url="http://h/v1")


def test_closing_ends_the_thread(server: Server, replies: Replies) -> None:
    ask(replies, spec_of(server), "a")
    (thread,) = [one for one in threading.enumerate() if one.name == "harness-chat"]
    replies.close()
    thread.join(5)
    assert not thread.is_alive()


def test_the_fields_of_the_table_and_the_tools_of_the_case_go_into_the_request(
    server: Server, replies: Replies
) -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    case = Case("s", "c", ({"role": "user", "content": "hi"},), tools=(tool,))
    spec = spec_of(
        server, top_p=0.5, reasoning_effort="low", extra_body={"top_k": 3, "max_tokens": 5}
    )
    request = replies.plan(spec, case.messages, case=case)
    assert replies.gather([request])[request.key].error is None
    (body,) = server.seen
    assert (body["top_p"], body["top_k"], body["max_tokens"]) == (0.5, 3, 5)
    assert body["tools"] == [tool]
    assert "temperature" not in body
    own = spec_of(server, tools=[{"type": "other"}])
    replies.gather([replies.plan(own, case.messages, case=case)])
    assert server.seen[-1]["tools"] == [{"type": "other"}]


def test_calls_in_a_conversation_are_sent_as_the_protocol_has_them(
    server: Server, replies: Replies
) -> None:
    call = {"id": "t1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    calling = {"role": "assistant", "tool_calls": [call], "refusal": None}
    result = {"role": "tool", "tool_call_id": "t1", "content": None}
    request = replies.plan(spec_of(server), [{"role": "user", "content": "x"}, calling, result])
    assert calling in request.messages, "the cache keeps the key of what the row says"
    assert replies.gather([request])[request.key].error is None
    sent = {**call, "function": {"name": "f", "arguments": '{"a":1}'}}
    assert server.seen[0]["messages"][-2:] == [
        {"role": "assistant", "content": None, "tool_calls": [sent]},
        {**result, "content": ""},
    ]


def test_a_refusal_of_the_model_is_a_reply_and_no_error(server: Server, replies: Replies) -> None:
    server.answer = lambda text, tries: (200, completion(text, content=None, refusal="I will not"))
    (reply,) = ask(replies, spec_of(server), "a")
    assert (reply.text, reply.finish_reason, reply.error) == ("", "content_filter", None)
    filtered = {"error": {"message": "filtered", "code": "content_filter"}}
    server.answer = lambda text, tries: (400, filtered)
    (reply,) = ask(replies, spec_of(server), "b")
    assert (reply.text, reply.finish_reason, reply.error) == ("", "content_filter", None)


def test_a_pause_beyond_all_patience_is_an_error_at_once(server: Server, replies: Replies) -> None:
    server.extra_headers = {"Retry-After": "86400"}
    server.answer = lambda text, tries: (429, failure("come back tomorrow"))
    (reply,) = ask(replies, spec_of(server), "a")
    assert reply.error == "the server answered 429: come back tomorrow"
    assert len(server.seen) == 1


def test_an_azure_endpoint_gets_its_version_and_its_key_in_its_own_way(
    server: Server, replies: Replies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "azure-key-1")
    spec = spec_of(server, base_url=server.url.removesuffix("/v1"), api_version="2026-01-01")
    assert ask(replies, spec, "hi")[0].text == "re: hi"
    assert server.headers[0]["api-key"] == "azure-key-1"
    path = "/openai/deployments/m/chat/completions?api-version=2026-01-01"
    assert server.paths == [path]


def test_an_account_in_the_url_is_sent_as_such(server: Server, replies: Replies) -> None:
    spec = spec_of(server, base_url=server.url.replace("//", "//me:pass%20word@") + "?key=abcd")
    assert ask(replies, spec, "hi")[0].text == "re: hi"
    assert server.headers[0]["authorization"] == "Basic bWU6cGFzcyB3b3Jk"
    assert server.paths == ["/v1/chat/completions?key=abcd"]


def test_a_wave_can_follow_one_that_was_broken_off(server: Server, replies: Replies) -> None:
    held = threading.Event()
    server.answer = lambda text, tries: (held.wait(10), (200, completion(text)))[1]
    spec = spec_of(server, max_concurrency=2)
    planned = [replies.plan(spec, [{"role": "user", "content": str(n)}]) for n in range(6)]
    models = Models()
    wave = models.ask([planned])
    threading.Timer(0.3, held.set).start()
    next(wave)
    wave.close()
    found = {key for answers in models.ask([planned]) for key in answers}
    models.close()
    assert found == {request.key for request in planned}


# ---------------------------------------------------------------------- fields of the request


def unsupported(name: str) -> Answer:
    error = {"message": f"Unsupported parameter: '{name}'", "param": name, "code": None}
    return 400, {"error": {**error, "code": "unsupported_parameter"}}


def forbidden(name: str) -> Answer:
    return 422, {"detail": [{"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra"}]}


TEXTS = [str(number) for number in range(40)]


def refusals_of(server: Server) -> list[str]:
    return [name for body in server.seen for name in server.refuses if name in body]


def test_fields_that_a_service_does_not_know_are_left_out_from_then_on(
    server: Server, replies: Replies, tmp_path: Path
) -> None:
    server.refuses = {"temperature": unsupported("temperature"), "seed": forbidden("seed")}
    found = ask(replies, spec_of(server), *TEXTS)
    assert [reply.text for reply in found] == [f"re: {text}" for text in TEXTS]
    # Only what was in flight already is refused: eight calls, before the window opens.
    assert 2 <= len(server.seen) - len(TEXTS) <= 16
    assert all(body["max_tokens"] == 9 for body in server.seen)
    server.seen.clear()
    assert ask(replies, spec_of(server), "new")[0].text == "re: new"
    again = Replies(Store(tmp_path / "store.sqlite"))
    assert ask(again, spec_of(server), *TEXTS, "newer")[-1].text == "re: newer"
    again.close()
    assert [body["messages"][-1]["content"] for body in server.seen] == ["new", "newer"]
    assert refusals_of(server) == []


@pytest.mark.parametrize("refused", ["max_tokens", "max_completion_tokens"])
def test_the_limit_of_tokens_changes_its_name_and_is_never_left_out(
    server: Server, replies: Replies, refused: str
) -> None:
    server.refuses = {refused: unsupported(refused)}
    newer = {"api_version": "1", "api_key_env": "OPENAI_API_KEY"}
    spec = spec_of(server, **({} if refused == "max_tokens" else newer))
    other = ({"max_tokens", "max_completion_tokens"} - {refused}).pop()
    assert ask(replies, spec, "a", "b")[1].text == "re: b"
    assert [body[other] for body in server.seen if refused not in body] == [9, 9]
    server.refuses[other] = unsupported(other)
    (reply,) = ask(replies, spec, "c")
    assert reply.error == (
        f"the server answered 400: Unsupported parameter: '{refused}' "
        f"(the model's table can set, `omit` or `rename` {refused})"
    )
    assert all(body.keys() & {"max_tokens", "max_completion_tokens"} for body in server.seen)


@pytest.mark.parametrize(
    ("error", "field"),
    [
        (
            {"message": "temperature must be <= 1", "param": "temperature", "code": "bad_value"},
            "temperature",
        ),
        ({"message": "max_tokens is too large: 9", "param": "max_tokens"}, "max_tokens"),
        ({"message": "Unknown parameter: 'messages[0].seed'", "param": "messages[0].seed"}, ""),
    ],
)
def test_an_objection_to_a_value_is_told_and_teaches_nothing(
    server: Server, replies: Replies, error: dict[str, Any], field: str
) -> None:
    server.answer = lambda text, tries: (400, {"error": error})
    (reply,) = ask(replies, spec_of(server), "a")
    advice = f" (the model's table can set, `omit` or `rename` {field})" if field else ""
    assert reply.error == f"the server answered 400: {error['message']}{advice}"
    assert len(server.seen) == 1
    assert not replies.models.refusals


def test_a_field_of_the_table_is_the_users_and_never_left_out(
    server: Server, replies: Replies
) -> None:
    server.refuses = {"seed": unsupported("seed"), "steps": unsupported("steps")}
    (reply,) = ask(replies, spec_of(server, extra_body={"seed": 7}), "a")
    assert "Unsupported parameter: 'seed'" in (reply.error or "")
    (reply,) = ask(replies, spec_of(server, rename={"max_tokens": "steps"}, omit=["seed"]), "a")
    assert "Unsupported parameter: 'steps'" in (reply.error or "")
    assert len(server.seen) == 2


def test_what_a_table_leaves_out_or_renames_is_sent_so(server: Server, replies: Replies) -> None:
    rename = {"max_tokens": "max_new_tokens", "temperature": "temp"}
    spec = spec_of(server, omit=["seed"], rename=rename)
    ask(replies, spec, "a")
    (body,) = server.seen
    assert body.keys() == {"model", "messages", "temp", "max_new_tokens"}
    assert (body["temp"], body["max_new_tokens"]) == (0.5, 9)


def test_what_was_learnt_and_what_the_table_says_are_one_call(
    server: Server, replies: Replies
) -> None:
    server.refuses = {"seed": unsupported("seed")}
    ask(replies, spec_of(server), "a")
    asked = len(server.seen)
    assert ask(replies, spec_of(server, omit=["seed"]), "a")[0].text == "re: a"
    assert len(server.seen) == asked
    other = replace(spec_of(server), target="other")
    server.refuses = {}
    assert ask(replies, other, "a")[0].text == "re: a"
    assert server.seen[-1]["seed"] == 3


def test_a_reply_from_before_a_refusal_is_not_that_of_another_call(
    server: Server, replies: Replies
) -> None:
    ask(replies, spec_of(server), "a")
    server.refuses = {"temperature": unsupported("temperature")}
    ask(replies, spec_of(server), "b")
    ask(replies, spec_of(server), "a", "b")
    assert [("temperature" in body) for body in server.seen] == [True, True, False, False]


def test_what_was_learnt_of_a_model_is_forgotten_with_its_replies(
    server: Server, replies: Replies, tmp_path: Path
) -> None:
    server.refuses = {"seed": unsupported("seed")}
    ask(replies, spec_of(server), "a")
    server.refuses = {}
    store = Store(tmp_path / "store.sqlite")
    store.prune(model="openai:other")
    assert store.refusals().keys() == {(server.url, "m")}
    store.prune(model="openai:m")
    fresh = Replies(store)
    ask(fresh, spec_of(server), "a")
    fresh.close()
    assert server.seen[-1]["seed"] == 3


def test_only_what_the_protocol_has_in_a_message_is_sent(server: Server, replies: Replies) -> None:
    turns = [
        {"role": "user", "content": "hi", "name": "ann", "id": "x", "tags": ["y"]},
        {"role": "assistant", "content": "ho", "weight": 0, "prefix": True},
        {"role": "user", "content": "and?", "weight": 1, "reasoning_content": "z"},
    ]
    spec = replace(spec_of(server), few_shot=(turns[0], turns[1]))
    request = replies.plan(spec, [turns[2]])
    assert replies.gather([request])[request.key].error is None
    (body,) = server.seen
    keys = [sorted(message) for message in body["messages"]]
    assert keys == [["content", "role"], ["content", "name", "role"], *2 * [["content", "role"]]]


def test_thinking_is_switched_off_in_the_chat_template(server: Server, replies: Replies) -> None:
    own = {"top_k": 3, "chat_template_kwargs": {"style": "x"}}
    off = replace(spec_of(server, extra_body=own), thinking="off")
    assert ask(replies, off, "a")[0].text == "re: a"
    assert ask(replies, replace(off, thinking="strip"), "a")[0].text == "re: a"
    sent = [body["chat_template_kwargs"] for body in server.seen]
    assert sent == [{"enable_thinking": False, "style": "x"}, {"style": "x"}]
    assert server.seen[0]["top_k"] == 3


# ---------------------------------------------------------------------- redirects and keys


@pytest.fixture
def other(server: Server) -> Iterator[Server]:
    """A second server; the first one sends everybody there."""
    elsewhere = Server()
    threading.Thread(target=elsewhere.serve_forever, kwargs={"poll_interval": 0.01}).start()
    server.extra_headers = {"Location": f"{elsewhere.url}/chat/completions?key={KEY}"}
    yield elsewhere
    elsewhere.shutdown()
    elsewhere.server_close()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_to_another_host_is_refused(
    server: Server, other: Server, replies: Replies, status: int
) -> None:
    server.answer = lambda text, tries: (status, b"")
    (reply,) = ask(replies, spec_of(server, headers={"X-Key": "team-token-987"}), "a")
    host = other.url.removesuffix("/v1")
    assert (reply.error or "").startswith(f"the server redirects to {host}, and no request goes")
    assert (len(server.seen), len(other.seen)) == (1, 0)


def test_a_redirect_of_the_training_service_is_refused_too(server: Server, other: Server) -> None:
    server.answer = lambda text, tries: (307, b"")
    client = endpoint.endpoint_of(spec_of(server)).waiting_client(5)
    with pytest.raises(CallFailed, match="the server redirects to"):
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "a"}])
    client.close()
    assert other.seen == []


def test_a_redirect_at_the_same_host_is_followed(server: Server, replies: Replies) -> None:
    def answer(text: str, tries: int) -> Answer:
        server.extra_headers = {} if tries else {"Location": "/v1/there/chat/completions"}
        return (200, completion(text)) if tries else (307, b"")

    server.answer = answer
    server.extra_headers = {"Location": "/v1/there/chat/completions"}
    assert ask(replies, spec_of(server), "a")[0].text == "re: a"
    assert server.paths == ["/v1/chat/completions", "/v1/there/chat/completions"]


KEYS = ["a1b2c3d4e5f6a7b8c9d0e1f2a3b4c5d6", "AKIAIOSFODNN7EXAMPLE", "sk_live_4eC39HqLyjWDarjtT1z"]


@pytest.mark.parametrize("key", KEYS)
def test_a_key_in_the_place_of_its_variables_name_is_not_shown(server: Server, key: str) -> None:
    spec = spec_of(server, api_key_env=key)
    with pytest.raises(EvidenceError, match=r"needs a key: .* looks like a key itself") as caught:
        endpoint.endpoint_of(spec)
    assert key not in str(caught.value)
    assert key not in str(public_options(spec.options))


def test_names_of_variables_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("my_key", "x")
    for name in ("MY_KEY", "TEAM2_API_TOKEN", "TOKEN", "my_key"):
        assert public_options({"api_key_env": name}) == {"api_key_env": name}
