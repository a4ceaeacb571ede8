"""A fine-tuning job as services describe it: whatever the dialect, one record."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

_SUCCEEDED = frozenset(
    {"complete", "completed", "done", "finished", "success", "successful", "succeeded"}
)
_FAILED = frozenset(
    {
        "aborted",
        "dead",
        "deleted",
        "error",
        "errored",
        "expired",
        "failed",
        "failed_validation",
        "failure",
        "invalid",
        "rejected",
        "timed_out",
        "timeout",
        "user_error",
        "validation_failed",
    }
)
_CANCELLED = frozenset({"cancelled", "canceled", "killed", "stopped", "terminated"})
_PREFIX = re.compile(r"(job_)?(state|status)_")

_MODEL_KEYS = ("fine_tuned_model", "output_model", "model_output_name", "output_name")
_SUFFIX_KEYS = ("suffix", "user_provided_suffix")
_ERROR_KEYS = ("error", "failure_reason", "status_message", "message")

_LONGEST_NAME = 1_000
_MILLISECONDS = 1e11
"""Times above are in milliseconds: in seconds they would lie beyond the year 5000."""


class State(StrEnum):
    """What the status of a job means. A status that nobody knows is open: it is waited out."""

    OPEN = "open"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_dead(self) -> bool:
        """Whether the job ended without a model."""
        return self in (State.FAILED, State.CANCELLED)


def state_of(status: str) -> State:
    """Return what a status means, by the words of all services that speak the protocol."""
    word = _PREFIX.sub("", re.sub(r"[\s-]+", "_", status.strip().lower()), count=1)
    if word in _SUCCEEDED:
        return State.SUCCEEDED
    if word in _FAILED:
        return State.FAILED
    return State.CANCELLED if word in _CANCELLED else State.OPEN


@dataclass(frozen=True)
class Job:
    """A job; what its service does not say is empty, 0 or None.

    `status` is the service's own word, `created` and `finished` are seconds since 1970, `model`
    is the base and `fine_tuned_model` what came of it, `error` why it failed. `settings` are the
    hyperparameters and the seed that were asked for or chosen.
    """

    id: str
    status: str = ""
    model: str = ""
    fine_tuned_model: str = ""
    training_file: str = ""
    suffix: str = ""
    created: float = 0.0
    finished: float = 0.0
    error: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    result_files: tuple[str, ...] = ()
    trained_tokens: int | None = None

    @property
    def state(self) -> State:
        """What the status means."""
        return state_of(self.status)


def job_of(answer: Mapping[str, Any]) -> Job:
    """Return the job in an answer.

    Raises:
        ValueError: it names no job.

    """
    name = name_of(answer.get("id"))
    if not name:
        told = error_of(answer.get("error"))
        raise ValueError(f"it names no job{f': {told}' if told else ''}")
    return Job(
        id=name,
        status=_first(answer, ("status", "state")),
        model=name_of(answer.get("model")),
        fine_tuned_model=_first(answer, _MODEL_KEYS),
        training_file=name_of(answer.get("training_file")),
        suffix=_first(answer, _SUFFIX_KEYS),
        created=moment(answer.get("created_at")),
        finished=moment(answer.get("finished_at")),
        error=next((told for key in _ERROR_KEYS if (told := error_of(answer.get(key)))), ""),
        metadata={key: name_of(value) for key, value in _table(answer.get("metadata")).items()},
        settings=_settings(answer),
        result_files=tuple(_files(answer.get("result_files"))),
        trained_tokens=whole(answer.get("trained_tokens")) or None,
    )


def error_of(value: object) -> str:
    """Return the words of an error: a text, an object of the protocol, or a list of either."""
    if isinstance(value, list):
        return "; ".join(filter(None, map(error_of, value)))
    if isinstance(value, Mapping):
        words = [value.get(key) for key in ("code", "message", "param", "detail")]
        return ": ".join(str(word) for word in words if word)
    return value.strip() if isinstance(value, str) else ""


def name_of(value: object) -> str:
    """Return a name that a service gives; "" for what can be none: it is sent, shown and stored."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    name = str(value).strip()
    return name if name.isprintable() and len(name) <= _LONGEST_NAME else ""


def whole(value: object) -> int:
    """Return a count that a service gives; 0 where it gives none."""
    return int(value) if isinstance(value, int | float) and 0 <= value < 1e12 else 0


def loss(value: object) -> float | None:
    """Return a loss that a service gives; None where it gives none."""
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e12 else None


def moment(value: object) -> float:
    """Return a time in seconds since 1970: from seconds, milliseconds or ISO 8601; else 0."""
    if isinstance(value, str):
        with suppress(ValueError, OverflowError):
            found = datetime.fromisoformat(value.strip())
            return max(0.0, (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())
        return moment(float(value)) if re.fullmatch(r"\d{1,15}", value.strip()) else 0.0
    if not isinstance(value, int | float) or not 0 <= value < 1e14:
        return 0.0
    return value / 1000 if value > _MILLISECONDS else float(value)


def _settings(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters, from the top level or the method that was used, and the seed."""
    method = _table(answer.get("method"))
    used = _table(method.get(name_of(method.get("type"))))
    found = {**_table(answer.get("hyperparameters")), **_table(used.get("hyperparameters"))}
    return {**found, "seed": answer.get("seed")}


def _files(value: object) -> Iterator[str]:
    for file in value if isinstance(value, list) else [value]:
        if name := name_of(file.get("id") if isinstance(file, Mapping) else file):
            yield name


def _first(answer: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    return next((text for key in keys if (text := name_of(answer.get(key)))), "")


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
