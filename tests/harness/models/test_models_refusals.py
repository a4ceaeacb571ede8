from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.models.fields import OURS, Choice, omitted, renames
from harness.models.refusals import LIMITS, Refusals, Refused, has_way_out, refused_fields
from harness.records import HarnessError

NEWER = "Use 'max_completion_tokens' instead."
DEFAULT = "Only the default (1) value is supported."


@pytest.mark.parametrize(
    ("said", "fields"),
    [
        ("Unrecognized request argument supplied: seed", ["seed"]),
        ("Unrecognized request arguments supplied: seed, temperature", ["seed", "temperature"]),
        ('json: unknown field "seed"', ["seed"]),
        ("unknown field `seed`, expected one of `model`, `temperature`", ["seed"]),
        ('Invalid JSON payload received. Unknown name "seed": Cannot find field.', ["seed"]),
        ("create() got an unexpected keyword argument 'seed'", ["seed"]),
        ("Additional properties are not allowed ('seed' was unexpected)", ["seed"]),
        ("property 'seed' is unsupported", ["seed"]),
        ("seed: Extra inputs are not permitted", ["seed"]),
        ("body.seed: Extra inputs\n  are not permitted", ["seed"]),
        ("`temperature` is deprecated for this model.", ["temperature"]),
        ("This model does not support the 'seed' parameter", ["seed"]),
        ("Model doesn't support parameters: temperature, seed", ["seed", "temperature"]),
        ("The following parameters are not supported by m: seed", ["seed"]),
        ("#: extraneous key [max_tokens] is not permitted", ["max_tokens"]),
        ("invalid request: parameter seed not supported", ["seed"]),
        ("temperature and seed are not supported", ["seed", "temperature"]),
        ("temperature cannot be set for reasoning models", ["temperature"]),
        (f"'temperature' does not support 0 with this model. {DEFAULT}", ["temperature"]),
        ("temperature isn't supported by this model", ["temperature"]),
        ("the `seed` param is currently not supported", ["seed"]),
        ("temperature has been deprecated for this model", ["temperature"]),
        ("max_tokens is no longer accepted by this model", ["max_tokens"]),
        (
            "1 validation error for Request\nbody.seed\n  Extra inputs are not permitted "
            "[type=extra_forbidden, input_value=0, input_type=int]",
            ["seed"],
        ),
        (
            "[{'type': 'extra_forbidden', 'loc': ('body', 'seed'), 'msg': 'Extra inputs are not "
            "permitted', 'input': 0}]",
            ["seed"],
        ),
        (f"Unsupported parameter: 'max_tokens' is not supported. {NEWER}", ["max_tokens"]),
    ],
)
def test_words_that_call_a_field_unknown_are_a_refusal(said: str, fields: list[str]) -> None:
    for error in (said, {"message": said}, {"detail": [{"msg": said}]}):
        assert sorted(refused_fields(error, OURS)) == fields


@pytest.mark.parametrize(
    "said",
    [
        "temperature must be <= 1",
        "temperature of 0 is not supported; use a value in (0, 2]",
        "temperature=0.7 is not supported",
        "temperature (0.0) is not supported",
        "temperature is not allowed to exceed 1",
        "The value of temperature is not supported",
        "Unsupported value: 'temperature' does not support 5 with this model.",
        "Unsupported parameter value 'temperature'",
        "model does not support temperature values other than 1",
        "temperature is not supported when top_p is set",
        "`temperature` and `top_p` cannot both be specified",
        "temperature: Input should be less than or equal to 1",
        "max_tokens is too large: 300000. This model supports at most 16384 completion tokens",
        "Invalid 'max_tokens': integer above maximum value. Expected a value <= 4096",
        "max_tokens 100000 is not supported",
        "max_tokens is not allowed to be larger than 4096",
        "This model does not support max_tokens greater than 4096",
        "max_tokens cannot be set above 4096",
        "max_tokens is not allowed: 8192 > 4096",
        "'max_tokens' not supported: 100000 exceeds the maximum of 4096",
        "This model doesn't allow max_tokens exceeding 4096",
        "Model does not support max_tokens this large",
        "Unsupported parameter: max_tokens too large",
        "max_tokens may not be specified as 0",
        "max_tokens is not recognized as an integer",
        "This model doesn't accept temperature outside [0, 1]",
        "The value of 'seed' is not supported",
        "Unexpected type for field max_tokens",
        "seed must be an integer",
        "'seed' is not a valid integer",
        "Unknown parameter: 'messages[1].seed'",
        "tools.0.seed is not supported",
        "reseed is not supported",
        "max_tokens_to_sample is not supported",
        "image input is not supported",
    ],
)
def test_words_about_a_value_or_about_something_else_are_none(said: str) -> None:
    for error in (said, {"message": said, "param": "temperature", "code": "invalid_value"}):
        assert refused_fields(error, OURS) == frozenset()


