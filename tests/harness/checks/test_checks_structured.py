import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.checks.schemas import load_schema
from harness.checks.structured import (
    field_accuracy,
    fields,
    first_object,
    json_schema,
    unfenced,
)
from harness.records import Case, HarnessError, Reply

SCHEMA = {
    "type": "object",
    "properties": {
        "urgency": {"enum": ["low", "high"]},
        "name": {"type": ["string", "null"]},
        "nested": {"$ref": "#/$defs/nested"},
    },
    "required": ["urgency"],
    "additionalProperties": False,
    "$defs": {"nested": {"type": "array", "items": {"$ref": "#/$defs/nested"}}},
}
GOOD = '{"urgency": "low", "name": null}'


def case(expected=None):
    return Case("s", "c", ({"role": "user", "content": "?"},), expected, source="x.jsonl:4")


@pytest.fixture
def schema(tmp_path):
    return load_schema(SCHEMA, tmp_path)


def match(text, schema):
    raw, beside = json_schema(case(), Reply(text), schema)
    assert (raw.metric, beside.metric) == ("schema_match", "schema_match_unfenced")
    assert (raw.diagnostic, beside.diagnostic) == (False, True)
    for score in (raw, beside):
        assert score.passed == (score.value == 1) == (not score.explanation)
        assert score.explanation.isprintable()
        assert len(score.explanation) < 300
    return raw.value, beside.value


@pytest.mark.parametrize(
    ("text", "raw", "beside"),
    [
        (GOOD, 1, 1),
        (f"\n {GOOD}\t", 1, 1),
        (f"```json\n{GOOD}\n```", 0, 1),
        (f"```\n{GOOD}\n```", 0, 1),
        (f"Here you are:\n```JSON \n{GOOD}\n```\nHope it helps!", 0, 1),
        (f"```json\r\n{GOOD}\r\n```", 0, 1),
        (f"```json\n{GOOD}", 0, 1),
        (f"```json\n{GOOD}\n```\n```json\n{{}}\n```", 0, 1),
        (f"```json\n{{}}\n```\n```json\n{GOOD}\n```", 0, 0),
        (f"Sure! {GOOD}", 0, 0),
        (f"{GOOD} Anything else?", 0, 0),
        (f"{GOOD}{GOOD}", 0, 0),
        ("", 0, 0),
        ("null", 0, 0),
        ("[]", 0, 0),
        ("{}", 0, 0),
        ('{"urgency": "urgent"}', 0, 0),
        ('{"urgency": "low", "note": "x"}', 0, 0),
        ('{"urgency": "high", "urgency": "low"}', 0, 0),
        ('{"urgency": "low", "name": NaN}', 0, 0),
        ("{'urgency': 'low'}", 0, 0),
        ('{"urgency": "low",}', 0, 0),
        ('{"urgency": "low"', 0, 0),
    ],
)
def test_the_raw_reply_has_to_fit_and_the_fence_is_a_diagnostic(schema, text, raw, beside):
    assert match(text, schema) == (raw, beside)


@pytest.mark.parametrize(
    ("text", "explanation"),
    [
        ('{"urgency": "urgent"}', '$.urgency: "urgent" is not one of "low" or "high"'),
        ('{"urgency": "low", "name": 7}', '$.name: 7 is not of types "null", "string"'),
        ('{"name": "Zoë"}', '$: "urgency" is a required property'),
        ("Zoë", "no JSON: Expecting value: line 1 column 1 (char 0)"),
        ('{"a": 1, "a": 2}', "no JSON: the key 'a' stands twice in one object"),
    ],
)
def test_the_explanation_says_what_does_not_fit(schema, text, explanation):
    assert json_schema(case(), Reply(text), schema)[0].explanation == explanation


def nested(depth):
    return '{"urgency": "low", "nested": ' + "[" * depth + "]" * depth + "}"


@pytest.mark.parametrize(
    "text",
    [
        nested(100),
        nested(400),
        nested(100_000),
        '{"urgency": ' + "9" * 10_000 + "}",
        '{"urgency": 1e999}',
        '{"\x1b[31m": 1}',
        '{"\\u001b[31m\\u202e\\ud800": "\\u0000"}',
        '{"urgency": "' + "x" * 100_000 + '"}',
        '{"urgency": "\x00"}',
        "\x1b]0;title\x07",
        "\ud800",
    ],
    ids=lambda text: repr(text)[:30],
)
def test_hostile_replies_match_nothing_and_break_nothing(schema, text):
    assert match(text, schema) == (0, 0)


