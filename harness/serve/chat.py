"""`POST /v1/chat/completions`."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, JsonValue

from harness.records import Message, ModelSpec, Reply, Sampling
from harness.serve.wire import Asked, ProtocolError, Wire, new_id, now

if TYPE_CHECKING:
    from concurrent.futures import Future

    from harness.models.guide import Wish
    from harness.serve.batching import Batcher
    from harness.serve.catalog import Served

USUAL_TOKENS = 1_024
"""Tokens of a reply whose request sets no limit: a small model may find no end."""

COLDEST = 1e-4
"""Temperatures below are greedy: they leave nothing to chance, and numbers overflow."""

Tokens = Annotated[int, Field(ge=1)]
Ignored = JsonValue
"""What changes nothing in the answer of a model on this machine."""


def _refused(value: JsonValue) -> JsonValue:
    if value:
        raise ValueError("models on this machine do not support it, leave it out")
    return value


Unsupported = Annotated[JsonValue, AfterValidator(_refused)]
"""What would change the answer and cannot be done; a value that asks for nothing is let in."""


class TextPart(Asked):
    """A part of a message that is text."""

    type: Literal["text"]
    text: str


class ChatMessage(Asked):
    """One message."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: Ignored = None
    refusal: Ignored = None
    tool_call_id: Ignored = None
    annotations: Ignored = None
    audio: Unsupported = None
    function_call: Unsupported = None
    tool_calls: Unsupported = None

    @property
    def plain(self) -> Message:
        """The message as a chat template takes it."""
        parts = self.content if isinstance(self.content, list) else None
        text = "".join(part.text for part in parts) if parts is not None else self.content or ""
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(Asked):
    """What a stream has beside the text."""

    include_usage: bool = False
    include_obfuscation: bool = False


class ResponseFormat(Asked):
    """`json_object` makes the reply a JSON object."""

    type: Literal["text", "json_object"]


class ChatRequest(Asked):
    """The body of a request."""

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: int | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    response_format: ResponseFormat | None = None
    frequency_penalty: Unsupported = None
    functions: Unsupported = None
    logit_bias: Unsupported = None
    logprobs: Unsupported = None
    presence_penalty: Unsupported = None
    tools: Unsupported = None
    top_logprobs: Unsupported = None
    tool_choice: Literal["none", "auto"] | None = None
    modalities: list[Literal["text"]] | None = None
    metadata: Ignored = None
    parallel_tool_calls: Ignored = None
    prompt_cache_key: Ignored = None
    safety_identifier: Ignored = None
    service_tier: Ignored = None
    store: Ignored = None
    user: Ignored = None

    @property
    def choices(self) -> int:
        """How many replies are wanted."""
        return self.n or 1

    @property
    def sampling(self) -> Sampling:
        """How the replies are drawn; without a seed the draws are new each time."""
        temperature = 1.0 if self.temperature is None else self.temperature
        return Sampling(
            temperature=temperature if temperature >= COLDEST else 0.0,
            max_tokens=self.max_completion_tokens or self.max_tokens or USUAL_TOKENS,
            seed=secrets.randbits(62) if self.seed is None else self.seed,
        )

    def wish(self) -> Wish:
        """What is wanted of each reply."""
        from harness.models.guide import Wish

        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        wants_json = self.response_format is not None and self.response_format.type != "text"
        top_p = 1.0 if self.top_p is None else self.top_p
        return Wish(top_p, tuple(filter(None, stop)), wants_json)


@dataclass(frozen=True)
class _Call:
    """One request on its way to one model."""

    asked: ChatRequest
    served: Served
    batcher: Batcher

    def start(self, wishes: list[Wish]) -> list[Future[Reply]]:
        from harness.calls import prompt

        messages = prompt(self.served.spec, [message.plain for message in self.asked.messages])
        return self.batcher.ask(self._spec, messages, self.asked.choices, wishes)

    @property
    def _spec(self) -> ModelSpec:
        return replace(self.served.spec, sampling=self.asked.sampling)


