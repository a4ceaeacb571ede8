"""Where an `openai:` model is and how it is asked: the keys of its table, checked."""

from __future__ import annotations

import os
import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from harness.models.failures import CallFailed, Kind
from harness.models.fields import Choice, omitted, renames
from harness.models.refusals import LIMITS, NOTHING, Place, Refused
from harness.models.secrecy import (
    Mask,
    can_name_variable,
    public_url,
    public_variable,
    secrets_of_url,
)
from harness.records import EvidenceError, HarnessError, ModelSpec

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

_T = TypeVar("_T")

OPENAI_URL = "https://api.openai.com/v1"
OPENAI_KEY = "OPENAI_API_KEY"
AZURE_KEY = "AZURE_OPENAI_API_KEY"
CONCURRENCY = 64
TIMEOUT_S = 120.0

BODY_OPTIONS = frozenset(
    {
        "extra_body",
        "frequency_penalty",
        "logit_bias",
        "parallel_tool_calls",
        "presence_penalty",
        "reasoning_effort",
        "response_format",
        "stop",
        "tool_choice",
        "tools",
        "top_p",
        "verbosity",
    }
)
"""Keys of a model's table that go into every request: they decide the reply."""

PLACE_OPTIONS = frozenset({"base_url", "headers", "api_key_env", "api_version"})
WAY_OPTIONS = frozenset({"max_concurrency", "timeout_s"})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A service and an account there; equal ones share a client and its connections.

    `api_version` makes it an Azure-style service: the version goes into the query, the key into
    the header `api-key`. What is secret has no `repr`.
    """

    url: str
    key: str = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    query: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    api_version: str = ""

    @property
    def mask(self) -> Mask:
        """What hides this account's secrets."""
        return Mask(self.secrets)

    def client(self) -> AsyncOpenAI:
        """Return a client that tries once."""
        from openai import AsyncAzureOpenAI, AsyncOpenAI, DefaultAioHttpClient

        refuse = self._refuse_elsewhere()

        async def stay(request: Any) -> None:
            refuse(request)

        shared: dict[str, Any] = {
            **self._account,
            "timeout": None,  # each call has a deadline of its own, for everything together
            # Half the work per call of the usual client.
            "http_client": DefaultAioHttpClient(event_hooks={"request": [stay]}),
        }
        if self.api_version:
            return AsyncAzureOpenAI(azure_endpoint=self.url, api_version=self.api_version, **shared)
        return AsyncOpenAI(base_url=self.url, **shared)

    def waiting_client(self, timeout_s: float) -> OpenAI:
        """Return a client that tries once and waits for its answers, `timeout_s` at most."""
        from openai import AzureOpenAI, DefaultHttpxClient, OpenAI

        shared = {
            **self._account,
            "timeout": timeout_s,
            "http_client": DefaultHttpxClient(
                timeout=timeout_s, event_hooks={"request": [self._refuse_elsewhere()]}
            ),
        }
        if self.api_version:
            return AzureOpenAI(azure_endpoint=self.url, api_version=self.api_version, **shared)
        return OpenAI(base_url=self.url, **shared)

    def _refuse_elsewhere(self) -> Callable[[Any], None]:
        """Return what raises CallFailed for a request that a redirect leads to another host.

        It would carry headers that may hold keys, and the prompt.
        """
        from httpx2 import URL

        home = URL(self.url)

        def refuse(request: Any) -> None:
            url = request.url
            same = url.host == home.host and url.port == home.port
            if not same or url.scheme not in (home.scheme, "https"):
                where = f"{url.scheme}://{url.netloc.decode('ascii', 'replace')}"
                raise CallFailed(
                    Kind.PERMANENT,
                    f"the server redirects to {where}, and no request goes there; if that is the "
                    "service, name it in base_url",
                )

        return refuse

    @property
    def _account(self) -> dict[str, Any]:
        return {
            "api_key": self.key,
            "default_headers": dict(self.headers),
            "default_query": dict(self.query),
            "max_retries": 0,
        }


