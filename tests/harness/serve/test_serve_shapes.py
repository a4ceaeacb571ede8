"""Every route answers with exactly what the published client knows, and so does every error."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from openai.types import FileDeleted, FileObject, Model, ModelDeleted
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from openai.types.responses import InputTokenCountResponse

from harness.serve import chat
from harness.serve.app import Service
from harness.serve.guard import Access
from harness.serve.wire import ProtocolError

from .conftest import NUMBERS, QUICK, TRAINING, VALIDATION
from .shapes import conforms, listed, refused

USER = {"role": "user", "content": "my lamp is broken"}
JOB = "/fine_tuning/jobs"


def jobs_of(server, path, **query):
    return listed(server.raw.get(path, params=query).json(), FineTuningJob)


def ordered(server, order):
    """What an order to a job answers, in the words of the client: it knows no `paused`."""
    job = server.job(hyperparameters={"n_epochs": 50}, seed=1 + len(order))
    if order == "resume":
        server.raw.post(f"{JOB}/{job.id}/pause")
    value = server.raw.post(f"{JOB}/{job.id}/{order}").json()
    server.raw.post(f"{JOB}/{job.id}/cancel")
    if order == "pause":
        assert value["status"] == "paused"
        value["status"] = "queued"
    return conforms(value, FineTuningJob)


def created(server, trained):
    """A job that has trained before, and the name of its model."""
    asked = {"model": QUICK, "training_file": server.upload(), "seed": 7}
    more = {"validation_file": server.upload(VALIDATION), "hyperparameters": NUMBERS}
    value = conforms(server.raw.post(JOB, json={**asked, **more}).json(), FineTuningJob)
    return server.finished(value["id"]).fine_tuned_model


def uploaded(server):
    files = {"file": ("a.jsonl", TRAINING)}
    value = server.raw.post("/files", files=files, data={"purpose": "vision"}).json()
    return conforms(value, FileObject)["id"]


def asked(server, **more):
    return server.raw.post(
        "/chat/completions", json={"model": QUICK, "messages": [USER], "max_tokens": 3, **more}
    )


def counted(server):
    return server.raw.post("/responses/input_tokens", json={"model": QUICK, "input": "my lamp"})


ANSWERS = {
    ("GET", "/models"): lambda s, t: listed(s.raw.get("/models").json(), Model),
    ("GET", "/models/{name:path}"): lambda s, t: conforms(
        s.raw.get(f"/models/{t.fine_tuned_model}").json(), Model
    ),
    ("DELETE", "/models/{name:path}"): lambda s, t: conforms(
        s.raw.delete(f"/models/{created(s, t)}").json(), ModelDeleted
    ),
    ("POST", "/chat/completions"): lambda s, t: conforms(asked(s, n=2).json(), ChatCompletion),
    ("POST", "/responses/input_tokens"): lambda s, t: conforms(
        counted(s).json(), InputTokenCountResponse
    ),
    ("POST", "/files"): lambda s, t: uploaded(s),
    ("GET", "/files"): lambda s, t: listed(s.raw.get("/files").json(), FileObject),
    ("GET", "/files/{name}"): lambda s, t: conforms(
        s.raw.get(f"/files/{t.result_files[0]}").json(), FileObject
    ),
    ("DELETE", "/files/{name}"): lambda s, t: conforms(
        s.raw.delete(f"/files/{uploaded(s)}").json(), FileDeleted
    ),
    ("GET", "/files/{name}/content"): lambda s, t: s.raw.get(
        f"/files/{t.result_files[0]}/content"
    ).content.startswith(b"step,"),
    ("POST", JOB): lambda s, t: created(s, t),
    ("GET", JOB): lambda s, t: jobs_of(s, JOB, limit=1),
    ("GET", f"{JOB}/{{name}}"): lambda s, t: conforms(
        s.raw.get(f"{JOB}/{t.id}").json(), FineTuningJob
    ),
    ("POST", f"{JOB}/{{name}}/cancel"): lambda s, t: ordered(s, "cancel"),
    ("POST", f"{JOB}/{{name}}/pause"): lambda s, t: ordered(s, "pause"),
    ("POST", f"{JOB}/{{name}}/resume"): lambda s, t: ordered(s, "resume"),
    ("GET", f"{JOB}/{{name}}/events"): lambda s, t: listed(
        s.raw.get(f"{JOB}/{t.id}/events", params={"limit": 99}).json(), FineTuningJobEvent
    ),
    ("GET", f"{JOB}/{{name}}/checkpoints"): lambda s, t: listed(
        s.raw.get(f"{JOB}/{t.id}/checkpoints").json(), FineTuningJobCheckpoint
    ),
}


def test_every_route_is_looked_at(tmp_path):
    service = Service(tmp_path, tmp_path, [], [], Access("127.0.0.1", None, 1), ())
    routes = {(route.method, route.path.removeprefix("/v1")) for route in service._routes()}
    service._batcher.close()
    service._state.close()
    assert routes == ANSWERS.keys()


@pytest.mark.parametrize("route", ANSWERS, ids=" ".join)
def test_an_answer_is_what_the_client_knows(server, trained, route):
    assert ANSWERS[route](server, trained)


def test_every_piece_of_a_stream_is_what_the_client_knows(server):
    response = asked(server, stream=True, n=2, stream_options={"include_usage": True})
    *events, end = response.text.strip().split("\n\n")
    chunks = [conforms(json.loads(event[6:]), ChatCompletionChunk) for event in events]
    assert end == "data: [DONE]"
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"] == []
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1


def test_an_error_amid_a_stream_is_what_the_client_knows():
    class News:
        async def next(self):
            raise ProtocolError(500, "The server had an error.", kind="server_error")

        def leave(self):
            pass

    async def events():
        request = chat.ChatRequest(model="x", messages=[USER])
        return [e async for e in chat._events(request, News(), (0, "piece"), whole=False)]

    with ThreadPoolExecutor(1) as thread:  # a browser's tests leave a loop running in this one
        *_, error, end = thread.submit(asyncio.run, events()).result()
    assert end == "data: [DONE]\n\n"

    class Response:
        status_code, text, headers = 500, error, {"content-type": "application/json"}

        def json(self):
            return json.loads(error[6:])

    assert refused(Response(), 500)["type"] == "server_error"
