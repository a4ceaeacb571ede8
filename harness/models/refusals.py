"""Which fields of a request a service refuses: read from its answers, and remembered.

An answer that calls a field unknown or unsupported tells about the service. One that objects to
the field's value tells about the request, and is never read as a refusal. Services without codes
say it in English only, so that their words have to do.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from threading import Lock
from typing import Any

SAMPLING = ("temperature", "seed")
"""Fields that a reply can do without."""
LIMITS = ("max_tokens", "max_completion_tokens")
"""The names of the limit of tokens, which is never left out: a reply without one costs money."""

Place = tuple[str, str]
"""A service (its URL, with the version where it has one), and a model there."""


@dataclass(frozen=True, slots=True)
class Refused:
    """What a service refuses for one model.

    `fields` are those of `SAMPLING`; `limit` is the one of `LIMITS` that it takes, "" the usual.
    """

    fields: frozenset[str] = frozenset()
    limit: str = ""

    def __bool__(self) -> bool:
        return bool(self.fields or self.limit)


NOTHING = Refused()


class Refusals:
    """What the services of a process were found to refuse; learnt in one thread, read in any."""

    def __init__(self) -> None:
        self._known: dict[Place, Refused] = {}
        self._news: set[Place] = set()
        self._lock = Lock()

    def __bool__(self) -> bool:
        return bool(self._known)

    def of(self, place: Place) -> Refused:
        """Return what is refused at `place`."""
        return self._known.get(place, NOTHING)

    def learn(self, place: Place, fields: Iterable[str]) -> None:
        """Remember that `fields` are refused at `place`."""
        known = self.of(place)
        for name in fields:
            if name in LIMITS:
                known = replace(known, limit=_other(name))
            else:
                known = replace(known, fields=known.fields | {name})
        with self._lock:
            if known != self.of(place):
                self._known[place] = known
                self._news.add(place)

    def load(self, stored: Mapping[Place, Mapping[str, Any]]) -> None:
        """Take over what was learnt before; what this process learnt itself is newer."""
        with self._lock:
            for place, value in stored.items():
                if place not in self._news and (known := _from_json(value)) != self.of(place):
                    self._known[place] = known

    def news(self) -> dict[Place, dict[str, Any]]:
        """Return what was learnt since the last call, as JSON values."""
        with self._lock:
            places, self._news = self._news, set()
            return {place: _as_json(self._known[place]) for place in places}


def _as_json(refused: Refused) -> dict[str, Any]:
    return {"fields": sorted(refused.fields), "limit": refused.limit}


def _from_json(value: Mapping[str, Any]) -> Refused:
    fields, limit = value.get("fields"), value.get("limit")
    known = [name for name in SAMPLING if isinstance(fields, list) and name in fields]
    return Refused(frozenset(known), limit if limit in LIMITS else "")


def _other(limit: str) -> str:
    return LIMITS[1 - LIMITS.index(limit)]


def has_way_out(refused: Collection[str]) -> bool:
    """Whether a request can be sent without `refused`; one name of the token limit must remain."""
    return bool(refused) and not set(LIMITS) <= set(refused)


# ---------------------------------------------------------------------- reading

_DEEPEST, _MOST = 6, 200
_LONGEST = 2_000
_ECHOES = frozenset({"input", "ctx", "url", "body", "request", "messages"})
"""Keys under which a service repeats what it was sent."""

_CODES = re.compile(
    r"unsupported|unknown|unrecogni[sz]ed|unexpected|extra|additional|"
    r"not_?(?:supported|permitted|allowed)|disallowed",
    re.IGNORECASE,
)
_VALUE_CODES = re.compile(r"value(?!_error\.extra)", re.IGNORECASE)
_ROOTS = frozenset({"body", "request", "$", "root", ""})

_UNKNOWN = (
    r"(?:unknown|unrecogni[sz]ed|unsupported|unexpected|disallowed|extraneous|extra|additional)"
)
_NOUN = (
    r"(?:(?:request|body|input|keyword|query|model|sampling)\s+)*"
    r"(?:argument|parameter|param|field|key|property|properties|name|option|input|setting)s?(?:\(s\))?"
)
_WORD = r"[\"'`]?\w+[\"'`]?"
_LIST = rf"(?:{_WORD}\s*(?:,|and|or|&)\s*(?:and\s+)?){{0,9}}"
_TAKEN = r"(?:supported|recogni[sz]ed|permitted|allowed|available|accepted|implemented|known)"
_IS = (
    r"(?:\b(?:is|are|was|were|(?:has|have)\s+been)\s+)?"
    r"(?:\b(?:currently|presently|now|also|unfortunately)\s+)?"
)
_NOT = (
    rf"(?:(?:not|isn't|aren't)\s+(?:yet\s+|currently\s+)?(?:an?\s+)?(?:{_TAKEN}|"
    r"valid\s+(?:argument|parameter|field|property|option))|"
    rf"(?:an?\s+)?(?:unsupported|unknown|unrecogni[sz]ed|unexpected)|no\s+longer\s+{_TAKEN}|"
    r"deprecated|removed|disallowed|forbidden)"
)
_BARRED = r"(?:can\s?not|can't|must\s+not|may\s+not)\s+be\s+(?:set|used|specified|provided|passed)"
_REFUSES = (
    r"(?:does\s+not|doesn't|do\s+not|don't|cannot|can't)\s+(?:currently\s+)?"
    r"(?:support|accept|recogni[sz]e|take|allow|permit|know|have|use)"
)
_CONDITION = (
    r"(?!\s*[<>=\d]|\s+(?:to|of|set|above|below|over|under|at|beyond|when|if|unless|except|other|"
    r"greater|less|larger|smaller|more|higher|lower|together|along|in\s+combination|"
    r"(?:for\s+|with\s+)?values?|types?|formats?)\b)"
)
"""What follows where the words are about a value, or about other fields beside this one."""

_ABOUT_VALUE = re.compile(
    r"\bvalues?\s+(?:\S+\s+)?(?:of|for)\s+(?:the\s+)?(?:\w+\s+)?[\"'`\[(]*$", re.I
)
_AMOUNT = re.compile(
    r"\s*[:,(]\s*\d|[^.;![]*(?:[<>=]\s*\d|\b(?:exceed\w*|outside|beyond|"
    r"(?:too|this|that|so)\s+(?:large|big|long|high|small|low|many|few)|"
    r"larger|bigger|longer|higher|smaller|lower|greater|(?:more|less|fewer)\s+than|"
    r"at\s+(?:most|least)|maximum|minimum|range|between|negative|positive|"
    r"(?:over|above|below|under|as|of)\s+\d|as\s+(?:an?\s+)?(?:integer|string|number|float)|"
    r"values?|decimals?)\b)",
    re.IGNORECASE,
)
"""What says, in the rest of a sentence, that the words are about how much and not about whether."""
_GENERIC = re.compile(
    rf"\b{_UNKNOWN}\s+{_NOUN}\b(?!\s+value)|\b{_NOUN}\s+(?:is|are)\s+{_NOT}\b{_CONDITION}", re.I
)
_ONLY_DEFAULT = re.compile(r"only the default\b", re.IGNORECASE)


def refused_fields(error: object, names: Collection[str]) -> frozenset[str]:
    """Return which of the fields `names` an error object of a service calls unknown or unsupported.

    `error` is any JSON. A value that is refused because only the default is possible counts: there
    is no other way than to leave the field out.
    """
    nodes = list(_nodes(error))
    return frozenset(name for name in names if any(_refuses(node, name) for node in nodes))


def _nodes(error: object) -> Iterator[object]:
    """Yield the objects and the texts in `error` that say something about the request."""
    level, count = [error], 0
    for _ in range(_DEEPEST):
        for node in level:
            count += 1
            if count > _MOST:
                return
            yield node
        level = [child for node in level for child in _children(node)]


def _children(node: object) -> list[object]:
    if isinstance(node, dict):
        return [value for key, value in node.items() if key not in _ECHOES]
    return node if isinstance(node, list) else []


def _refuses(node: object, name: str) -> bool:
    if isinstance(node, str):
        return _says_so(" ".join(node[:_LONGEST].split()), name)
    return isinstance(node, dict) and _points_at(node, name) and _objects(node, name)


def _points_at(table: Mapping[str, Any], name: str) -> bool:
    """Whether an error object names the field by its place: `param`, or pydantic's `loc`."""
    for place in (table.get("param"), table.get("loc")):
        parts = place if isinstance(place, list) else str(place or "").split(".")
        if parts and parts[-1] == name and all(part in _ROOTS for part in parts[:-1]):
            return True
    return False