def identity_of(spec: ModelSpec, refused: Refused = NOTHING) -> dict[str, Any]:
    """Return what decides the replies of `spec`, without anything secret.

    `refused` is what its service was found to refuse.

    Raises:
        HarnessError: a key of the model's table is wrong.

    """
    timeout_of(spec), concurrency_of(spec), _headers(spec), _key_variable(spec)
    body = _body_of_table(spec)
    version = {"api_version": _text(spec, "api_version")} if "api_version" in spec.options else {}
    url = public_url(_base_url(spec)).rstrip("/")
    sent = choice_of(spec).differences(refused)
    return {"base_url": url, "model": spec.target, **version, **body, **sent}


def place_of(spec: ModelSpec) -> Place:
    """Return the service that `spec` is asked at, and the model there."""
    url = public_url(_base_url(spec)).rstrip("/")
    version = spec.options.get("api_version")
    return f"{url}?api-version={version}" if version else url, spec.target


def choice_of(spec: ModelSpec) -> Choice:
    """Return what the model's table says of the fields that are sent by default.

    Raises:
        HarnessError: `omit` or `rename` is wrong.

    """
    own, url = body_options(spec), public_url(_base_url(spec)).rstrip("/")
    # OpenAI's newer models refuse max_tokens; most compatible servers know nothing else.
    newer = url == OPENAI_URL or "api_version" in spec.options
    return Choice(
        limit="max_completion_tokens" if newer else "max_tokens",
        omit=_read(spec, "omit", omitted, []),
        rename=_read(spec, "rename", renames, {}),
        own=frozenset(own),
        reasons=own.get("reasoning_effort", "none") != "none",
    )


def longest_of(spec: ModelSpec) -> int | None:
    """Return the limit of tokens that is sent, whatever its name; None where none is.

    Raises:
        HarnessError: `omit` or `rename` is wrong.

    """
    sent, own = choice_of(spec).names(), body_options(spec)
    ours = [name for field, name in sent.items() if field in LIMITS]
    values = {**dict.fromkeys(ours, spec.sampling.max_tokens), **own}
    limits = [values.get(name) for name in {*ours, *LIMITS}]
    return max((limit for limit in limits if type(limit) is int), default=None)


def _read(spec: ModelSpec, option: str, read: Callable[[object], _T], usual: object) -> _T:
    try:
        return read(spec.options.get(option, usual))
    except HarnessError as advice:
        raise _wrong(spec, option, str(advice)) from None


def endpoint_of(spec: ModelSpec) -> Endpoint:
    """Return the service and the account that `spec` is asked with; reads the key.

    Raises:
        HarnessError: a key of the model's table is wrong.
        EvidenceError: the account's key is missing, as in a pull request from a fork.

    """
    url, headers, key = _base_url(spec), _headers(spec), _api_key(spec)
    parts = urlsplit(url)
    account = parts.netloc.rpartition("@")[0]
    if account:
        basic = b64encode(unquote(account).encode()).decode()
        headers.setdefault("Authorization", f"Basic {basic}")
    secrets = [key, *headers.values(), *secrets_of_url(url)]
    secrets += [word for value in headers.values() for word in value.split()]
    return Endpoint(
        url=public_url(url).rstrip("/"),
        key=key,
        headers=tuple(sorted(headers.items())),
        query=tuple(parse_qsl(parts.query)),
        secrets=tuple(sorted(set(secrets) - {"none", "Bearer", "Basic"})),
        api_version=_text(spec, "api_version") if "api_version" in spec.options else "",
    )


def body_options(spec: ModelSpec) -> dict[str, Any]:
    """Return the fields that the model's table adds to every request; `extra_body` wins."""
    found = _body_of_table(spec)
    return {**found, **found.pop("extra_body", {})}


def _body_of_table(spec: ModelSpec) -> dict[str, Any]:
    body = {key: spec.options[key] for key in sorted(BODY_OPTIONS & spec.options.keys())}
    _refuse_bad_body(spec, body)
    if spec.thinking != "off":
        return body
    extra = body.get("extra_body", {})
    switches = {"enable_thinking": False, **_table(extra.get("chat_template_kwargs"))}
    return {**body, "extra_body": {**extra, "chat_template_kwargs": switches}}


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def concurrency_of(spec: ModelSpec) -> int:
    """Return how many calls may be in flight at once at most."""
    value = spec.options.get("max_concurrency", CONCURRENCY)
    if type(value) is not int or value < 1:
        raise _wrong(spec, "max_concurrency", "write a whole number from 1 on")
    return value


