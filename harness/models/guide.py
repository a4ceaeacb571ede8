"""What a caller wants of a reply beside its sampling, and how a growing reply is kept to it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from harness.models.decode import text_of

BROKEN = "\ufffd"
"""What a tokenizer writes for bytes that are no whole character (yet)."""

LONGEST_GAP = 8
"""White space in sequence that JSON may hold: a model must not fill its answer with it."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What one caller wants of a reply.

    `top_p` as in `decode.Row`. The reply ends before the first of the texts in `stop`. `json`: it
    is one JSON object, or the beginning of one that did not find room. `heard` is told the text
    as it comes, in the thread that generates, and says whether anybody still listens. `wanted` says
    whether anybody still waits for the reply, where nobody listens. `prompt` are the tokens to
    ask, where the caller has them already.
    """

    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    json: bool = False
    heard: Callable[[str], bool] | None = None
    wanted: Callable[[], bool] | None = None
    prompt: Sequence[int] | None = None

    @property
    def followed(self) -> bool:
        """Whether the text has to be read while it grows."""
        return bool(self.stop or self.json or self.heard)

    @property
    def is_wanted(self) -> bool:
        """Whether anybody still waits for the reply."""
        return self.wanted is None or self.wanted()


NO_WISH = Wish()


def guide_of(tokenizer: Any, wish: Wish, ends: Collection[int]) -> Following | Watching | None:
    """Return what guides a reply to `wish`; `ends` are the tokens that end one."""
    if wish.followed:
        return Following(tokenizer, wish, ends)
    return Watching(wish) if wish.wanted else None


class Watching:
    """Lets a reply grow as long as it is wanted; a `decode.Guide`."""

    def __init__(self, wish: Wish) -> None:
        self._wish = wish
        self.done = False
        """Whether nobody waits for the reply any more; known when a token comes."""

    def begin(self) -> None:
        """Nothing was read."""
        self.done = False

    def fits(self, token: int) -> bool:
        """Every token may come."""
        return True

    def take(self, token: int) -> None:
        """Ask whether the next token is wanted."""
        self.done = not self._wish.is_wanted


class Following:
    """Reads a reply while it grows; a `decode.Guide`."""

    def __init__(self, tokenizer: Any, wish: Wish, ends: Collection[int]) -> None:
        self._tokenizer, self._wish, self._ends = tokenizer, wish, ends
        self._told = 0
        self.begin()

    def begin(self) -> None:
        """Start from nothing; what was told to the listener is not told again."""
        self.done = False
        self._text = ""
        self._tail: list[int] = []  # the tokens whose text the next one can still change
        self._tail_text = ""

    def fits(self, token: int) -> bool:
        """Whether the reply stays what is wanted with `token`."""
        if not self._wish.json:
            return True
        if token in self._ends:
            return False
        piece, whole = self._piece(token)
        # Half of a character can only become one that JSON has inside of its strings.
        return _begins_object(self._text + piece + ("" if whole else BROKEN))

    def take(self, token: int) -> None:
        """Read on; the token that ends a reply has no text."""
        if token in self._ends:
            return
        piece, whole = self._piece(token)
        if not whole:
            self._tail.append(token)
            return
        self._tail, self._tail_text = [token], text_of(self._tokenizer, [token])
        self._read(piece)

    def finish(self) -> str:
        """Return the whole reply, and tell the listener what was kept back."""
        if not self.done:
            self._text += text_of(self._tokenizer, self._tail)[len(self._tail_text) :]
        self._tell(len(self._text))
        return self._text

    def _piece(self, token: int) -> tuple[str, bool]:
        """Return the text that `token` adds, and whether it ends with a whole character."""
        text = text_of(self._tokenizer, [*self._tail, token])
        added = text[len(self._tail_text) :]
        return (added.rstrip(BROKEN), False) if added.endswith(BROKEN) else (added, True)

    def _read(self, piece: str) -> None:
        begin = max(0, len(self._text) - max(map(len, self._wish.stop), default=0))
        self._text += piece
        found = [at for stop in self._wish.stop if (at := self._text.find(stop, begin)) >= 0]
        if found:
            self._text, self.done = self._text[: min(found)], True
        else:
            is_whole = self._wish.json and _is_whole(self._text)
            self.done = is_whole or not self._wish.is_wanted
        self._tell(len(self._text) - (0 if self.done else self._kept_back()))

    def _kept_back(self) -> int:
        """Return how many of the last characters may be the beginning of a text that stops."""
        return max((_overlap(self._text, stop) for stop in self._wish.stop), default=0)

    def _tell(self, end: int) -> None:
        if self._wish.heard and end > self._told:
            piece, self._told = self._text[self._told : end], end
            self.done = not self._wish.heard(piece) or self.done


def _overlap(text: str, stop: str) -> int:
    """Return how many of the last characters of `text` `stop` begins with, short of all of it."""
    at = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while at >= 0 and not stop.startswith(text[at:]):
        at = text.find(stop[0], at + 1)
    return len(text) - at if at >= 0 else 0


def _begins_object(text: str) -> bool:
    """Whether `text` is a JSON object or can become one."""
    begin = text.lstrip()
    if len(text) - len(text.rstrip()) > LONGEST_GAP or not begin:
        return len(text) <= LONGEST_GAP
    fault = _fault(text)
    return begin.startswith("{") and (not fault or fault.startswith("EOF "))


def _is_whole(text: str) -> bool:
    return text.endswith("}") and not _fault(text)


def _fault(text: str) -> str:
    """Return where the JSON `text` breaks a rule ("EOF ...": only its end is missing), or ""."""
    from pydantic_core import from_json

    try:
        from_json(text, allow_inf_nan=False)
    except ValueError as problem:
        return str(problem)
    return ""
