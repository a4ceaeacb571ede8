"""What replies cost: a dated table of prices, and what a project says instead."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from harness.records import Message, ModelSpec, Reply, Request, content_of

FREE = ("bundled", "local", "replay")
"""Providers that charge nothing: their replies have no cost."""

CHARACTERS_PER_TOKEN = 3
"""Of a prompt, for estimates: fewer than text in most languages has, so that they are high.

Counted are bytes of UTF-8, since a character of Chinese is about a token of its own.
"""

_MILLION = 1_000_000
_DATE = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8})$")
_TUNED = re.compile(r"^(ft:[^:]*):.*$")


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens; `cached` (of the prompt) is `input` where it is None.

    `training` is for every token in every epoch; None where nothing is known.
    """

    input: float
    output: float
    cached: float | None = None
    training: float | None = None


def cost_of(reply: Reply, price: Price) -> float | None:
    """Return what `reply` cost in US dollars; None if it does not tell its tokens.

    The prompt's tokens include the cached ones.
    """
    if reply.prompt_tokens is None or reply.completion_tokens is None:
        return None
    cached = min(reply.cached_tokens or 0, reply.prompt_tokens)
    cheap = price.input if price.cached is None else price.cached
    read = (reply.prompt_tokens - cached) * price.input + cached * cheap
    return (read + reply.completion_tokens * price.output) / _MILLION


def most(request: Request, price: Price, longest: int | None = None) -> float:
    """Return what `request` costs at most, in US dollars: a reply as long as it may be.

    That is `longest` tokens, by default the model's `max_tokens`. The prompt is estimated,
    generously.
    """
    asked = prompt_tokens(request) * price.input
    longest = request.model.sampling.max_tokens if longest is None else longest
    return (asked + longest * price.output) / _MILLION


def prompt_tokens(request: Request) -> int:
    """Estimate the tokens of a prompt, its calls and tools included, generously."""
    characters = sum(map(_characters, request.messages))
    tools = request.case.tools if request.case else ()
    return (characters + _written(tools)) // CHARACTERS_PER_TOKEN


def _characters(message: Message) -> int:
    calls = message.get("tool_calls") or message.get("function_call")
    return _bytes(content_of(message)) + _written(calls)


def _written(value: object) -> int:
    return _bytes(str(value)) if value else 0


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def unpriced(spec: ModelSpec) -> str:
    """Return the sentence on a model whose price is unknown."""
    return (
        f"the price of {spec.spec} is unknown; give it in US dollars per million tokens, "
        f'[tool.harness.prices."{spec.spec}"] with input = and output ='
    )


def unlimited(spec: ModelSpec) -> str:
    """Return the sentence on a model that is asked without a limit of tokens."""
    return (
        f"nothing limits the replies of {spec.spec} (`omit` in the table of {spec.name}), so that "
        "they may cost any amount; give the limit another name with `rename` instead"
    )


def _references(spec: ModelSpec) -> Iterator[str]:
    """Yield the names under which a project may price `spec`: nobody knows a whole `ft:` name."""
    yield spec.spec
    if tuned := _TUNED.match(spec.target):
        yield f"{spec.provider}:{tuned[1]}"
        yield f"{spec.provider}:{tuned[1].removeprefix('ft:')}"


@dataclass(frozen=True)
class Prices:
    """The prices of a run: `own` are the project's, by `provider:name`, and come first."""

    own: Mapping[str, Price] = field(default_factory=dict)

    def of(self, spec: ModelSpec, identity: Mapping[str, Any]) -> Price | None:
        """Return the price of `spec`, whose `identity` tells its endpoint; None if unknown.

        A model is found by its name, then without the date at its end; a fine-tuned one
        (`ft:BASE:...`) by its base.
        """
        for reference in _references(spec):
            if reference in self.own:
                return self.own[reference]
        host = urlsplit(str(identity.get("base_url", ""))).hostname or ""
        listed = self._table["hosts"].get(host, {}) if spec.provider == "openai" else {}
        name = _TUNED.sub(r"\1", spec.target)
        found = listed.get(name) or listed.get(_DATE.sub("", name))
        return Price(**found) if found else None

    @property
    def as_of(self) -> str:
        """The month in which the table was written."""
        return str(self._table["as_of"])

    @cached_property
    def _table(self) -> dict[str, Any]:
        return tomllib.loads(files("harness").joinpath("prices.toml").read_text(encoding="utf-8"))
