"""The life of the server: who may come in, orders to jobs, restarts, the end."""

import re
import signal
import socket
import time
from pathlib import Path

import httpx2 as httpx
import pytest

from harness.cli import main

from .conftest import QUICK, TOKEN, TRAINING, USUAL, started
from .shapes import refused


@pytest.fixture
def refusal(tmp_path, monkeypatch, capsys):
    """Run a command that must be refused in one sentence, and return that."""
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)

    def refused_with(*options):
        monkeypatch.setattr("sys.argv", ["harness", "serve", "--port", "0", *options])
        with pytest.raises(SystemExit) as ending:
            main()
        said = capsys.readouterr().err
        assert ending.value.code == 4
        assert said.startswith("ERROR: ")
        assert len(said.splitlines()) == 1
        return said

    return refused_with


def test_other_machines_are_let_in_only_with_a_token(refusal, tmp_path):
    for host in ("0.0.0.0", "::", "192.168.0.1", "my-machine"):
        assert "--token-env" in refusal("--host", host)
    assert "NO_SUCH_VARIABLE" in refusal("--token-env", "NO_SUCH_VARIABLE")
    assert list(tmp_path.iterdir()) == [tmp_path / "pyproject.toml"]


@pytest.mark.parametrize(
    ("alias", "said"),
    [
        ("nothing", "provider:name"),
        ("=bundled:pocket", "NAME=SPEC"),
        ("x=bundled:none", "no such bundled model"),
        ("x=local:/no/such/folder", "no folder"),
        ("x=openai:gpt-4o", "no model on this machine"),
    ],
)
def test_a_wrong_alias_is_one_sentence(refusal, alias, said):
    assert said in refusal("--alias", alias)


def test_a_port_that_is_taken_is_one_sentence(refusal):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "choose another port" in refusal("--port", port)


def test_a_token_is_asked_of_everybody(start):
    server = start("--host", "0.0.0.0", "--token-env", TOKEN)
    url = server.api.replace("0.0.0.0", "127.0.0.1")
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "sesame"}):
        error = refused(httpx.get(f"{url}/models", headers=headers), 401)
        assert error["code"] == "invalid_api_key"
        assert "sesame" not in error["message"]
    right = {"Authorization": "Bearer sesame"}
    assert httpx.get(f"{url}/models", headers=right).status_code == 200
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example"):
        refused(httpx.get(f"{url}/models", headers={**right, "Host": host}), 403)


@pytest.mark.parametrize(
    "host", ["evil.example", "", "[::1", "localhost.evil.example:1", "10.0.0.1"]
)
def test_a_name_that_was_made_to_lead_here_is_refused(server, host):
    refused(server.raw.get("/models", headers={"Host": host}), 403)


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost:1", "http://"]
)
def test_pages_of_other_sites_are_refused(server, origin):
    refused(server.raw.get("/models", headers={"Origin": origin}), 403)
    before = server.raw.get("/files").json()
    files = {"file": ("a.jsonl", TRAINING)}
    headers = {"Origin": origin}
    response = server.raw.post("/files", files=files, data={"purpose": "batch"}, headers=headers)
    refused(response, 403)
    assert server.raw.get("/files").json() == before


def test_its_own_names_and_pages_are_let_in(server):
    port = server.url.rpartition(":")[2]
    for host in (f"localhost:{port}", "127.0.0.1", f"[::1]:{port}"):
        headers = {"Host": host, "Origin": f"http://{host}"}
        assert server.raw.get("/models", headers=headers).status_code == 200


def test_a_folder_without_a_project_is_served(start, tmp_path):
    name = start().upload()
    assert [path.name for path in tmp_path.iterdir()] == [".harness"]
    assert list((tmp_path / ".harness").rglob(f"{name}*"))


def test_a_folder_has_one_server(start, refusal):
    start()
    assert "is running" in refusal()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order(start, how):
    server = start()
    name = server.upload()
    for path in ("/v1/chat/completions", "/v1/files"):  # clients that leave amid a request
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as line:
            kind = "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 9\r\n\r\n--"
            line.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{kind}".encode())
    assert server.client.models.list().data
    assert server.end(how) == 0
    assert server.process.stderr.read() == ""
    assert start().client.files.retrieve(name).id == name


LONG = {"n_epochs": 30, "batch_size": 16}
AS_CANDIDATE = """
[tool.harness]
base = "local:{base}"

[tool.harness.candidates.mine]
trainer = "lora"
train = "train.jsonl"
epochs = 30
batch_size = 16
seed = 3

[tool.harness.candidates.untrained]
trainer = "lora"
train = "train.jsonl"
"""


def steps(server, job):
    return [m for m in server.messages(job) if m.startswith("Step ")]


def wait(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def trainings(root):
    """The processes that train for the project in `root`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"trainers.local" in words and any(str(root).encode() in word for word in words):
            found.append(path.parent.name)
    return found


@pytest.mark.slow
def test_jobs_of_a_killed_server_go_on_when_it_comes_back(start, tmp_path, tiny_base):
    server = start()
    jobs = [server.job(hyperparameters=LONG, seed=3) for _ in range(2)]
    wait(lambda: steps(server, jobs[0].id))
    assert trainings(tmp_path)
    server.end(signal.SIGKILL)
    wait(lambda: not trainings(tmp_path), 20)
    again = start()
    done = [again.finished(job) for job in jobs]
    assert [job.status for job in done] == ["succeeded", "succeeded"]
    assert "The server was restarted; the job begins again" in again.messages(done[0].id)
    assert len(again.client.fine_tuning.jobs.list().data) == 2
    assert len(list((tmp_path / ".harness" / "candidates").iterdir())) == 1
    again.end()

    # What a job has trained is a candidate of the project, too, if its recipe is the same.
    (tmp_path / "train.jsonl").write_bytes(TRAINING)
    (tmp_path / "pyproject.toml").write_text(AS_CANDIDATE.format(base=tiny_base))
    client = start().client
    made = [job.fine_tuned_model for job in done]
    assert {model.id for model in client.models.list()} == {QUICK, "mine", *made}


@pytest.mark.slow
def test_jobs_are_paused_resumed_and_cancelled(start, tmp_path):
    server = start()
    client = server.client.fine_tuning.jobs
    running, waiting = (server.job(hyperparameters=LONG, seed=seed) for seed in (4, 5))
    refused(server.raw.post(f"/fine_tuning/jobs/{running.id}/resume"), 400)
    assert client.pause(waiting.id).status == "paused"
    wait(lambda: steps(server, running.id))
    assert client.cancel(running.id).status == "cancelled"
    assert client.retrieve(running.id).finished_at is not None
    wait(lambda: not trainings(tmp_path), 20)
    assert client.retrieve(running.id).status == "cancelled"
    assert client.retrieve(running.id).fine_tuned_model is None
    assert "The job was cancelled" in server.messages(running.id)
    assert client.retrieve(waiting.id).status == "paused"
    assert client.resume(waiting.id).status in ("queued", "validating_files")
    wait(lambda: client.retrieve(waiting.id).status == "running" and trainings(tmp_path))
    assert server.end(signal.SIGINT) == 0
    wait(lambda: not trainings(tmp_path), 20)


def test_the_command_of_the_readme_says_where_the_server_is(tmp_path):
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    [command_line] = re.findall(r"^\$ harness serve (.*)$", readme, re.MULTILINE)
    server = started(tmp_path, *command_line.split())
    assert server.client.models.list().data[0].id == USUAL
    server.end()
