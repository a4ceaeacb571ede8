"""Every field of the published protocol is taken or refused by its own name; null is no value."""

from typing import Any, get_type_hints

import pytest
from openai.types import file_create_params
from openai.types.chat import (
    ChatCompletionAssistantMessageParam,
    ChatCompletionContentPartTextParam,
    ChatCompletionDeveloperMessageParam,
    ChatCompletionStreamOptionsParam,
    ChatCompletionSystemMessageParam,
    ChatCompletionToolMessageParam,
    ChatCompletionUserMessageParam,
    completion_create_params,
)
from openai.types.fine_tuning import (
    SupervisedHyperparametersParam,
    SupervisedMethodParam,
    job_create_params,
)
from openai.types.responses import input_token_count_params

from .conftest import QUICK, TRAINING
from .shapes import refused

USER = {"role": "user", "content": "my lamp is broken"}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}

TAKEN: dict[str, Any] = {
    "max_completion_tokens": 1,
    "max_tokens": 1,
    "metadata": {"team": "lamps"},
    "modalities": ["text"],
    "n": 1,
    "parallel_tool_calls": False,
    "prediction": {"type": "content", "content": "my"},
    "prompt_cache_key": "lamps",
    "prompt_cache_options": {"mode": "explicit"},
    "prompt_cache_retention": "24h",
    "response_format": {"type": "text"},
    "safety_identifier": "someone",
    "seed": 1,
    "service_tier": "auto",
    "stop": ["."],
    "store": True,
    "stream": False,
    "stream_options": {"include_usage": True},
    "temperature": 0.5,
    "top_p": 0.5,
    "user": "someone",
}
REFUSED: dict[str, Any] = {
    "audio": {"format": "mp3", "voice": "ash"},
    "frequency_penalty": 0.5,
    "function_call": {"name": "look"},
    "functions": [{"name": "look"}],
    "logit_bias": {"5": 1},
    "logprobs": True,
    "moderation": {"model": "omni"},
    "presence_penalty": 0.5,
    "reasoning_effort": "low",
    "tool_choice": "required",
    "tools": [{"type": "custom", "custom": {"name": "look"}}],
    "top_logprobs": 2,
    "verbosity": "low",
    "web_search_options": {},
}
NOTHING: dict[str, Any] = {
    "frequency_penalty": 0,
    "function_call": "auto",
    "functions": [],
    "logit_bias": {},
    "logprobs": False,
    "presence_penalty": 0,
    "reasoning_effort": "none",
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "verbosity": "medium",
}
"""What those fields say where they ask for nothing."""


def fields(*kinds):
    return {name for kind in kinds for name in get_type_hints(kind)}


CHAT = fields(
    completion_create_params.CompletionCreateParamsNonStreaming,
    completion_create_params.CompletionCreateParamsStreaming,
) - {"messages", "model"}


def post(server, path="/chat/completions", **change):
    asked = {"model": QUICK, "messages": [USER], "max_tokens": 1, **change}
    return server.raw.post(path, json=asked)


def test_every_published_field_of_a_chat_is_known_here():
    assert TAKEN.keys() | REFUSED.keys() == CHAT


@pytest.mark.parametrize("values", [TAKEN, NOTHING], ids=["taken", "asking for nothing"])
def test_what_can_be_done_is_taken(server, values):
    response = post(server, **values)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_done_is_refused_by_its_name(server, name):
    error = refused(post(server, **{name: REFUSED[name]}), 400)
    assert error["param"].split(".")[0] == name
    assert f"'{name}" in error["message"]


WITH_OTHERS = {
    "a forced tool": ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice"),
    "a named tool": ({"tool_choice": {"type": "function"}, "tools": [TOOL]}, "tool_choice"),
    "a strict tool": (
        {"tools": [{**TOOL, "function": {"name": "look", "strict": True}}]},
        "tools.0.function.strict",
    ),
    "a forced tool that cannot be one": (
        {"tool_choice": "required", "tools": [{"type": "web_search"}]},
        "tools.0.type",
    ),
    "a tool that the template leaves out": ({"tools": [TOOL]}, "tools"),
    "JSON beside tools": (
        {"tools": [TOOL], "response_format": {"type": "json_object"}},
        "response_format",
    ),
    "one call at a time": (
        {"tools": [TOOL], "parallel_tool_calls": False},
        "parallel_tool_calls",
    ),
    "a forced function": ({"functions": [{}], "function_call": {"name": "look"}}, "functions"),
    "a schema": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
        "response_format.type",
    ),
    "how likely": ({"logprobs": True, "top_logprobs": 5}, "logprobs"),
    "aloud": ({"modalities": ["text", "audio"], "audio": {"voice": "ash"}}, "audio"),
    "two unknown keys": ({"colour": "red", "shape": "round"}, "colour"),
    "an unknown key that is no name": ({"to-do": 1}, "to-do"),
    "messages before others": ({"messages": [{"role": "bob"}], "n": 0}, "messages.0.role"),
    "the first message": (
        {"messages": [{"role": "user", "content": 1}, {"role": "bob"}]},
        "messages.0.content",
    ),
    "a call": (
        {"messages": [USER, {"role": "assistant", "tool_calls": [{"id": "1", "type": "custom"}]}]},
        "messages.1.tool_calls.0.type",
    ),
}


@pytest.mark.parametrize("name", WITH_OTHERS)
def test_the_field_that_is_to_blame_is_named(server, name):
    change, param = WITH_OTHERS[name]
    assert refused(post(server, **change), 400)["param"] == param


