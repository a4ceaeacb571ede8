from __future__ import annotations

import json
from base64 import b64encode, urlsafe_b64encode
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.models.secrecy import Mask, public_options, public_url, secrets_of_url
from harness.records import ModelSpec

secrets = st.text(st.characters(codec="utf-8"), min_size=6, max_size=40)
around = st.text("abc=+/ -_%", max_size=7)


@given(secrets, around, around)
def test_a_secret_is_hidden_in_all_its_writings(secret: str, before: str, after: str) -> None:
    mask = Mask([secret])
    assert secret not in mask(f"{before}{secret}{after}")
    for write in (
        quote,
        quote_plus,
        lambda text: quote(text, safe=""),
        lambda text: repr(text)[1:-1],
        lambda text: json.dumps(text)[1:-1],
        lambda text: b64encode(text.encode()).decode(),
        lambda text: urlsafe_b64encode(text.encode()).decode(),
    ):
        written = write(secret)
        assert written not in mask(f"before {written} after")


@pytest.mark.parametrize("before", ["", "x", "xy", "xyz", "user:"])
def test_a_secret_is_hidden_wherever_it_stands_in_a_base64_text(before: str) -> None:
    key = "sk-canary-0123456789"
    encoded = b64encode(f"{before}{key};".encode()).decode()
    shown = Mask([key])(encoded)
    for start in range(len(shown) - 11):
        assert shown[start : start + 12] not in encoded or "***" in shown[start : start + 12]


def test_short_texts_are_no_secrets() -> None:
    assert Mask(["v1", ""])("the v1 API") == "the v1 API"


def test_a_url_shows_where_and_not_who() -> None:
    url = "https://me:pass%20word@h.example:8443/v1/x?key=abcd&b=#part"
    assert public_url(url) == "https://h.example:8443/v1/x"
    assert secrets_of_url(url) == ["me", "pass word", "abcd"]
    options = {"base_url": url, "headers": {"X-Key": "abcd"}, "top_p": 1}
    assert public_options(options) == {
        "base_url": "https://h.example:8443/v1/x",
        "headers": {"X-Key": "(hidden)"},
        "top_p": 1,
    }


def test_a_model_shows_no_options_in_tracebacks() -> None:
    spec = ModelSpec("api", "openai", "m", options={"headers": {"X-Key": "sk-canary"}})
    assert "sk-canary" not in repr(spec)
