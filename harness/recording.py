"""A recording: what a model replied to cases, as one sealed JSONL file.

The first line says what it is, then there is one line per reply, and the last line holds the
SHA-256 of all bytes before it: a file with one changed byte is refused. The file is ASCII, so that
no reply can hide or reorder text in a review.

Replies are always scored again with today's checks. The scores of a line say what the checks found
when the run was stored: they are for reviewers, and would serve where a check cannot run; no such
check exists, so nothing reads them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.data.jsonl import key_path
from harness.files import read_file
from harness.records import (
    Arm,
    EvidenceError,
    HarnessError,
    ModelSpec,
    Recorded,
    RecordedScore,
    Reply,
    Sampling,
    digest_of,
    strict_json,
)

FORMAT = "harness-recording"
VERSION = 1

_MARK = f'{{"format": "{FORMAT}", '.encode()
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True)
class Recording:
    """Replies of one model.

    `model` is its `provider:target`, `name` what it was called, `fingerprint` that of a trained
    candidate (else empty), `prompt` the digest of its system message, template and few-shot
    examples, `made` when the replies were asked (ISO 8601), `source` the file of cases or the run
    that they come from. `thinking` is "keep" where it was part of the answers, else "strip".
    """

    model: str
    name: str
    fingerprint: str
    sampling: Sampling
    prompt: str
    made: str
    source: str
    replies: tuple[Recorded, ...]
    thinking: str = "strip"

    @property
    def about(self) -> str:
        """What it is, in a few words for people."""
        made = f"made on {self.made[:10]}, temperature {self.sampling.temperature:g}"
        return f"{self.model} {made} ({self.source})"


def recording_of(arm: Arm, replies: Iterable[Recorded], *, made: str, source: str) -> Recording:
    """Return the recording of what `arm` replied."""
    spec = arm.spec
    return Recording(
        model=_public_name(spec),
        name=arm.name,
        fingerprint=arm.fingerprint,
        sampling=spec.sampling,
        prompt=digest_of([spec.system, spec.template, [dict(turn) for turn in spec.few_shot]]),
        made=made,
        source=source,
        replies=tuple(replies),
        thinking="keep" if spec.thinking == "keep" else "strip",
    )


def _public_name(spec: ModelSpec) -> str:
    """Name a model without this machine's paths."""
    path = Path(spec.target)
    return f"{spec.provider}:{path.name}" if path.is_absolute() else spec.spec


# ---------------------------------------------------------------------- write


def write(recording: Recording, path: Path) -> None:
    """Write `recording` to `path`, whole or not at all; an existing file is replaced.

    Raises:
        HarnessError: the file cannot be written, or a reply cannot be kept as strict JSON.

    """
    content = dumps(recording)
    loads(content, str(path))
    replace_file(path, content)


