import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.records import DEEPEST, Reply, strict_json

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**300), 10**300)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None, max_examples=50)
@given(VALUES)
def test_reads_what_json_writes(value):
    assert strict_json(json.dumps(value)) == value


@settings(deadline=None, max_examples=50)
@given(st.text() | st.text(alphabet='{}[]",:0123456789.eE-+ nulltruefalseNaInfity\\u'))
def test_reads_any_text_or_raises_value_error(text):
    try:
        value = strict_json(text)
    except ValueError:
        return
    assert value == json.loads(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ("{'a': 1}", "double quotes"),
        ('{"a": 1,}', "property name|double quotes|trailing comma"),
        ('{"a": 1} and more', "Extra data"),
        ('{"a": NaN}', "NaN is no JSON"),
        ("-Infinity", "-Infinity is no JSON"),
        ("1e999", "too large"),
        ("-" + "9" * 400, "too large"),
        ("9" * 5000, "too large"),
        ('{"a": 1, "a": 1}', "the key 'a' stands twice"),
        ('[{"b": {"a": 1, "a": 2}}]', "the key 'a' stands twice"),
        ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), "levels deep"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "nested too deeply"),
        ("[" * 100_000, "nested too deeply"),
        ('"\x00"', "control character"),
    ],
)
def test_refuses_what_parsers_forgive(text, reason):
    with pytest.raises(ValueError, match=reason):
        strict_json(text)


def test_reads_up_to_the_deepest_level_and_large_numbers():
    assert strict_json("[" * DEEPEST + "]" * DEEPEST)
    assert strict_json("1" + "0" * 300) == 10**300
    assert math.isfinite(strict_json("1e308"))


def test_reply_json_is_strict_and_fails_an_assertion():
    assert Reply(text=' {"a": "\\u0000"}\n').json() == {"a": "\0"}
    for text in ('{"a": 1, "a": 2}', "[" * 10_000, "NaN", "```json\n{}\n```"):
        with pytest.raises(AssertionError, match="the reply is no JSON"):
            Reply(text=text).json()
