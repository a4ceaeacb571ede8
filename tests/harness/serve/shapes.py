"""Answers against the client's own types, strictly, and the keys that the protocol requires."""

from __future__ import annotations

from typing import Any

from openai.types import FileDeleted, FileObject, Model, ModelDeleted
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from openai.types.responses import InputTokenCountResponse
from openai.types.shared import ErrorObject
from pydantic import BaseModel

REQUIRED: dict[type[BaseModel], str] = {
    ChatCompletion: "id object created model choices",
    ChatCompletionChunk: "id object created model choices",
    ErrorObject: "message type param code",
    FileDeleted: "id object deleted",
    FileObject: "id object bytes created_at filename purpose status",
    FineTuningJob: "id object created_at error fine_tuned_model finished_at hyperparameters model "
    "organization_id result_files seed status trained_tokens training_file validation_file",
    FineTuningJobCheckpoint: "id object created_at fine_tuned_model_checkpoint fine_tuning_job_id "
    "metrics step_number",
    FineTuningJobEvent: "id object created_at level message",
    InputTokenCountResponse: "object input_tokens",
    Model: "id object created owned_by",
    ModelDeleted: "id object deleted",
}


def conforms(value: Any, kind: type[BaseModel]) -> dict[str, Any]:
    """Return `value`, which is exactly what the client knows as `kind`."""
    assert set(REQUIRED[kind].split()) <= set(value)
    made = kind.model_validate(value, strict=True)
    refuse_extra(made)
    return dict(value)


def refuse_extra(made: Any) -> None:
    """No key of `made` is unknown to the client, however deep."""
    if isinstance(made, list):
        for one in made:
            refuse_extra(one)
    elif isinstance(made, BaseModel):
        assert not made.model_extra, made
        for name in type(made).model_fields:
            refuse_extra(getattr(made, name))


def listed(value: Any, kind: type[BaseModel]) -> list[dict[str, Any]]:
    """Return the objects of a page."""
    assert value["object"] == "list"
    assert isinstance(value["data"], list)
    if kind is not Model:
        assert isinstance(value["has_more"], bool)
        ends = [one["id"] for one in (value["data"][:1] + value["data"][-1:])] or ["", ""]
        assert [value["first_id"], value["last_id"]] == ends
    return [conforms(one, kind) for one in value["data"]]


def refused(response: Any, status: int) -> dict[str, Any]:
    """Return the error of a response."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error"]
    return conforms(response.json()["error"], ErrorObject)
