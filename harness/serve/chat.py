"""`POST /v1/chat/completions`."""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, JsonValue

from harness.records import Message, Reply, Sampling
from harness.serve.prompts import Conversation
from harness.serve.wire import (
    Asked,
    Ignored,
    Missing,
    ProtocolError,
    Unsupported,
    Wire,
    new_id,
    now,
)

if TYPE_CHECKING:
    from concurrent.futures import Future

    from harness.models.guide import Wish
    from harness.serve.catalog import Served
    from harness.serve.prompts import Prompts

USUAL_TOKENS = 1_024
"""Tokens of a reply whose request sets no limit: a small model may find no end."""

MOST_TOKENS = 16_384
"""Tokens of a reply: others wait for the batch that it is in."""

MOST_MESSAGES, MOST_TOOLS = 2_048, 128
LONGEST_STOP = 256
"""Characters of a text that stops: every token of the reply is compared with it."""

COLDEST = 1e-4
"""Temperatures below are greedy: they leave nothing to chance, and numbers overflow."""

Tokens = Annotated[int, Field(ge=1, le=MOST_TOKENS)]
Stop = Annotated[str, Field(max_length=LONGEST_STOP)]


class TextPart(Asked):
    """A part of a message that is text."""

    type: Literal["text"]
    text: str
    prompt_cache_breakpoint: Ignored = None


class CalledFunction(Asked):
    """What a message calls; the arguments are JSON text."""

    name: str
    arguments: str


class ToolCall(Asked):
    """A call in a message of the assistant."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class Function(Asked):
    """What a tool is; its parameters are a JSON Schema."""

    name: str
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: Unsupported = None


class Tool(Asked):
    """What the model may call."""

    type: Literal["function"]
    function: Function


class ChatMessage(Asked):
    """One message."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: Ignored = None
    refusal: Ignored = None
    tool_call_id: str | None = None
    annotations: Ignored = None
    audio: Unsupported = None
    function_call: Unsupported = None
    tool_calls: list[ToolCall] | None = None

    @property
    def plain(self) -> Message:
        """The message as a chat template takes it."""
        parts = self.content if isinstance(self.content, list) else None
        text = "".join(part.text for part in parts) if parts is not None else self.content or ""
        role = "system" if self.role == "developer" else self.role
        message: dict[str, Any] = {"role": role, "content": text}
        if self.tool_calls:
            message["tool_calls"] = [call.model_dump() for call in self.tool_calls]
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        return message


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
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: int | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    response_format: ResponseFormat | None = None
    # In front of what only says how they are used: the first that is wrong is named.
    tools: Annotated[list[Tool], Field(max_length=MOST_TOOLS)] | None = None
    functions: Unsupported = None
    audio: Missing = None
    frequency_penalty: Unsupported = None
    function_call: Literal["none", "auto"] | None = None
    logit_bias: Unsupported = None
    logprobs: Unsupported = None
    modalities: list[Literal["text"]] | None = None
    moderation: Missing = None
    presence_penalty: Unsupported = None
    reasoning_effort: Literal["none"] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    top_logprobs: Unsupported = None
    verbosity: Literal["medium"] | None = None
    web_search_options: Missing = None
    metadata: Ignored = None
    parallel_tool_calls: bool | None = None
    prediction: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_options: Ignored = None
    prompt_cache_retention: Ignored = None
    safety_identifier: Ignored = None
    service_tier: Ignored = None
    store: Ignored = None
    user: Ignored = None

    @property
    def choices(self) -> int:
        """How many replies are wanted."""
        return self.n or 1

    @property
    def conversation(self) -> Conversation:
        """What the model is asked, without tools where it is not to call one.

        Raises:
            ProtocolError: something else in the request does not go with tools.

        """
        messages = [message.plain for message in self.messages]
        if not self.tools or self.tool_choice == "none":
            return Conversation(messages)
        if self.response_format and self.response_format.type != "text":
            raise _beside_tools("response_format")
        if self.parallel_tool_calls is False:
            raise _beside_tools("parallel_tool_calls")
        # What was left out or null is not there for the template either.
        return Conversation(messages, tuple(t.model_dump(exclude_unset=True) for t in self.tools))

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


def _beside_tools(param: str) -> ProtocolError:
    return ProtocolError(
        400,
        f"Invalid value for '{param}': this server cannot do it beside 'tools', leave it out.",
        param=param,
        code="invalid_value",
    )