def test_a_reply_as_deep_as_can_be_read_may_match(schema):
    assert match(nested(50), schema) == (1, 1)


def test_a_reply_as_deep_as_can_be_read_fits_a_deep_schema(tmp_path):
    inner = {"items": {"$ref": "#/$defs/n"}}
    for _ in range(60):
        inner = {"allOf": [inner]}
    schema = load_schema({"$ref": "#/$defs/n", "$defs": {"n": inner}}, tmp_path)
    assert match("[" * 99 + "]" * 99, schema) == (1, 1)
    assert match("[" * 98 + "1" + "]" * 98, schema) == (1, 1)


@pytest.mark.parametrize(
    "hostile",
    [
        '{"a":' * 200_000,
        "{" * 200_000,
        '{"' * 200_000,
        "```" * 200_000,
        "```json\n" * 100_000,
        "```json" + " " * 200_000,
        "```\n" + " " * 200_000 + "x",
        '{"a": "' + "{" * 200_000,
    ],
    ids=lambda text: repr(text)[:15],
)
def test_no_reply_takes_long(schema, hostile):
    started = time.process_time()
    match(hostile, schema)
    fields(case(GOOD), Reply(hostile))
    assert time.process_time() - started < 5


# ---------------------------------------------------------------------- schema files


def test_a_schema_is_read_from_a_file_or_given(tmp_path):
    (tmp_path / "s.json").write_text("\ufeff" + json.dumps(SCHEMA, indent=1))
    from_file, given_one = load_schema("s.json", tmp_path), load_schema(SCHEMA, tmp_path)
    assert from_file.digest == given_one.digest
    assert from_file.where == "s.json"
    digests = {json_schema(case(), Reply(GOOD), one)[0].check for one in (from_file, given_one)}
    assert len(digests) == 1
    other = load_schema({**SCHEMA, "required": []}, tmp_path)
    assert json_schema(case(), Reply(GOOD), other)[0].check not in digests


@pytest.mark.parametrize(
    ("content", "where", "problem"),
    [
        ("{\n  'a': 1}", ":2", "the schema is no valid JSON"),
        ("", ":1", "the schema is no valid JSON"),
        ('{"type": "object", "type": "array"}', "", "the key 'type' stands twice"),
        ("[" * 100_000, "", "the schema is no valid JSON: it is nested too deeply"),
        ("true", "", "a JSON Schema is an object, not True"),
        ("[]", "", r"a JSON Schema is an object, not \[\]"),
        ('{"type": "objekt"}', "", r'it is no JSON Schema: \$\.type: "objekt" is not valid'),
        ('{"properties": ["a"]}', "", r"it is no JSON Schema: \$\.properties: "),
        ('{"$ref": "#"}', "", "refers to itself without end"),
        ('{"$ref": "#/x"}', "", r"its \$ref '#/x' leads nowhere"),
        ('{"pattern": "("}', "", r"it is no JSON Schema: \$\.pattern: '\(' is no pattern"),
        ('{"urgency": "low", "name": null}', "", r"none of its keys \['urgency', 'name'\] says"),
        ("{}", "", "it is no JSON Schema: none of its keys"),
        ('{"$schema": "https://example.org/x", "type": "object"}', "", r"\$schema is 'https"),
        ('{"$schema": [1], "type": "object"}', "", r"\$schema is \[1\]"),
    ],
)
def test_what_is_no_schema_is_refused_with_its_path(tmp_path, content, where, problem):
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(HarnessError, match=rf"^s\.json{where}: .*{problem}") as refused:
        load_schema("s.json", tmp_path)
    assert "\n" not in str(refused.value)


