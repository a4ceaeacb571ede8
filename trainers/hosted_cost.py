"""What a hosted training will cost: tokens times epochs times the price, before a cent is spent.

How tokens are counted, the best way that there is: with the tokenizer that the recipe names; by
the service (`/responses/input_tokens`, which costs nothing; of many rows an even sample, scaled by
their characters); else from the characters, which is within 20 % for English text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from harness.models.failures import CallFailed
from harness.prices import Price
from harness.records import Message
from trainers.base import find_base
from trainers.hosted_data import Example
from trainers.hosted_recipe import HostedRecipe
from trainers.service import Service

if TYPE_CHECKING:
    from openai import OpenAI

CHARACTERS_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 4
"""What the chat format adds to each message, about."""

SAMPLE = 256
"""Conversations that the service counts at most."""

AT_ONCE = 8
COUNTING_S = 10.0

_MILLION = 1_000_000
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_Conversation = tuple[Sequence[Message], Sequence[Any]]


@dataclass(frozen=True)
class Estimate:
    """What a training costs: `tokens` in all epochs; `cost_usd` is None where no price is known.

    `how` says how the tokens were counted.
    """

    name: str
    tokens: int
    epochs: int
    cost_usd: float | None
    how: str

    def __str__(self) -> str:
        cost = "an unknown price" if self.cost_usd is None else f"about ${self.cost_usd:.4g}"
        return (
            f"training {self.name} takes about {self.tokens:,} tokens in {self.epochs} epochs "
            f"({self.how}), for {cost}"
        )


def estimate(recipe: HostedRecipe, price: Price | None, service: Service | None = None) -> Estimate:
    """Return what the training of `recipe` costs; without a `service` nobody is asked.

    Raises:
        HarnessError: the recipe's tokenizer or data are wrong.

    """
    tokens, how = _counted(recipe, service)
    epochs = recipe.epochs or automatic_epochs(recipe.rows)
    return Estimate(
        recipe.name, tokens * epochs, epochs, _cost(tokens * epochs, recipe, price), how
    )


def automatic_epochs(rows: int) -> int:
    """Return the epochs that services choose ("auto"): 3, more for fewer than 34 rows.

    From OpenAI's guide: 3 epochs, and at least 100 and at most 25,000 examples in all of them.
    """
    if 3 * rows < 100:
        return min(25, max(3, 100 // rows))
    return max(1, 25_000 // rows) if 3 * rows > 25_000 else 3


def is_local(recipe: HostedRecipe) -> bool:
    """Whether the service runs on this machine."""
    return urlsplit(str(recipe.endpoint["base_url"])).hostname in _LOOPBACK


def _cost(tokens: int, recipe: HostedRecipe, price: Price | None) -> float | None:
    if price is not None and price.training is not None:
        return tokens * price.training / _MILLION
    return 0.0 if is_local(recipe) else None


def _counted(recipe: HostedRecipe, service: Service | None) -> tuple[int, str]:
    """Return the tokens of one epoch, and how they were counted."""
    examples = recipe.data().learned
    if recipe.tokenizer:
        return _by_tokenizer(recipe, examples), f"counted by {recipe.tokenizer}"
    asked: list[_Conversation] = [
        (messages, example.row.tools) for example in examples for messages in example.conversations
    ]
    characters = [_characters(*one) for one in asked]
    if service and (found := _by_service(recipe, service, asked, characters)):
        return found, "counted by the service"
    messages = sum(len(messages) for messages, _ in asked)
    tokens = sum(characters) // CHARACTERS_PER_TOKEN + TOKENS_PER_MESSAGE * messages
    return tokens, f"guessed at {CHARACTERS_PER_TOKEN} characters a token"


def _characters(messages: Sequence[Message], tools: Sequence[Any]) -> int:
    calls = sum(len(str(message.get("tool_calls") or "")) for message in messages)
    text = sum(len(str(message.get("content") or "")) for message in messages)
    return text + calls + (len(str(list(tools))) if tools else 0)


def _by_tokenizer(recipe: HostedRecipe, examples: Sequence[Example]) -> int:
    from dataclasses import replace

    from transformers import AutoTokenizer

    from trainers.local import encode

    base = find_base(str(recipe.tokenizer), recipe.root)
    tokenizer = AutoTokenizer.from_pretrained(
        base.source, revision=base.revision, trust_remote_code=False
    )
    rows = [
        replace(example.row, messages=messages)
        for example in examples
        for messages in example.conversations
    ]
    return sum(len(one.input_ids) for one in encode(rows, tokenizer, 1_000_000))


def _by_service(
    recipe: HostedRecipe,
    service: Service,
    asked: Sequence[_Conversation],
    characters: Sequence[int],
) -> int:
    """Return the tokens as the service counts them; 0 where it does not."""
    step = max(1.0, len(asked) / SAMPLE)
    chosen = [int(index * step) for index in range(int(len(asked) / step))]
    try:
        first = _count(recipe, service, asked[chosen[0]])
        with ThreadPoolExecutor(AT_ONCE) as pool:
            rest = list(pool.map(lambda i: _count(recipe, service, asked[i]), chosen[1:]))
    except (CallFailed, KeyError):
        return 0
    return round((first + sum(rest)) * sum(characters) / max(1, sum(characters[i] for i in chosen)))


def _count(recipe: HostedRecipe, service: Service, one: _Conversation) -> int:
    messages, tools = one
    body: dict[str, Any] = {
        "model": recipe.base.target,
        "input": [_item(message) for message in messages],
        **({"tools": [_tool(tool) for tool in tools]} if tools else {}),
    }

    def count(client: OpenAI) -> int:
        tokens = client.responses.input_tokens.count(**body).input_tokens
        if type(tokens) is not int or tokens < 0:
            raise TypeError("it counts no tokens")
        return tokens

    return service.ask(count, COUNTING_S)


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool.get("function")
    return {"type": "function", **function} if isinstance(function, Mapping) else dict(tool)


def _item(message: Message) -> dict[str, Any]:
    """Return a message as this route takes it; what it cannot hold counts as text."""
    text = str(message.get("content") or "")
    calls = str(message["tool_calls"]) if message.get("tool_calls") else ""
    role = "user" if message["role"] == "tool" else message["role"]
    return {"role": role, "content": text + calls}