async def complete(asked: ChatRequest, served: Served, prompts: Prompts) -> Wire:
    """Return the whole answer; nobody works on it any longer when this is cancelled.

    Raises:
        ProtocolError: the model cannot be asked, or not this.

    """
    left = threading.Event()
    wish = replace(asked.wish(), wanted=lambda: not left.is_set())
    try:
        futures = await _ask(asked, served, prompts, [wish] * asked.choices)
        replies = await asyncio.gather(*map(asyncio.wrap_future, futures))
    finally:
        left.set()
    for reply in replies:
        _refuse_error(reply)
    return {
        **_head("chat.completion", asked.model),
        "choices": [_choice(index, reply) for index, reply in enumerate(replies)],
        "usage": _usage(replies),
    }


async def _ask(
    asked: ChatRequest, served: Served, prompts: Prompts, wishes: list[Wish]
) -> list[Future[Reply]]:
    if asked.tools and "tools" in served.spec.options:
        raise ProtocolError(
            400,
            f"The model `{asked.model[:200]}` has tools of its own and takes no others.",
            param="tools",
        )
    spec = replace(served.spec, sampling=asked.sampling)
    return await prompts.ask(spec, asked.conversation, wishes)


def _head(kind: str, model: str) -> Wire:
    return {"id": new_id("chatcmpl-"), "object": kind, "created": now(), "model": model}


def _choice(index: int, reply: Reply) -> Wire:
    return {
        "index": index,
        "message": {"role": "assistant", "refusal": None, **_said(reply)},
        "logprobs": None,
        "finish_reason": reply.finish_reason,
    }


def _said(reply: Reply) -> Wire:
    """Return the text of a reply and, where it has some, its calls of tools."""
    if not reply.tool_calls:
        return {"content": reply.text}
    return {"content": reply.text or None, "tool_calls": [dict(call) for call in reply.tool_calls]}


def _usage(replies: list[Reply]) -> Wire:
    """Count the prompt once, however many choices there are."""
    read = replies[0].prompt_tokens or 0
    written = sum(reply.completion_tokens or 0 for reply in replies)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _refuse_error(reply: Reply) -> None:
    if reply.error is not None:
        raise ProtocolError(
            400, f"This request cannot be answered: {reply.error}.", param="messages"
        )


async def stream(asked: ChatRequest, served: Served, prompts: Prompts) -> AsyncIterator[str]:
    """Return the answer as server-sent events, the first of them already there.

    Raises:
        ProtocolError: the model cannot be asked, or not this.

    """
    news = _News(asyncio.get_running_loop())
    # What may be a call of a tool is known at its end.
    whole = bool(asked.tools) or "tools" in served.spec.options
    wishes = [news.wish(asked, index, whole=whole) for index in range(asked.choices)]
    try:
        news.follow(await _ask(asked, served, prompts, wishes))
        first = await news.next()
    except BaseException:
        news.leave()
        raise
    return _events(asked, news, first, whole=whole)


class _News:
    """Carries pieces of text and whole replies from the thread of the batches to the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: asyncio.Queue[tuple[int, str | Future[Reply]]] = asyncio.Queue()
        self._heard = True
        self._replies: list[Future[Reply]] = []

    def wish(self, asked: ChatRequest, index: int, *, whole: bool) -> Wish:
        """Return what is wanted of a choice: its text as it comes, or only its `whole` reply."""
        if whole:
            return replace(asked.wish(), wanted=lambda: self._heard)
        return replace(asked.wish(), heard=lambda piece: self._send(index, piece))

    def follow(self, replies: list[Future[Reply]]) -> None:
        """Carry the ends of these replies, too, in the order of their choices."""
        self._replies = replies
        for index, reply in enumerate(replies):
            reply.add_done_callback(partial(self._send, index))

    async def next(self) -> tuple[int, str | Reply]:
        """Return the next piece of a choice, or its whole reply, which is its end."""
        index, news = await self._queue.get()
        if isinstance(news, str):
            return index, news
        _refuse_error(reply := news.result())
        return index, reply

    def leave(self) -> None:
        """Nobody listens any more: the model need not go on."""
        self._heard = False
        for reply in self._replies:
            reply.cancel()

    def _send(self, index: int, news: str | Future[Reply]) -> bool:
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, (index, news))
        except RuntimeError:  # the server has ended
            return False
        return self._heard


async def _events(
    asked: ChatRequest, news: _News, first: tuple[int, str | Reply], *, whole: bool
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
                if whole:
                    yield _event(head, index, _delta(piece))
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


def _delta(reply: Reply) -> Wire:
    """Return a whole reply as a piece of a stream."""
    calls = [{"index": place, **call} for place, call in enumerate(reply.tool_calls)]
    return {"content": reply.text, **({"tool_calls": calls} if calls else {})}


def _event(head: Wire, index: int, delta: Wire, finish: str | None = None) -> str:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
    return f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"