async def complete(asked: ChatRequest, served: Served, batcher: Batcher) -> Wire:
    """Return the whole answer.

    Raises:
        ProtocolError: the model cannot be asked, or not this.

    """
    call = _Call(asked, served, batcher)
    futures = call.start([asked.wish()] * asked.choices)
    replies = [_good(reply) for reply in await asyncio.gather(*map(asyncio.wrap_future, futures))]
    return {
        **_head("chat.completion", asked.model),
        "choices": [_choice(index, reply) for index, reply in enumerate(replies)],
        "usage": _usage(replies),
    }


def _head(kind: str, model: str) -> Wire:
    return {"id": new_id("chatcmpl-"), "object": kind, "created": now(), "model": model}


def _choice(index: int, reply: Reply) -> Wire:
    return {
        "index": index,
        "message": {"role": "assistant", "content": reply.text, "refusal": None},
        "logprobs": None,
        "finish_reason": reply.finish_reason,
    }


def _usage(replies: list[Reply]) -> Wire:
    """Count the prompt once, however many choices there are."""
    read = replies[0].prompt_tokens or 0
    written = sum(reply.completion_tokens or 0 for reply in replies)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _good(reply: Reply) -> Reply:
    if reply.error is None:
        return reply
    too_long = "context ends" in reply.error
    raise ProtocolError(
        400,
        f"This request cannot be answered: {reply.error}.",
        param="messages",
        code="context_length_exceeded" if too_long else None,
    )


async def stream(asked: ChatRequest, served: Served, batcher: Batcher) -> AsyncIterator[str]:
    """Return the answer as server-sent events, the first of them already there.

    Raises:
        ProtocolError: the model cannot be asked, or not this.

    """
    news = _News(asyncio.get_running_loop())
    wishes = [replace(asked.wish(), heard=news.listener(i)) for i in range(asked.choices)]
    for index, future in enumerate(_Call(asked, served, batcher).start(wishes)):
        future.add_done_callback(news.ending(index))
    first = await news.next()
    return _events(asked, news, first)


class _News:
    """Carries pieces of text and whole replies from the thread of the batches to the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: asyncio.Queue[tuple[int, str | Future[Reply]]] = asyncio.Queue()
        self._heard = True

    def listener(self, index: int) -> Any:
        return lambda piece: self._send(index, piece)

    def ending(self, index: int) -> Any:
        return lambda future: self._send(index, future)

    async def next(self) -> tuple[int, str | Reply]:
        """Return the next piece of a choice, or its whole reply, which is its end."""
        index, news = await self._queue.get()
        return index, news if isinstance(news, str) else _good(news.result())

    def leave(self) -> None:
        """Nobody listens any more: the model need not go on."""
        self._heard = False

    def _send(self, index: int, news: str | Future[Reply]) -> bool:
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, (index, news))
        except RuntimeError:  # the server has ended
            return False
        return self._heard


async def _events(
    asked: ChatRequest, news: _News, first: tuple[int, str | Reply]
) -> AsyncIterator[str]:
    with_usage = asked.stream_options is not None and asked.stream_options.include_usage
    head: Wire = _head("chat.completion.chunk", asked.model)
    if with_usage:
        head["usage"] = None
    replies: dict[int, Reply] = {}
    index, piece = first
    try:
        for choice in range(asked.choices):
            begin = {"role": "assistant", "content": "", "refusal": None}
            yield _event(head, choice, begin)
        while True:
            if isinstance(piece, str):
                yield _event(head, index, {"content": piece})
            else:
                replies[index] = piece
                yield _event(head, index, {}, piece.finish_reason)
            if len(replies) == asked.choices:
                break
            index, piece = await news.next()
        if with_usage:
            usage = _usage(list(replies.values()))
            yield f"data: {json.dumps({**head, 'choices': [], 'usage': usage})}\n\n"
    except ProtocolError as problem:  # too late for a status
        yield f"data: {json.dumps(problem.body)}\n\n"
    finally:
        news.leave()
    yield "data: [DONE]\n\n"


def _event(head: Wire, index: int, delta: Wire, finish: str | None = None) -> str:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
    return f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"