def timeout_of(spec: ModelSpec) -> float:
    """Return after how many seconds a call without a whole answer is given up."""
    value = spec.options.get("timeout_s", TIMEOUT_S)
    if type(value) not in (int, float) or not 0 < value < 1e6:
        raise _wrong(spec, "timeout_s", "write a number of seconds")
    return float(value)


def _refuse_bad_body(spec: ModelSpec, body: Mapping[str, Any]) -> None:
    for name, kind, advice in (
        ("response_format", dict, 'write a table such as { type = "json_object" }'),
        ("extra_body", dict, "write a table of more fields of the request"),
        ("tools", list, "write a list of tables, as the API takes them"),
    ):
        if name in body and not isinstance(body[name], kind):
            raise _wrong(spec, name, advice)


def _base_url(spec: ModelSpec) -> str:
    url = spec.options.get("base_url") or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL
    if not isinstance(url, str) or not _is_url(url):
        raise HarnessError(
            f"the model {spec.name!r} ({spec.spec}) has a base_url that is no URL"
            f"{_shown_url(url)}; write one that begins with http:// or https://"
        )
    return url


def _is_url(url: str) -> bool:
    try:
        return bool(re.match(r"https?://[^/]", url) and urlsplit(url).hostname and _port(url))
    except ValueError:
        return False


def _port(url: str) -> bool:
    return urlsplit(url).port != 0


def _shown_url(url: object) -> str:
    """Quote a wrong URL where it can hold no secret."""
    text = repr(url)
    return "" if re.search("[@?#]", text) else f": {text}"


def _headers(spec: ModelSpec) -> dict[str, str]:
    headers = spec.options.get("headers", {})
    if not isinstance(headers, Mapping):
        raise _wrong(spec, "headers", 'write a table such as { X-Team = "blue" }')
    found = {str(name): str(value) for name, value in headers.items()}
    for name, value in found.items():
        if not _travels(f"{name}{value}"):
            raise _wrong(spec, f"headers.{name!r}", "use printable ASCII characters")
    return found


def _travels(text: str) -> bool:
    """Whether `text` can be sent in an HTTP header."""
    return text.isascii() and text.isprintable()


def _text(spec: ModelSpec, option: str) -> str:
    value = spec.options[option]
    if not isinstance(value, str) or not value:
        raise _wrong(spec, option, "write a text")
    return value


def _key_variable(spec: ModelSpec) -> str:
    """Return the name of the environment variable that holds the key."""
    if "api_key_env" not in spec.options:
        return AZURE_KEY if "api_version" in spec.options else OPENAI_KEY
    variable = _text(spec, "api_key_env")
    if not can_name_variable(variable):
        raise _wrong(
            spec,
            "api_key_env",
            "write the name of an environment variable (what stands there is not shown: a key "
            "belongs into the variable and not here)",
        )
    return variable


def _api_key(spec: ModelSpec) -> str:
    variable = _key_variable(spec)
    key = os.environ.get(variable, "").strip()
    url = public_url(_base_url(spec)).rstrip("/")
    needs_one = {"api_key_env", "api_version"} & spec.options.keys() or url == OPENAI_URL
    if not key and needs_one:
        shown = public_variable(variable) or (
            "that its api_key_env names (not shown here, because it looks like a key itself)"
        )
        raise EvidenceError(
            f"the model {spec.name!r} ({spec.spec}) needs a key: set the environment variable "
            f"{shown}, or name another one with api_key_env; where there are no secrets, "
            "compare with a recording (replay:FILE)"
        )
    if not _travels(key):
        raise HarnessError(
            f"the model {spec.name!r} ({spec.spec}): the key in the environment variable "
            f"{variable} holds characters that no key has; set it again"
        )
    return key or "none"


def _wrong(spec: ModelSpec, option: str, advice: str) -> HarnessError:
    return HarnessError(f"the model {spec.name!r} ({spec.spec}) has a wrong {option}; {advice}")