def replace_file(path: Path, content: bytes) -> None:
    """Put `content` at `path` in one step; HarnessError if that is not possible."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as problem:
        partial.unlink(missing_ok=True)
        raise HarnessError(
            f"{path}: it cannot be written: {problem.strerror}; choose another file"
        ) from None


def dumps(recording: Recording) -> bytes:
    """Return the content of the file; the replies are sorted, so that reviews see what changed."""
    head = {
        "format": FORMAT,
        "version": VERSION,
        "model": recording.model,
        "name": recording.name,
        "fingerprint": recording.fingerprint,
        "sampling": asdict(recording.sampling),
        "prompt": recording.prompt,
        "made": recording.made,
        "source": recording.source,
        # Earlier versions do not know it, and read all other recordings.
        **({"thinking": "keep"} if recording.thinking == "keep" else {}),
    }
    ordered = sorted(recording.replies, key=lambda one: (one.suite, one.id, one.trial))
    lines = [json.dumps(line, allow_nan=False) for line in (head, *map(_line, ordered))]
    body = "".join(f"{line}\n" for line in lines).encode()
    return body + _seal(body)


def _seal(body: bytes) -> bytes:
    return f'{{"sha256": "{hashlib.sha256(body).hexdigest()}"}}\n'.encode()


def _line(one: Recorded) -> dict[str, Any]:
    reply = {
        entry.name: value
        for entry in fields(Reply)
        if (value := getattr(one.reply, entry.name)) != entry.default
    }
    scores = {metric: asdict(score) for metric, score in sorted(one.scores.items())}
    return {
        **({"suite": one.suite} if one.suite else {}),
        "id": one.id,
        "digest": one.digest,
        "trial": one.trial,
        "reply": reply,
        **({"scores": scores} if scores else {}),
    }


# ---------------------------------------------------------------------- read


def read(path: Path, where: str) -> Recording:
    """Return the recording in the file `path`, which sentences call `where`.

    Raises:
        HarnessError: there is no such file, it is no recording, of another version or holds
            something else than replies.
        EvidenceError: its bytes are not those that were written.

    """
    try:
        content = read_file(path)
    except FileNotFoundError:
        raise HarnessError(f"{where}: there is no such recording; correct the path") from None
    except (OSError, ValueError) as problem:
        raise HarnessError(f"{where}: it cannot be read: {problem}; correct the path") from None
    return loads(content, where)


def loads(content: bytes, where: str) -> Recording:
    """Return the recording with this content; see `read`."""
    if not content.startswith(_MARK):
        raise HarnessError(
            f"{where}: it is no recording; make one with `harness record` or "
            "`harness baseline save`"
        )
    body = content[: content.rstrip(b"\n").rfind(b"\n") + 1]
    if content != body + _seal(body):
        raise EvidenceError(
            f"{where}: the recording is not as it was written (its digest differs); "
            "take the file from version control, or record the model again"
        )
    head, *lines = body.removesuffix(b"\n").split(b"\n")
    about = _checked(_Head, head, f"{where}:1")
    replies = tuple(_replies(lines, where))
    if not replies:
        raise HarnessError(f"{where}: the recording holds no reply; record the model again")
    return Recording(
        model=about.model,
        name=about.name,
        fingerprint=about.fingerprint,
        sampling=Sampling(**about.sampling.model_dump()),
        prompt=about.prompt,
        made=about.made,
        source=about.source,
        replies=replies,
        thinking=about.thinking,
    )


def thinking_of(path: Path) -> str:
    """Return how the recording in the file `path` is scored, "keep" or "strip"; see `Recording`.

    It is not checked: where there is none, or a damaged one, that is "strip".
    """
    try:
        head = read_file(path).partition(b"\n")[0]
        return _Head.model_validate(strict_json(head.decode())).thinking
    except (OSError, ValueError):
        return "strip"


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


_Kind = TypeVar("_Kind", bound=_Strict)


class _Sampling(_Strict):
    temperature: float
    max_tokens: int
    seed: int


class _Head(_Strict):
    format: Literal["harness-recording"]
    version: Literal[1]
    model: str
    name: str
    fingerprint: str
    sampling: _Sampling
    prompt: _Digest
    made: str
    source: str
    thinking: Literal["keep", "strip"] = "strip"


class _Score(_Strict):
    value: float | None
    passed: bool | None
    check: str


class _Line(_Strict):
    suite: str = ""
    id: Annotated[str, Field(min_length=1)]
    digest: _Digest
    trial: Annotated[int, Field(ge=0)]
    reply: dict[str, Any]
    scores: dict[str, _Score] = {}


def _replies(lines: list[bytes], where: str) -> Iterator[Recorded]:
    first: dict[tuple[str, str, int], int] = {}
    for number, text in enumerate(lines, start=2):
        one = _recorded(_checked(_Line, text, f"{where}:{number}"), f"{where}:{number}")
        earlier = first.setdefault((one.suite, one.id, one.trial), number)
        if earlier != number:
            raise HarnessError(
                f"{where}:{number}: the case {one.id!r} stands in line {earlier} already; "
                "record the model again"
            )
        yield one


def _recorded(line: _Line, source: str) -> Recorded:
    try:
        reply = _reply(line.reply)
    except (TypeError, ValueError) as problem:
        raise HarnessError(f"{source}: {problem}; record the model again") from None
    scores = {name: RecordedScore(**score.model_dump()) for name, score in line.scores.items()}
    return Recorded(line.id, line.digest, reply, line.suite, line.trial, scores)


def _reply(values: Mapping[str, Any]) -> Reply:
    known = {entry.name for entry in fields(Reply)} - {"error"}
    if unknown := sorted(set(values) - known):
        raise ValueError(f"a recorded reply has no {unknown[0]!r}")
    calls = values.get("tool_calls", [])
    if not isinstance(calls, list):
        raise ValueError("a reply's tool_calls are a list")
    return Reply(**{**values, "tool_calls": tuple(calls)})


def _checked(kind: type[_Kind], line: bytes, source: str) -> _Kind:
    try:
        return kind.model_validate(strict_json(line.decode()))
    except ValidationError as problem:
        error = problem.errors()[0]
        reason = key_path(error["loc"]) + f": {error['msg']}"
    except ValueError as problem:
        reason = f"the line is no valid JSON: {problem}"
    raise HarnessError(f"{source}: {reason}; record the model with this version of the program")
