"""From a conversation to a waiting request: chat templates and tokenizers, in threads of their own.

Neither the loop that answers connections nor the thread of the batches waits for them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from harness.records import (
    EvidenceError,
    HarnessError,
    Message,
    ModelSpec,
    Reply,
    Request,
    content_of,
)
from harness.serve.batching import Batcher, broken, busy, case_with
from harness.serve.wire import ProtocolError

if TYPE_CHECKING:
    from harness.models.guide import Wish
    from harness.models.loaded import Home

LONG_CHARACTERS, LONG_MESSAGES = 32_768, 256
"""From here on a conversation is long: long ones wait for each other, and no short one for them."""
MOST_LONG, MOST_SHORT = 32, 4_096
"""Conversations that may wait; a client that comes then is asked to come again."""
MOST_READERS = 8

Made = TypeVar("Made")


@dataclass(frozen=True)
class Conversation:
    """What a model is asked: messages, and the tools that it may call."""

    messages: Sequence[Message]
    tools: tuple[Mapping[str, Any], ...] = ()

    @property
    def characters(self) -> int:
        """How long all texts are together."""
        texts = sum(len(content_of(message)) for message in self.messages)
        calls = [message.get("tool_calls") for message in self.messages]
        return texts + len(json.dumps([self.tools, calls]))

    @property
    def is_long(self) -> bool:
        """Whether it waits for other long ones."""
        return len(self.messages) >= LONG_MESSAGES or self.characters >= LONG_CHARACTERS

    def request(self, spec: ModelSpec) -> Request:
        """Return the request that asks it."""
        return Request("", spec, tuple(self.messages), 0, case=case_with(self.tools))


class Lane:
    """One thread that does some work after the other; ProtocolError (429) if too much waits."""

    def __init__(self, name: str, most: int) -> None:
        self._thread = ThreadPoolExecutor(1, name)
        self._most, self._waiting = most, 0

    async def run(self, work: Callable[[], Made]) -> Made:
        """Return what `work` returns; it may be called on one loop only."""
        if self._waiting >= self._most:
            raise busy()
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Begin nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)


class Lanes:
    """A lane for short conversations and one for long ones."""

    def __init__(self) -> None:
        self._short, self._long = Lane("short", MOST_SHORT), Lane("long", MOST_LONG)

    async def run(self, asked: Conversation, work: Callable[[], Made]) -> Made:
        """Return what `work` on this conversation returns."""
        return await (self._long if asked.is_long else self._short).run(work)

    def close(self) -> None:
        """Begin nothing more."""
        self._short.close()
        self._long.close()


class Prompts:
    """Reads the prompts of requests and hands them to the batcher."""

    def __init__(self, lanes: Lanes, batcher: Batcher) -> None:
        self._lanes, self._batcher = lanes, batcher
        self._reader = lru_cache(maxsize=MOST_READERS)(_Reader.load)

    async def ask(
        self, spec: ModelSpec, asked: Conversation, wishes: Sequence[Wish]
    ) -> list[Future[Reply]]:
        """Ask for as many replies as there are wishes.

        Raises:
            ProtocolError: the prompt is too long or refused by the chat template (400), too many
                are waiting (429), or the model cannot be asked at all (500).

        """
        reader = await asyncio.to_thread(self._reader_of, spec)
        return await self._lanes.run(asked, lambda: self._asked(reader, spec, asked, wishes))

    def _reader_of(self, spec: ModelSpec) -> _Reader:
        from harness.models.loaded import home_of

        try:
            return self._reader(home_of(spec))
        except (HarnessError, EvidenceError) as problem:
            raise broken(problem) from None

    def _asked(
        self, reader: _Reader, spec: ModelSpec, asked: Conversation, wishes: Sequence[Wish]
    ) -> list[Future[Reply]]:
        from harness.calls import prompt

        try:
            whole = replace(asked, messages=prompt(spec, asked.messages))
        except HarnessError as problem:
            raise broken(problem) from None
        tokens = reader.checked(spec, whole)
        known = [replace(wish, prompt=tokens) for wish in wishes]
        return self._batcher.ask(spec, tuple(whole.messages), len(known), known, whole.tools)


@dataclass(frozen=True)
class _Reader:
    """Turns conversations into the tokens of one base; `longest` token in characters."""

    tokenizer: Any
    context: float
    longest: int

    @classmethod
    def load(cls, home: Home) -> _Reader:
        from harness.models.loaded import load_context, load_tokenizer

        tokenizer = load_tokenizer(home)
        tokenizer("settled")  # it changes itself when it is called first, and several threads call
        return cls(tokenizer, load_context(home), max(map(len, tokenizer.get_vocab())))

    def checked(self, spec: ModelSpec, asked: Conversation) -> Sequence[int]:
        """Return the tokens of a prompt that leaves room for a reply.

        Raises:
            ProtocolError: there is none; the field that is to blame is named (400).

        """
        from harness.models.loaded import PromptError, PromptTooLong

        try:
            return self._tokens(spec, asked)
        except PromptTooLong as problem:
            raise _unanswerable(problem, "messages", "context_length_exceeded") from None
        except PromptError as problem:
            blamed = "tools" if asked.tools and self._carries_rest(spec, asked) else "messages"
            raise _unanswerable(problem, blamed) from None

    def _carries_rest(self, spec: ModelSpec, asked: Conversation) -> bool:
        from harness.models.loaded import PromptError

        try:
            self._tokens(spec, replace(asked, tools=()))
        except PromptError:
            return False
        return True

    def _tokens(self, spec: ModelSpec, asked: Conversation) -> Sequence[int]:
        """Return the tokens of a prompt, or raise PromptError.

        One that cannot fit, however long its tokens are, is refused without reading it.
        """
        from harness.models.loaded import PromptTooLong, prompt_tokens, room_behind

        if (characters := asked.characters) > self.context * self.longest:
            raise PromptTooLong(
                f"the prompt has {characters:,} characters, more than fit into the "
                f"{self.context:.0f} tokens of the model's context"
            )
        tokens = prompt_tokens(self.tokenizer, asked.request(spec))
        room_behind(tokens, self.context)
        return tokens


def _unanswerable(problem: Exception, param: str, code: str | None = None) -> ProtocolError:
    return ProtocolError(
        400, f"This request cannot be answered: {problem}.", param=param, code=code
    )