@pytest.mark.parametrize(
    ("error", "fields"),
    [
        ({"param": "seed", "code": "unsupported_parameter"}, ["seed"]),
        ({"param": "seed", "code": "unknown_parameter", "message": "no"}, ["seed"]),
        ({"param": "body.seed", "type": "not_supported"}, ["seed"]),
        ({"param": "seed", "message": "Unknown parameter."}, ["seed"]),
        (
            {"param": "max_tokens", "code": "unsupported_parameter", "message": NEWER},
            ["max_tokens"],
        ),
        (
            {"param": "temperature", "code": "unsupported_value", "message": DEFAULT},
            ["temperature"],
        ),
        ({"param": "temperature", "code": "unsupported_value", "message": "not 5"}, []),
        ({"param": "max_tokens", "code": "unsupported_value", "message": DEFAULT}, []),
        ({"param": "max_tokens", "code": "integer_above_max_value"}, []),
        ({"param": "messages[1].seed", "code": "unknown_parameter"}, []),
        ({"param": None, "code": "unknown_parameter"}, []),
        ([{"type": "extra_forbidden", "loc": ["body", "seed"]}], ["seed"]),
        ({"message": {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"]}]}}, ["seed"]),
        ({"detail": [{"type": "value_error.extra", "loc": ["seed"]}]}, ["seed"]),
        ({"detail": [{"msg": "extra fields not permitted", "loc": ["seed"]}]}, ["seed"]),
        ({"detail": [{"type": "less_than_equal", "loc": ["body", "temperature"]}]}, []),
        ({"detail": [{"type": "extra_forbidden", "loc": ["body", "messages", 0, "seed"]}]}, []),
        ({"input": {"messages": "unknown field seed"}, "msg": "no"}, []),
        ({"metadata": {"raw": '{"error": {"message": "unknown field `seed`"}}'}}, ["seed"]),
    ],
)
def test_codes_and_places_of_errors_are_read(error: Any, fields: list[str]) -> None:
    assert sorted(refused_fields(error, OURS)) == fields


LEAVES = st.none() | st.integers() | st.text(max_size=9) | st.sampled_from(["seed", "body.seed"])
KEYS = st.sampled_from(["param", "loc", "code", "type", "message", "msg", "detail"])


@given(
    st.recursive(
        LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4)
    )
)
def test_no_error_breaks_the_reading(error: Any) -> None:
    assert refused_fields(error, OURS) <= frozenset(OURS)


WORDS = ["unknown", "field", "seed", ",", "'", "and", " ", "not", "supported", "(", "\n", "is"]


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=3))
def test_no_text_takes_long_to_read(pieces: list[str]) -> None:
    refused_fields(" ".join(pieces * 4_000), OURS)


def test_the_limit_changes_its_name_and_the_rest_is_left_out() -> None:
    choice, refusals, place = Choice("max_tokens"), Refusals(), ("http://h", "m")
    assert choice.differences(refusals.of(place)) == {}
    refusals.learn(place, ["temperature", "max_tokens"])
    refused = refusals.of(place)
    assert choice.names(refused) == {"seed": "seed", "max_completion_tokens": LIMITS[1]}
    assert choice.differences(refused) == {
        "left_out": ["temperature"],
        "renamed": {"max_tokens": "max_completion_tokens"},
    }
    assert refusals.of(("http://h", "other")) == Refused()


def test_what_was_learnt_is_told_once_and_can_be_taken_over() -> None:
    refusals, later, place = Refusals(), Refusals(), ("http://h", "m")
    refusals.learn(place, ["seed", "max_completion_tokens"])
    news = refusals.news()
    assert refusals.news() == {}
    later.load({**news, ("http://h", "bad"): {"fields": 3, "limit": "x"}})
    assert later.of(place) == Refused(frozenset({"seed"}), "max_tokens")
    assert not later.of(("http://h", "bad"))
    assert later.news() == {}


def test_a_table_says_the_same_as_what_was_learnt() -> None:
    table = Choice("max_tokens", omitted(["seed"]), renames({"max_tokens": LIMITS[1]}))
    learnt = Choice("max_tokens").differences(Refused(frozenset({"seed"}), LIMITS[1]))
    assert table.differences() == learnt


def test_what_changes_no_request_changes_no_identity() -> None:
    assert Choice("max_tokens", rename={LIMITS[1]: "max_tokens"}).differences() == {}
    assert Choice("max_tokens", omitted(["temperature"]), reasons=True).differences() == {}


def test_the_limit_is_left_out_by_either_name_and_only_if_the_table_says_so() -> None:
    for name in LIMITS:
        assert set(Choice(LIMITS[1], omitted([name])).names()) == {"temperature", "seed"}
    assert not has_way_out(LIMITS)
    assert not has_way_out(())
    assert has_way_out(("seed", "max_tokens"))


@pytest.mark.parametrize("value", ["seed", ["messages"], ["top_p"], [3], {"seed": True}])
def test_only_fields_that_are_sent_by_default_can_be_left_out(value: Any) -> None:
    with pytest.raises(HarnessError, match="write a list of fields"):
        omitted(value)


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (["seed"], "write a table such as"),
        ({"top_p": "p"}, "write a table such as"),
        ({"seed": ""}, "write a table such as"),
        ({"seed": 3}, "write a table such as"),
        ({"seed": "temperature"}, "a name of its own"),
        ({"seed": "messages"}, "a name of its own"),
        ({"max_tokens": "n", "seed": "n"}, "a name of its own"),
    ],
)
def test_wrong_renames_are_named(value: Any, advice: str) -> None:
    with pytest.raises(HarnessError, match=advice):
        renames(value)