def test_null_is_the_same_as_left_out(server):
    nulls = dict.fromkeys([*CHAT - {"max_tokens"}, "foo", "guided_json"])
    assert post(server, **nulls).status_code == 200
    for key in ("messages", "model"):
        error = refused(post(server, **{key: None}), 400)
        assert (error["param"], error["code"]) == (key, "missing_required_parameter")


PARTS = fields(ChatCompletionContentPartTextParam) - {"type", "text"}
MESSAGES = {
    "system": ChatCompletionSystemMessageParam,
    "developer": ChatCompletionDeveloperMessageParam,
    "user": ChatCompletionUserMessageParam,
    "assistant": ChatCompletionAssistantMessageParam,
    "tool": ChatCompletionToolMessageParam,
}


@pytest.mark.parametrize("role", MESSAGES)
def test_null_in_a_message_is_the_same_as_left_out(server, role):
    part = {"type": "text", "text": "x", **dict.fromkeys([*PARTS, "foo"])}
    nulls = dict.fromkeys([*fields(MESSAGES[role]), "foo"])
    message = {**nulls, "role": role, "content": [part]}
    options = dict.fromkeys([*fields(ChatCompletionStreamOptionsParam), "foo"])
    response = post(server, messages=[message, USER], stream_options=options, foo=None)
    # The template of the model knows no other roles; what matters is that no field is blamed.
    assert response.status_code == 200 or refused(response, 400)["param"] == "messages"


JOB_TAKEN: dict[str, Any] = {
    "hyperparameters": {"n_epochs": 1},
    "integrations": [],
    "metadata": {"team": "lamps"},
    "method": {"type": "supervised", "supervised": {"hyperparameters": {"batch_size": "auto"}}},
    "seed": 1,
    "suffix": "mine",
    "validation_file": "file-none",
}
JOB_REFUSED: dict[str, Any] = {
    "integrations": ([{"type": "wandb", "wandb": {"project": "x"}}], "integrations"),
    "method": ({"type": "reinforcement", "reinforcement": {}}, "method.type"),
    "a method beside": ({"type": "supervised", "dpo": {"hyperparameters": {}}}, "method.dpo"),
    "no method": ({"supervised": {}}, "method.type"),
    "hyperparameters": ({"n_epochs": 0.5}, "hyperparameters.n_epochs"),
    "metadata": ({"team": 1}, "metadata.team"),
    "seed": (-1, "seed"),
    "suffix": ("x" * 65, "suffix"),
    "validation_file": (1, "validation_file"),
}
JOB = fields(job_create_params.JobCreateParams) - {"model", "training_file"}


def job(server, **change):
    """Ask for a job whose training file is not there: nothing else may be wrong with it."""
    asked = {"model": QUICK, "training_file": "file-none", **change}
    return refused(server.raw.post("/fine_tuning/jobs", json=asked), 400)


def test_every_published_field_of_a_job_is_taken(server):
    assert JOB_TAKEN.keys() == JOB
    assert job(server, **JOB_TAKEN)["param"] == "training_file"


@pytest.mark.parametrize("name", JOB_REFUSED)
def test_what_a_job_cannot_do_is_refused_by_its_name(server, name):
    value, param = JOB_REFUSED[name]
    assert job(server, **{param.split(".")[0]: value})["param"] == param


def test_null_in_a_job_is_the_same_as_left_out(server):
    numbers = dict.fromkeys([*fields(SupervisedHyperparametersParam), "foo"])
    supervised = dict.fromkeys([*fields(SupervisedMethodParam), "foo"])
    methods = dict.fromkeys([*fields(job_create_params.Method), "foo"])
    for change in (
        dict.fromkeys([*JOB, "foo"]),
        {"hyperparameters": numbers},
        {"method": {**methods, "type": "supervised"}},
        {"method": {**methods, "type": "supervised", "supervised": supervised}},
    ):
        assert job(server, **change)["param"] == "training_file"


COUNT = fields(input_token_count_params.InputTokenCountParams) - {"input", "model"}
COUNT_REFUSED = {
    "conversation": "conv_1",
    "personality": "friendly",
    "previous_response_id": "resp_1",
    "tools": [TOOL],
}


def test_every_published_field_of_a_count_is_taken_or_refused_by_its_name(server):
    asked = {"model": QUICK, "input": "my lamp"}
    nulls = dict.fromkeys([*COUNT, "foo"])
    counted = server.raw.post("/responses/input_tokens", json={**asked, **nulls})
    assert counted.status_code == 200, counted.text
    for name in COUNT:
        value = COUNT_REFUSED.get(name, "auto")
        response = server.raw.post("/responses/input_tokens", json={**asked, name: value})
        if name in COUNT_REFUSED:
            assert refused(response, 400)["param"] == name
        else:
            assert response.status_code == 200, name


def test_every_published_field_of_an_upload_is_taken_or_refused_by_its_name(server):
    assert fields(file_create_params.FileCreateParams) == {"file", "purpose", "expires_after"}
    files = {"file": ("a.jsonl", TRAINING)}
    life = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    data = {"purpose": "batch", **life}
    assert server.raw.post("/files", files=files, data=data).status_code == 200
    for change, param in (
        ({"purpose": "evals"}, "purpose"),  # a file that the client itself does not know
        ({"expires_after[anchor]": "last_active_at"}, "expires_after.anchor"),
        ({"expires_after[seconds]": "9" * 5_000}, "expires_after.seconds"),
        ({"colour": "red"}, "colour"),
    ):
        response = server.raw.post("/files", files=files, data={**data, **change})
        assert refused(response, 400)["param"] == param