def test_a_schema_that_cannot_be_read_is_refused_with_its_path(tmp_path):
    with pytest.raises(HarnessError, match=r"^no\.json: there is no such schema"):
        load_schema("no.json", tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(HarnessError, match=r"^folder: the schema cannot be read"):
        load_schema("folder", tmp_path)
    (tmp_path / "s.json").write_bytes(b'{"type": "\xff"}')
    with pytest.raises(HarnessError, match=r"^s\.json: the schema is no valid JSON"):
        load_schema("s.json", tmp_path)


@pytest.mark.parametrize(
    "content", [{"type": 5}, {"const": float("nan")}, {"const": {1: 2, "a": 3}}]
)
def test_a_given_schema_that_is_none_is_refused(tmp_path, content):
    with pytest.raises(HarnessError, match=r"^the schema given to score\.json_schema: it is no"):
        load_schema(content, tmp_path)


def test_a_schema_of_an_older_draft_is_read_as_such(tmp_path):
    old = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "array",
        "items": [{"type": "integer"}],
    }
    schema = load_schema(old, tmp_path)
    assert json_schema(case(), Reply("[1]"), schema)[0].value == 1
    assert json_schema(case(), Reply('["a"]'), schema)[0].value == 0


# ---------------------------------------------------------------------- fields

TICKET = {"category": "defect", "name": " Zoë", "order": None, "count": 2, "gift": True}


def accuracies(expected, text, **settings):
    raw, beside = fields(case(json.dumps(expected)), Reply(text), **settings)
    assert (raw.metric, beside.metric) == ("field_accuracy", "field_accuracy_unfenced")
    assert (raw.diagnostic, beside.diagnostic) == (False, True)
    assert raw.parts.keys() == beside.parts.keys() == expected.keys()
    assert raw.passed == (raw.value == 1) == (not raw.explanation)
    if not settings:
        assert field_accuracy(json.dumps(expected), text) == raw.value
    return raw.value, beside.value


@pytest.mark.parametrize(
    ("changes", "right"),
    [
        ({}, 5),
        ({"name": "Zoë \n"}, 5),
        ({"count": 2.0}, 5),
        ({"extra": 1, "more": 2}, 5),
        ({"category": "Defect"}, 4),
        ({"order": ""}, 4),
        ({"order": "null"}, 4),
        ({"count": "2"}, 4),
        ({"gift": 1}, 4),
        ({"gift": "true"}, 4),
        ({"category": None, "name": 1, "order": 1, "count": 3, "gift": False}, 0),
    ],
)
def test_field_accuracy_is_right_fields_by_expected_fields(changes, right):
    text = json.dumps({**TICKET, **changes})
    assert accuracies(TICKET, text) == pytest.approx((right / 5, right / 5))


def test_a_missing_field_is_wrong_even_where_null_is_expected():
    text = json.dumps({"category": "defect", "count": 2})
    raw, _ = fields(case(json.dumps(TICKET)), Reply(text))
    assert raw.parts == {"category": 1, "name": 0, "order": 0, "count": 1, "gift": 0}
    assert raw.explanation == "name is missing; order is missing; gift is missing"


def test_a_field_is_found_in_any_normal_form():
    raw, _ = fields(case('{"größe": "L", "é": 1}'), Reply('{"gro\u0308ße": "L", "e\u0301": 2}'))
    assert raw.parts == {"größe": 1, "é": 0}
    assert raw.explanation == "é: 2 instead of 1"


def test_the_explanation_shows_both_values():
    raw, _ = fields(case('{"a": "x", "b": 1}'), Reply('{"a": "\\u001b[31my", "b": 1}'))
    assert raw.explanation == "a: '\\x1b[31my' instead of 'x'"


def test_case_folds_on_request():
    assert accuracies({"a": "Defect", "b": ["X"]}, '{"a": "dEFECT", "b": ["x"]}') == (0, 0)
    folded = accuracies(
        {"a": "Defect", "b": ["X"]}, '{"a": "dEFECT", "b": ["x"]}', ignore_case=True
    )
    assert folded == (1, 1)


@pytest.mark.parametrize(
    ("expected", "got", "right"),
    [
        ([1, " a"], [1.0, "a "], True),
        ([1, 2], [2, 1], False),
        ([1, 2], [1], False),
        ([1], [True], False),
        ({"x": [{"y": "z"}]}, {"x": [{"y": "z "}]}, True),
        ({"x": 1}, {"x": 1, "y": 2}, False),
        ({"x": 1}, [["x", 1]], False),
        (0, False, False),
        (None, None, True),
        (None, 0, False),
        ("Zürich\u00a0", "\ufeffZu\u0308rich", True),
        ({"größe": ["é"]}, {"gro\u0308ße": ["e\u0301\u200b"]}, True),
        ("é", "e", False),
    ],
)
def test_nested_values_are_compared_as_json_values(expected, got, right):
    value = float(right)
    assert accuracies({"a": expected}, json.dumps({"a": got})) == (value, value)


