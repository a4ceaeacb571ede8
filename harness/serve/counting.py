"""`POST /v1/responses/input_tokens`: how many tokens a conversation has, before it costs any."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from harness.records import HarnessError, Message, ModelSpec
from harness.serve.wire import Asked, Ignored, ProtocolError, Unsupported, Wire

if TYPE_CHECKING:
    from pathlib import Path

    from harness.serve.catalog import Served

LENGTH = 2_048
"""Tokens of an example that a training reads."""


class Part(Asked):
    """A part of a message that is text."""

    type: Literal["input_text", "output_text", "text"]
    text: str


class Item(Asked):
    """One message."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[Part], Field(min_length=1)]

    @property
    def plain(self) -> Message:
        """The message as a chat template takes it."""
        parts = self.content if isinstance(self.content, list) else None
        text = "".join(part.text for part in parts) if parts is not None else self.content
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class CountRequest(Asked):
    """The body of a request."""

    model: str
    input: str | Annotated[list[Item], Field(min_length=1)]
    instructions: str | None = None
    tools: Unsupported = None
    conversation: Unsupported = None
    personality: Unsupported = None
    previous_response_id: Unsupported = None
    parallel_tool_calls: Ignored = None
    reasoning: Ignored = None
    text: Ignored = None
    tool_choice: Ignored = None
    truncation: Ignored = None

    @property
    def messages(self) -> list[Message]:
        """The conversation as a chat template takes it."""
        first = [{"role": "system", "content": self.instructions}] if self.instructions else []
        if isinstance(self.input, str):
            return [*first, {"role": "user", "content": self.input}]
        return [*first, *(item.plain for item in self.input)]


def count(asked: CountRequest, served: Served, root: Path) -> Wire:
    """Return the tokens of a conversation: as a training bills it where it ends in an answer.

    Raises:
        ProtocolError: the model's chat template refuses the conversation.

    """
    try:
        tokens = _tokens(asked.messages, served.spec, root)
    except HarnessError as problem:
        raise ProtocolError(400, f"Invalid value for 'input': {problem}", param="input") from None
    return {"object": "response.input_tokens", "input_tokens": tokens}


def _tokens(messages: list[Message], spec: ModelSpec, root: Path) -> int:
    from harness.data.jsonl import Row
    from trainers.local import encode, prompt_of

    answered = messages[-1]["role"] == "assistant"
    # A prompt is what stands before an answer.
    whole = tuple(messages) if answered else (*messages, {"role": "assistant", "content": ""})
    row = Row(1, "input", whole, (), None, (), "input")
    tokenizer = _tokenizer(spec.spec, spec.revision, root)
    if not answered:
        return len(prompt_of(row, tokenizer))
    return sum(len(example.input_ids) for example in encode([row], tokenizer, LENGTH))


@lru_cache(maxsize=8)
def _tokenizer(spec: str, revision: str | None, root: Path) -> Any:
    from transformers import AutoTokenizer

    from trainers.base import find_base

    base = find_base(spec, root, revision)
    return AutoTokenizer.from_pretrained(
        base.source, revision=base.revision, trust_remote_code=False
    )