def _objects(table: Mapping[str, Any], name: str) -> bool:
    """Whether an error object that points at a field objects to the field itself."""
    codes = " ".join(str(table.get(key) or "") for key in ("code", "type"))
    said = str(table.get("message") or table.get("msg") or "")[:_LONGEST]
    if _VALUE_CODES.search(codes):
        return "value_error.extra" in codes or _takes_default_only(said, name)
    return bool(_CODES.search(codes) or _GENERIC.search(said))


def _takes_default_only(said: str, name: str) -> bool:
    return name in SAMPLING and bool(_ONLY_DEFAULT.search(said))


def _says_so(text: str, name: str) -> bool:
    if name not in text:
        return False
    if name in SAMPLING and _default_only(name).search(text):
        return True
    found = (match for pattern in _patterns(name) for match in pattern.finditer(text))
    return any(not _is_about_value(text, match) for match in found)


def _is_about_value(text: str, match: re.Match[str]) -> bool:
    before, after = text[: match.start("name")], text[match.end() :]
    return bool(_ABOUT_VALUE.search(before) or _AMOUNT.match(after))


@lru_cache(maxsize=16)
def _patterns(name: str) -> tuple[re.Pattern[str], ...]:
    """Return the sentences that call the field `name` unknown or unsupported."""
    field = _field(name)
    more = rf"(?:\s*(?:,|and|or|&)\s*(?:and\s+)?{_WORD}){{0,9}}"
    sentences = [
        rf"\b{_UNKNOWN}\s+{_NOUN}(?:\s+(?:supplied|provided|given|found|named|in|the|request|"
        rf"is|are|was|not|permitted|allowed))*\s*[:\W]?\s*{_LIST}{field}{_CONDITION}",
        rf"{field}{more}(?:\s+{_NOUN})?[\s:,]*{_IS}\b{_NOT}\b{_CONDITION}",
        rf"{field}[\s:,]*(?:'msg':\s*')?extra\s+(?:inputs|fields)\s+(?:are\s+)?not\s+permitted",
        rf"{field}{more}(?:\s+{_NOUN})?\s+{_BARRED}\b{_CONDITION}",
        rf"\b{_REFUSES}\s+(?:(?:the|an?|this|custom|any|setting)\s+)*(?:{_NOUN}\s*:?\s*)?"
        rf"{_LIST}{field}{_CONDITION}",
        rf"{field}\s*:\s*{_UNKNOWN}\b{_CONDITION}",
        rf"\b{_NOUN}\s+(?:(?:is|are)\s+)?{_NOT}(?:\s+\w+){{0,6}}\s*:\s*{_LIST}{field}{_CONDITION}",
    ]
    return tuple(re.compile(sentence, re.IGNORECASE | re.DOTALL) for sentence in sentences)


@lru_cache(maxsize=16)
def _default_only(name: str) -> re.Pattern[str]:
    sentence = rf"{_field(name)}\s+does\s+not\s+support\b.{{0,200}}\bonly the default\b"
    return re.compile(sentence, re.IGNORECASE | re.DOTALL)


def _field(name: str) -> str:
    return rf"(?<![\w.\]-])(?:body\.|\$\.)?[\"'`\[(]*(?P<name>{name})[\"'`\])]*(?![\w\[]|[.-]\w)"