def test_two_names_that_read_the_same_are_two_fields():
    both = {"a": 1, "a\u200b": 2}
    assert accuracies(both, json.dumps(both)) == (1, 1)
    assert accuracies({"x": both}, json.dumps({"x": both})) == (1, 1)
    assert accuracies({"a": 2}, json.dumps(both)) == (0, 0)
    assert accuracies({"x": {"a": 2}}, json.dumps({"x": both})) == (0, 0)


OBJECT = '{"a": "b"}'


@pytest.mark.parametrize(
    ("text", "beside"),
    [
        (f"```json\n{OBJECT}\n```", 1),
        (f"Sure, here it is: {OBJECT} — anything else?", 1),
        (f"In the form {{a}}: {OBJECT}", 1),
        (f'{{"a": "c"}} {OBJECT}', 0),
        (f"[{OBJECT}]", 1),
        ('{"a": "c", "a": "b"}', 0),
        (f'{{"a": "c", "a": {OBJECT}}}', 1),
        ('{"a": "b"', 0),
        ('{"a": "b", "n": NaN}', 0),
        ("", 0),
        ("null", 0),
        ('"a"', 0),
        ("{" * 2000 + OBJECT, 0),
    ],
)
def test_without_one_strict_object_there_are_no_points(text, beside):
    assert accuracies({"a": "b"}, text) == (0, beside)
    assert fields(case(OBJECT), Reply(text))[0].explanation == "no JSON object"


@pytest.mark.parametrize("expected", ["defect", "[1]", "{}", '{"a": 1, "a": 2}', "null"])
def test_a_reference_without_fields_names_the_case(expected):
    with pytest.raises(HarnessError, match=r"^x\.jsonl:4: .* is no JSON object with fields"):
        fields(case(expected), Reply("{}"))
    assert field_accuracy(expected, expected) == 0


def test_fields_without_a_reference_name_the_case():
    with pytest.raises(HarnessError, match=r"^x\.jsonl:4: the case 'c' has no reference answer"):
        fields(case(), Reply("{}"))


def test_the_digest_of_fields_follows_the_settings():
    plain, folded = (
        fields(case(OBJECT), Reply(""), ignore_case=ignore)[0].check for ignore in (False, True)
    )
    assert plain != folded


LEAVES = st.sampled_from([None, True, False, 0, 1, -2.5, "", " a", "A", "}{", '"', "\u202e"])
JSON = LEAVES | st.lists(LEAVES, max_size=3) | st.dictionaries(st.sampled_from("abc"), LEAVES)
OBJECTS = st.dictionaries(st.sampled_from(["a", "b", "", "{"]), JSON, min_size=1)


@settings(deadline=None, max_examples=50)
@given(OBJECTS, st.text(st.characters(exclude_characters="{}`")), st.text())
def test_an_object_is_right_about_itself_and_found_in_any_chatter(value, before, after):
    text = json.dumps(value)
    assert accuracies(value, text) == (1, 1)
    assert first_object(before + text + after) == value


@settings(deadline=None, max_examples=50)
@given(OBJECTS, OBJECTS, st.text())
def test_field_accuracy_lies_between_0_and_1(expected, got, chatter):
    for text in (json.dumps(got), chatter, f"```\n{json.dumps(got)}\n```"):
        assert all(0 <= value <= 1 for value in accuracies(expected, text))


@settings(deadline=None, max_examples=50)
@given(st.text(st.characters(exclude_characters="`")))
def test_a_text_without_a_fence_is_left_alone(text):
    assert unfenced(text) == text
    assert unfenced(f"```json\n{text}```") == text


def test_importing_the_checks_imports_no_library():
    import subprocess
    import sys

    code = (
        "import sys; import harness.scoring, harness.cases, harness.data.leakage; "
        "print({'jsonschema_rs', 'regex', 'rouge_score', 'nltk', 'numpy'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
