"""Fine-tuning jobs: what is accepted, what is refused, what is told of them."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint

from .conftest import NUMBERS, QUICK, TRAINING, VALIDATION, WORDS, example, jsonl
from .shapes import conforms, listed, refused

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.py"))


def test_a_job_trains_a_model_that_answers(server, trained):
    assert trained.status == "succeeded"
    assert trained.fine_tuned_model == f"ft:{QUICK}:local:my-items:{trained.id[-8:]}"
    assert trained.hyperparameters.n_epochs == 2
    assert trained.hyperparameters.batch_size == 1
    assert trained.trained_tokens > 12 * 2 * 10
    prompt = example("kettle")["messages"][:-1]
    names = (trained.fine_tuned_model, QUICK)
    texts = {
        server.client.chat.completions.create(
            model=name, messages=prompt, temperature=0, max_tokens=12
        )
        .choices[0]
        .message.content
        for name in names
    }
    assert len(texts) == 2
    assert trained.fine_tuned_model in [model.id for model in server.client.models.list()]
    assert server.client.models.retrieve(trained.fine_tuned_model).owned_by == "local"


def test_every_answer_about_a_job_is_what_the_client_knows(server, trained):
    job = conforms(server.raw.get(f"/fine_tuning/jobs/{trained.id}").json(), FineTuningJob)
    assert job["error"] is None
    events = server.raw.get(f"/fine_tuning/jobs/{trained.id}/events", params={"limit": 100}).json()
    messages = [event["message"] for event in listed(events, FineTuningJobEvent)][::-1]
    assert messages[0] == f"Created fine-tuning job: {trained.id}"
    assert messages[-1] == "The job has successfully completed"
    metrics = [event["data"] for event in events["data"] if event["type"] == "metrics"]
    assert metrics[-1].keys() == {"step", "total_steps", "train_loss"}
    assert (metrics[-1]["step"], metrics[-1]["total_steps"]) == (1, 24)
    assert sum("valid_loss" in one for one in metrics) == 2
    listed(server.raw.get("/fine_tuning/jobs").json(), FineTuningJob)


def test_the_result_file_holds_the_losses_by_step(server, trained):
    [name] = trained.result_files
    assert server.client.files.retrieve(name).purpose == "fine-tune-results"
    rows = list(csv.DictReader(io.StringIO(server.client.files.content(name).text)))
    assert [row["step"] for row in rows] == [str(step) for step in range(1, 25)]
    assert all(float(row["train_loss"]) > 0 and not row["train_accuracy"] for row in rows)
    assert [row["step"] for row in rows if row["valid_loss"]] == ["12", "24"]


def test_the_checkpoint_is_the_state_that_was_kept_and_answers(server, trained):
    page = server.raw.get(f"/fine_tuning/jobs/{trained.id}/checkpoints").json()
    [checkpoint] = listed(page, FineTuningJobCheckpoint)
    rows = csv.DictReader(io.StringIO(server.client.files.content(trained.result_files[0]).text))
    best = min((row for row in rows if row["valid_loss"]), key=lambda r: float(r["valid_loss"]))
    assert checkpoint["step_number"] == int(best["step"])
    name = checkpoint["fine_tuned_model_checkpoint"]
    assert name == f"{trained.fine_tuned_model}:ckpt-step-{best['step']}"
    prompt = example("lamp")["messages"][:-1]
    replies = [
        server.client.chat.completions.create(
            model=one, messages=prompt, temperature=0, max_tokens=9
        ).choices[0]
        for one in (name, trained.fine_tuned_model)
    ]
    assert replies[0].message == replies[1].message


def test_the_same_recipe_is_not_trained_twice(server, trained):
    again = server.job(validation_file=server.upload(VALIDATION), hyperparameters=NUMBERS, seed=7)
    job = server.finished(again)
    assert job.status == "succeeded"
    assert job.fine_tuned_model != trained.fine_tuned_model
    assert "The same job was trained before: its model is used again" in server.messages(job.id)
    assert job.trained_tokens == trained.trained_tokens
    deleted = server.client.models.delete(job.fine_tuned_model)
    assert deleted.deleted
    refused(server.raw.get(f"/models/{job.fine_tuned_model}"), 404)


def test_jobs_are_found_by_their_metadata(server, trained):
    def found(**query):
        return [
            job["id"] for job in server.raw.get("/fine_tuning/jobs", params=query).json()["data"]
        ]

    assert found(**{"metadata[recipe]": "abc"}) == [trained.id]
    assert found(**{"metadata[recipe]": "abc", "metadata[team]": "lamps"}) == [trained.id]
    assert found(**{"metadata[recipe]": "other"}) == []
    assert found(**{"metadata[recipe]": ""}) == []
    assert trained.id not in found(metadata="null")
    client = server.client.fine_tuning.jobs
    assert [job.id for job in client.list(metadata={"recipe": "abc"})] == [trained.id]


def test_events_are_read_page_by_page(server, trained):
    everything = server.messages(trained.id)
    client = server.client.fine_tuning.jobs
    assert [event.message for event in client.list_events(trained.id, limit=5)] == everything
    assert len(client.list_events(trained.id, limit=5).data) == 5
    refused(server.raw.get(f"/fine_tuning/jobs/{trained.id}/events", params={"after": "x"}), 400)
    refused(server.raw.get("/fine_tuning/jobs", params={"limit": "many"}), 400)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_fine_tuning_script_works_with_another_address(server, trained, tmp_path, script):
    (tmp_path / "train.jsonl").write_bytes(TRAINING)
    (tmp_path / "validation.jsonl").write_bytes(VALIDATION)
    done = subprocess.run(
        [sys.executable, script, "train.jsonl", "validation.jsonl"],
        cwd=tmp_path,
        env={**os.environ, "OPENAI_BASE_URL": server.api, "OPENAI_API_KEY": "sk-none"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "status succeeded" in done.stdout
    assert "answer" in done.stdout
    if script.stem == "polling_2023":
        assert "The job has successfully completed" in done.stdout
        assert "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy" in done.stdout


WRONG_REQUESTS = {
    "no such model": ({"model": "gpt-nope"}, "model"),
    "no such file": ({"training_file": "file-none"}, "training_file"),
    "no such validation file": ({"validation_file": "file-none"}, "validation_file"),
    "no model": ({"model": None}, "model"),
    "preference": ({"method": {"type": "dpo", "dpo": {}}}, "method.type"),
    "no epochs": ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs"),
    "a word": ({"hyperparameters": {"n_epochs": "many"}}, "hyperparameters.n_epochs"),
    "unknown number": ({"hyperparameters": {"rank": 8}}, "hyperparameters.rank"),
    "long suffix": ({"suffix": "x" * 65}, "suffix"),
    "much metadata": ({"metadata": {str(n): "x" for n in range(17)}}, "metadata"),
    "integration": ({"integrations": [{"type": "wandb"}]}, "integrations"),
}


@pytest.mark.parametrize("name", WRONG_REQUESTS)
def test_a_wrong_request_makes_no_job(server, name):
    change, param = WRONG_REQUESTS[name]
    before = server.raw.get("/fine_tuning/jobs").json()
    body = {"model": QUICK, "training_file": server.upload(), **change}
    error = refused(server.raw.post("/fine_tuning/jobs", json=body), 400)
    assert error["param"] == param
    assert server.raw.get("/fine_tuning/jobs").json() == before


def test_a_file_for_something_else_makes_no_job(server):
    other = server.client.files.create(file=("a.jsonl", TRAINING), purpose="user_data").id
    refused(
        server.raw.post("/fine_tuning/jobs", json={"model": QUICK, "training_file": other}), 400
    )


def test_an_unknown_job_is_not_found(server):
    for path in ("", "/events", "/checkpoints"):
        refused(server.raw.get(f"/fine_tuning/jobs/ftjob-none{path}"), 404)
    for order in ("cancel", "pause", "resume"):
        refused(server.raw.post(f"/fine_tuning/jobs/ftjob-none/{order}"), 404)


def changed(**change):
    return [*(example(word) for word in WORDS), {**example("lamp"), **change}]


def turn(role, content="x", **more):
    return {"role": role, "content": content, **more}


BAD_FILES = {
    "few": (jsonl([example(word) for word in WORDS[:9]]), "invalid_n_examples", "at least 10"),
    "empty": (b"\n\n", "invalid_n_examples", "0 example"),
    "no JSON": (TRAINING + b"{nope\n", "invalid_file_format", "Line 13"),
    "no object": (TRAINING + b"[]\n", "invalid_file_format", "Line 13"),
    "no UTF-8": (TRAINING + b"\xff\n", "invalid_file_format", "Line 13"),
    "no messages": (jsonl(changed(messages=None)), "invalid_file_format", "Line 11"),
    "unknown key": (jsonl(changed(colour="a")), "invalid_file_format", "'colour'"),
    "no answer": (jsonl(changed(messages=[turn("user")])), "invalid_file_format", "last message"),
    "no question": (jsonl(changed(messages=[turn("assistant")])), "invalid_file_format", "user"),
    "unknown role": (
        jsonl(changed(messages=[turn("bob"), turn("assistant")])),
        "invalid_file_format",
        "'bob'",
    ),
    "no content": (
        jsonl(changed(messages=[turn("user", None), turn("assistant")])),
        "invalid_file_format",
        "no text",
    ),
    "bad weight": (
        jsonl(changed(messages=[turn("user"), turn("assistant", weight=2)])),
        "invalid_file_format",
        "weight",
    ),
    "nothing to learn": (
        jsonl(changed(messages=[turn("user"), turn("assistant", weight=0)])),
        "invalid_file_format",
        "nothing to learn",
    ),
    "a tool": (jsonl(changed(tools=[{"type": "function"}])), "invalid_file_format", "tools"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_fails_its_job_and_says_where(server, name):
    content, code, said = BAD_FILES[name]
    job = server.finished(server.job(content))
    assert job.status == "failed"
    assert (job.error.code, job.error.param) == (code, "training_file")
    assert said in job.error.message
    assert server.messages(job.id)[0] == job.error.message
    conforms(server.raw.get(f"/fine_tuning/jobs/{job.id}").json(), FineTuningJob)
    refused(server.raw.post(f"/fine_tuning/jobs/{job.id}/cancel"), 400)


def test_rows_of_this_project_are_taken_without_what_only_it_knows(server):
    own = {"id": "a", "tags": ["x"], "cluster": "c", "tools": None, "colour": None}
    rows = [{**example(word), **own} for word in WORDS]
    rows[0]["messages"][0]["name"] = rows[0]["messages"][2]["weight"] = None
    job = server.job(jsonl([*rows, example("lamp")]), validation_file=server.upload(b"{}"))
    assert server.finished(job).error.param == "validation_file"  # what trains nothing
    assert (
        "The training file has keys that are not trained on and are ignored: "
        "'cluster' (10 line(s)), 'id' (10 line(s)), 'tags' (10 line(s))"
    ) in server.messages(job.id)


NAMED = {
    "tools": ({"tools": [{"type": "function"}]}, "'tools'"),
    "functions": ({"functions": [{}]}, "'functions'"),
    "a call": (
        {"messages": [turn("user"), turn("assistant", None, tool_calls=[{"id": "1"}])]},
        "messages[1] has 'tool_calls'",
    ),
    "a result": (
        {"messages": [turn("user"), turn("tool", tool_call_id="1"), turn("assistant")]},
        "messages[1] has the role 'tool'",
    ),
    "an image": (
        {"messages": [turn("user", [{"type": "image_url"}]), turn("assistant")]},
        "messages[0] has a part that is no text",
    ),
    "a weight of the question": (
        {"messages": [turn("user", weight=0), turn("assistant")]},
        "messages[0] has a weight of 0",
    ),
    "a yes": (
        {"messages": [turn("user"), turn("assistant", weight=True)]},
        "messages[1] has a weight",
    ),
    "a list as a role": (
        {"messages": [turn("user"), turn(["user"])]},
        "messages[1] has the unknown role",
    ),
}


@pytest.mark.parametrize("name", NAMED)
def test_what_is_not_trained_is_refused_by_its_name(name):
    from harness.serve import examples

    row, said = NAMED[name]
    with pytest.raises(examples.BadFile, match=re.escape(said)):
        examples.read(jsonl([row]), 1)


def test_each_answer_of_weight_one_is_learnt_with_all_that_stands_before_it():
    from harness.serve import examples

    talk = [
        turn("system", "s"),
        turn("assistant", "hello"),
        turn("user", "a"),
        turn("assistant", "b", weight=0),
        turn("user", [{"type": "text", "text": "c"}]),
        turn("assistant", "d"),
        turn("user", "e"),
        turn("assistant", "f", weight=1),
    ]
    found = list(examples.rows(examples.read(jsonl([{"messages": talk}]), 1).conversations))
    assert [[m["content"] for m in row["messages"]] for row in found] == [
        ["s", "hello", "a", "b", "c", "d"],
        ["s", "hello", "a", "b", "c", "d", "e", "f"],
    ]
    assert {key for row in found for m in row["messages"] for key in m} == {"role", "content"}
    assert json.dumps(found)
