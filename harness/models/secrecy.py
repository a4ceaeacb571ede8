"""Keys of services stay unseen: in what is shown, logged and stored."""

from __future__ import annotations

import json
import logging
import os
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit, urlunsplit

HIDDEN = "***"
SHORTEST = 4
"""Characters of the shortest text that is taken for a secret: "v1" in a header is none."""

LOGGERS = ("httpx2", "httpcore2.http11", "httpcore2.http2", "aiohttp.client", "aiohttp.internal")
"""Whose lines hold URLs or what a server sent."""


class Mask:
    """Hides secrets in texts: as they are, URL-encoded, in base64, and as Python and JSON quote."""

    def __init__(self, secrets: Iterable[str]) -> None:
        found = {form for secret in secrets if len(secret) >= SHORTEST for form in _forms(secret)}
        longest_first = sorted(found, key=lambda form: (-len(form), form))
        self._found = re.compile("|".join(map(re.escape, longest_first))) if found else None

    def __call__(self, text: str) -> str:
        """Return `text` without the secrets."""
        return self._found.sub(HIDDEN, text) if self._found else text


def _forms(secret: str) -> Iterator[str]:
    yield secret
    for quoted in (quote(secret, safe=""), quote(secret), quote_plus(secret)):
        yield quoted
        yield re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), quoted)
    yield repr(secret)[1:-1]
    yield json.dumps(secret)[1:-1]
    yield from _in_base64(secret.encode("utf-8", "replace"))


def _in_base64(secret: bytes) -> Iterator[str]:
    """What base64 makes of `secret` wherever it stands in a text.

    The digits at both ends also hold neighbours' bits and are left out.
    """
    for before in range(3):
        encoded = b64encode(b"\0" * before + secret).decode().rstrip("=")
        sure = encoded[(0, 2, 3)[before] :]
        if (before + len(secret)) % 3:
            sure = sure[:-1]
        if len(sure) >= SHORTEST:
            yield sure
            yield sure.replace("+", "-").replace("/", "_")


def secrets_of_url(url: str) -> list[str]:
    """Return what in `url` may be a secret: user, password, and the values of its query."""
    parts = urlsplit(url)
    account = parts.netloc.rpartition("@")[0]
    users = [unquote(part) for part in account.split(":", 1) if part]
    return [*users, *(value for _, value in parse_qsl(parts.query))]


def public_url(url: str) -> str:
    """Return `url` without account, query and fragment, which may hold secrets."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


_WORD = r"(?:[A-Z]{1,16}\d{0,2}|\d{1,4})"
_NAME = re.compile(rf"[A-Z]{{1,16}}\d{{0,2}}(?:_{_WORD}){{0,7}}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def can_name_variable(text: str) -> bool:
    """Whether an environment variable is, or could be, called `text`."""
    return text in os.environ or bool(_VARIABLE.fullmatch(text))


def public_variable(text: str) -> str:
    """Return the name of an environment variable; "" where it may be the key itself.

    A name is shown if such a variable is set, or if it is made of plain words in capitals.
    """
    return text if text in os.environ or _NAME.fullmatch(text) else ""


def public_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `options` of a model as they may be shown: without keys and header values."""
    shown = dict(options)
    if isinstance(headers := shown.get("headers"), Mapping):
        shown["headers"] = dict.fromkeys(headers, "(hidden)")
    if isinstance(url := shown.get("base_url"), str):
        shown["base_url"] = public_url(url)
    if "api_key_env" in shown:
        shown["api_key_env"] = public_variable(str(shown["api_key_env"])) or "(hidden)"
    return shown


class LogMask(logging.Filter):
    """Masks what the HTTP libraries log while it is installed: their lines hold whole URLs."""

    def __init__(self, mask: Mask) -> None:
        super().__init__()
        self._mask = mask

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record; it is always logged."""
        record.msg, record.args = self._mask(record.getMessage()), ()
        return True
