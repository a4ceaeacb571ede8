from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.models.failures import Kind, pause_asked, status_failure

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, {"message": "no such field"}, Kind.PERMANENT),
        (401, {"message": "wrong key"}, Kind.PERMANENT),
        (403, None, Kind.PERMANENT),
        (404, "<html>", Kind.PERMANENT),
        (501, None, Kind.PERMANENT),
        (429, {"code": "insufficient_quota"}, Kind.PERMANENT),
        (429, {"type": "insufficient_quota"}, Kind.PERMANENT),
        (429, {"code": "rate_limit_exceeded"}, Kind.RATE_LIMIT),
        (429, None, Kind.RATE_LIMIT),
        (408, None, Kind.TRANSIENT),
        (409, None, Kind.TRANSIENT),
        (500, None, Kind.TRANSIENT),
        (503, {"code": "content_filter"}, Kind.TRANSIENT),
        (529, None, Kind.TRANSIENT),
        (400, {"code": "content_filter"}, Kind.CONTENT_FILTER),
        (400, {"innererror": {"code": "ResponsibleAIPolicyViolation"}}, Kind.CONTENT_FILTER),
    ],
)
def test_an_error_status_is_one_of_four_kinds(status: int, body: object, kind: Kind) -> None:
    failure = status_failure(status, body, {}, "it failed")
    assert (failure.kind, failure.status) == (kind, status)


def test_the_servers_own_message_is_told() -> None:
    assert str(status_failure(400, {"message": "bad"}, {}, "x")) == "the server answered 400: bad"
    assert str(status_failure(502, None, {}, "gateway")) == "the server answered 502: gateway"
    listed = [{"error": {"message": "bad", "status": "INVALID_ARGUMENT"}}]
    assert str(status_failure(400, listed, {}, "x")) == "the server answered 400: bad"
    page = "<html><head><title>502 Bad\nGateway</title></head><body>x</body></html>"
    assert str(status_failure(502, page, {}, "x")) == "the server answered 502: 502 Bad Gateway"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": formatdate(NOW + 30, usegmt=True)}, 30),
        ({"retry-after": formatdate(NOW - 30, usegmt=True)}, 0),
        ({"retry-after": "soon"}, None),
        ({"x-ratelimit-reset-requests": "1s"}, 1),
        ({"x-ratelimit-reset-requests": "120ms"}, 0.12),
        ({"x-ratelimit-reset-tokens": "6m0s"}, 360),
        ({"x-ratelimit-reset-tokens": "1h2m3.5s"}, 3723.5),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "2s"}, 2),
        (
            {
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-tokens": "2s",
                "x-ratelimit-remaining-tokens": "90",
            },
            1,
        ),
        ({"x-ratelimit-reset": str(int(NOW) + 5)}, 5),
        ({"x-ratelimit-reset-requests": "2027-01-15T08:00:10Z"}, 10),
    ],
)
def test_a_server_says_in_many_ways_how_long_to_wait(
    headers: dict[str, str], seconds: float | None
) -> None:
    asked = pause_asked(headers, NOW)
    assert asked is None if seconds is None else asked == pytest.approx(seconds)


NAMES = ("retry-after", "retry-after-ms", "x-ratelimit-reset-requests", "x-ratelimit-reset")


@given(st.dictionaries(st.sampled_from(NAMES), st.text() | st.floats().map(str)))
def test_no_header_breaks_the_reading(headers: dict[str, str]) -> None:
    asked = pause_asked(headers, NOW)
    assert asked is None or 0 <= asked < float("inf")
