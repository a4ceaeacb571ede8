"""Schemas are wholly understood before a reply meets them, in numbers, references, patterns."""

import json
import socket
import time
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.checks.schemas import known_schema, load_schema
from harness.checks.structured import json_schema
from harness.records import Case, HarnessError, Reply

CASE = Case("s", "c", ({"role": "user", "content": "?"},), None, source="x.jsonl:4")


def fits(schema, text, root):
    raw, _ = json_schema(CASE, Reply(text), load_schema(schema, root))
    assert raw.value is not None, raw.unscored
    return raw.passed


# ---------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("step", "number", "right"),
    [
        (0.01, "19.99", True),
        (0.01, "4.35", True),
        (0.01, "1.11", True),
        (0.01, "-1.11", True),
        (0.01, "0.29", True),
        (0.01, "19.999", False),
        (0.01, "1e2", True),
        (0.1, "1.1", True),
        (0.1, "1.15", False),
        (1e-7, "3e-7", True),
        (1e-7, "3.5e-7", False),
        (2.5, "1e300", True),
        (3, "100000000000000000000000000002", True),
        (3, "100000000000000000000000000001", False),
        (7, "-49", True),
        (1e-300, "1e308", True),
        (0.0001, "123456789.1234", True),
    ],
)
def test_multiples_are_those_of_the_decimals_as_written(tmp_path, step, number, right):
    assert fits({"multipleOf": step}, number, tmp_path) == right
    draft = {"$schema": "http://json-schema.org/draft-04/schema#", "multipleOf": step}
    assert fits(draft, number, tmp_path) == right


@settings(deadline=None, max_examples=100)
@given(
    st.sampled_from([0.01, 0.05, 0.001, 0.3, 1e-9, 25, 1e6]),
    st.integers(-(10**9), 10**9),
    st.sampled_from(["", ".0", "e-2", "e-5"]),
)
def test_multiples_are_those_of_exact_arithmetic(tmp_path_factory, step, number, end):
    text = f"{number}{end}"
    value = json.loads(text)
    exact = Fraction(Decimal(repr(value))) / Fraction(Decimal(repr(step)))
    assert fits({"multipleOf": step}, text, tmp_path_factory.getbasetemp()) == (
        exact.denominator == 1
    )


@pytest.mark.parametrize(
    ("schema", "text", "right"),
    [
        ({"const": 1}, "1.0", True),
        ({"const": 1}, "true", False),
        ({"const": True}, "1", False),
        ({"enum": [0, "a"]}, "false", False),
        ({"enum": [[1, {"a": 2.0}]]}, '[1.0, {"a": 2}]', True),
        ({"enum": [[False]]}, "[0]", False),
        ({"type": "integer"}, "2.0", True),
        ({"type": "integer"}, "2.5", False),
        ({"type": "integer"}, "1e20", True),
        ({"maximum": 0.1}, "0.1", True),
        ({"exclusiveMaximum": 0.1}, "0.1", False),
        ({"maximum": 9007199254740992}, "9007199254740993", False),
        ({"minimum": -0.3}, "-0.30", True),
        ({"uniqueItems": True}, "[1, 1.0]", False),
        ({"uniqueItems": True}, '[1, true, "1"]', True),
        ({"minLength": 2}, '"👍"', False),
    ],
)
def test_other_values_are_compared_as_the_standard_says(tmp_path, schema, text, right):
    assert fits(schema, text, tmp_path) == right


# ---------------------------------------------------------------------- references


@pytest.mark.parametrize(
    ("schema", "reference"),
    [
        ({"properties": {"a": {"$ref": "#/$defs/none"}}}, "#/$defs/none"),
        ({"properties": {"a": {"$ref": "#/$defs/ident"}}, "$defs": {"id": {}}}, "#/$defs/ident"),
        ({"type": "object", "$defs": {"unused": {"$ref": "#/nope"}}}, "#/nope"),
        ({"anyOf": [{"type": "null"}, {"items": {"$ref": "#nope"}}]}, "#nope"),
        ({"if": {"not": {"$dynamicRef": "#nope"}}}, "#nope"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/x"}}}}, "#/x"),
        ({"$ref": "#/more/a", "more": {"a": {"$ref": "#/x"}}}, "#/x"),
        ({"type": "object", "dependentSchemas": {"a": {"$ref": "#/x"}}}, "#/x"),
        ({"items": {"$ref": "missing.json"}}, "missing.json"),
        ({"items": {"$ref": "beside.json#/nope"}}, "beside.json#/nope"),
    ],
)
def test_a_reference_that_leads_nowhere_is_refused_before_any_reply(tmp_path, schema, reference):
    (tmp_path / "beside.json").write_text('{"$defs": {"a": {"type": "string"}}}')
    (tmp_path / "s.json").write_text(json.dumps(schema))
    for given_as in (schema, "s.json"):
        with pytest.raises(HarnessError) as refused:
            load_schema(given_as, tmp_path)
        sentence = str(refused.value)
        assert reference in sentence
        assert "leads nowhere" in sentence or "there is no such schema" in sentence


def test_a_reference_to_another_host_is_refused_and_never_fetched(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/schema.json"
        for schema in ({"properties": {"a": {"$ref": url}}}, {"$id": url, "$ref": "other.json"}):
            with pytest.raises(HarnessError, match=r"its \$ref .* nothing is fetched"):
                load_schema(schema, tmp_path)
        with pytest.raises(HarnessError, match=r"\$schema is"):
            load_schema({"$schema": url, "type": "object"}, tmp_path)
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}]},
        {"properties": {"a": {"$ref": "#/properties/a"}}},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        {"items": {"$ref": "#x"}, "$defs": {"x": {"$anchor": "x", "anyOf": [{"$ref": "#x"}]}}},
        {"$defs": {"a": {"if": {"not": {"$ref": "#/$defs/a"}}}}, "type": "object"},
        {"$id": "https://example.org/s.json", "oneOf": [{"$ref": "s.json"}]},
        {"$ref": "loop.json"},
    ],
    ids=json.dumps,
)
def test_references_without_end_are_refused_before_any_reply(tmp_path, schema):
    (tmp_path / "loop.json").write_text('{"allOf": [{"$ref": "loop.json"}]}')
    with pytest.raises(HarnessError, match="refers to itself without end"):
        load_schema(schema, tmp_path)


def test_two_schemas_of_one_id_are_refused(tmp_path):
    twins = {"a": {"$id": "https://example.org/t", "type": "null"}} | {
        "b": {"$id": "https://example.org/t", "$anchor": "x", "items": {"$ref": "#x"}}
    }
    with pytest.raises(HarnessError, match=r"two of its schemas have the \$id"):
        load_schema({"properties": twins}, tmp_path)


class Panic(BaseException):
    """What a panic of a library in Rust looks like from here."""


@pytest.mark.parametrize("schema", [True, dict, ["a"], None])
def test_what_is_no_schema_at_all_is_refused(tmp_path, schema):
    with pytest.raises(HarnessError, match="takes the path of a schema or a schema as a dict"):
        known_schema(schema, tmp_path, {})


@pytest.mark.parametrize("name", ["validator_for", "iter_errors"])
def test_a_panic_of_the_library_ends_in_a_sentence(tmp_path, monkeypatch, name):
    schema = load_schema({"type": "null"}, tmp_path)

    def panics(*given, **options):
        raise Panic("impossible")

    if name == "validator_for":
        monkeypatch.setattr(f"jsonschema_rs.{name}", panics)
        with pytest.raises(HarnessError, match="it is no JSON Schema: impossible"):
            load_schema({"type": "string"}, tmp_path)
    else:
        odd = replace(schema, validator=SimpleNamespace(iter_errors=panics))
        score, _ = json_schema(CASE, Reply("1"), odd)
        assert (score.value, score.passed) == (None, None)
        assert "cannot be judged: impossible" in score.unscored


@pytest.mark.parametrize(
    ("schema", "text", "right"),
    [
        ({"type": "array", "items": {"$ref": "#"}}, "[[[]], []]", True),
        ({"type": "array", "items": {"$ref": "#"}}, "[[[1]], []]", False),
        ({"$ref": "#/$defs/a~1b%20c", "$defs": {"a/b c": {"type": "null"}}}, "1", False),
        ({"$ref": "#here", "$defs": {"x": {"$anchor": "here", "type": "null"}}}, "1", False),
        ({"properties": {"$ref": {"type": "string"}}}, '{"$ref": 1}', False),
        ({"const": {"$ref": "#/nope"}}, '{"$ref": "#/nope"}', True),
        ({"$ref": "https://json-schema.org/draft/2020-12/schema"}, '{"type": "objekt"}', False),
        (
            {
                "$id": "https://example.org/tree",
                "$dynamicAnchor": "node",
                "properties": {"inner": {"$dynamicRef": "#node"}, "n": {"type": "integer"}},
            },
            '{"inner": {"inner": {"n": "x"}}}',
            False,
        ),
        (
            {
                "$schema": "http://json-schema.org/draft-07/schema#",
                "$id": "https://example.org/root.json",
                "items": {"$ref": "word.json"},
                "definitions": {"w": {"$id": "word.json", "type": "string"}},
            },
            "[1]",
            False,
        ),
        *(
            (
                {
                    "$schema": f"http://json-schema.org/draft-{draft}/schema#",
                    key: "https://example.org/order.json",
                    "$ref": "#/definitions/Order",
                    "definitions": {"Order": {"type": "integer"}},
                },
                text,
                right,
            )
            for draft, key in (("04", "id"), ("06", "$id"), ("07", "$id"))
            for text, right in (("1", True), ('"a"', False))
        ),
    ],
)
def test_references_lead_where_the_standard_says(tmp_path, schema, text, right):
    assert fits(schema, text, tmp_path) == right


def test_references_lead_to_files_beside_the_schema_whose_content_counts(tmp_path):
    folder = tmp_path / "schemas"
    folder.mkdir()
    (folder / "order.json").write_text(
        '{"properties": {"to": {"$ref": "parts/address.json#/$defs/address"}}}'
    )
    (folder / "parts").mkdir()
    address = folder / "parts/address.json"
    address.write_text(
        '{"$defs": {"address": {"required": ["zip"], "properties": {"zip": {"$ref": "zip.json"}}}}}'
    )
    (folder / "parts/zip.json").write_text('{"type": "string", "pattern": "^\\\\d{5}$"}')
    assert fits("schemas/order.json", '{"to": {"zip": "12345"}}', tmp_path)
    assert not fits("schemas/order.json", '{"to": {"zip": "1234"}}', tmp_path)
    assert fits({"$ref": "schemas/order.json"}, '{"to": {"zip": "12345"}}', tmp_path)
    before = load_schema("schemas/order.json", tmp_path).digest
    assert load_schema("schemas/order.json", tmp_path).digest == before
    address.write_text('{"$defs": {"address": {"type": "string"}}}')
    assert load_schema("schemas/order.json", tmp_path).digest != before
    address.write_text('{"$defs": ')
    with pytest.raises(HarnessError, match=r"^parts/address\.json:1: the schema is no valid JSON"):
        load_schema("schemas/order.json", tmp_path)


# ---------------------------------------------------------------------- patterns


@pytest.mark.parametrize(
    ("pattern", "text", "right"),
    [
        (r"^\p{L}+$", "Zoë", True),
        (r"^\p{Lu}\p{Ll}+$", "ZOË", False),
        (r"^\p{Script=Greek}+$", "λόγος", True),
        (r"^\d+$", "١٢", False),
        (r"^\w+$", "Zoë", False),
        (r"^a$", "a\n", False),
        (r"^\cJ$", "\n", True),
        (r"^\u{1F600}$", "😀", True),
        (r"^\u00e9\x41$", "éA", True),
        (r"^a\/b$", "a/b", True),
        (r"^(?<year>\d{4})-\d\d$", "2026-11", True),
        (r"^(?!.*--)[a-z-]+$", "a--b", False),
        (r"^(.)\1$", "xx", True),
        (r"^[\w.+-]+@[\w-]+\.\w+$", "a.b+c@d-e.fr", True),
        (r"b", "abc", True),
    ],
)
def test_patterns_are_read_as_ecmascript_has_them(tmp_path, pattern, text, right):
    assert fits({"pattern": pattern}, json.dumps(text), tmp_path) == right
    by_name = {"patternProperties": {pattern: True}, "additionalProperties": False}
    assert fits(by_name, json.dumps({text: 1}), tmp_path) == right
    unevaluated = {"patternProperties": {pattern: True}, "unevaluatedProperties": False}
    assert fits(unevaluated, json.dumps({text: 1}), tmp_path) == right


@pytest.mark.parametrize("pattern", ["(", "[a", r"\Z", r"(?P=x)", r"\p{Nope}", "a{3,1}"])
@pytest.mark.parametrize("keyword", ["pattern", "patternProperties"])
def test_a_pattern_that_is_none_is_refused_and_named(tmp_path, pattern, keyword):
    schema = {keyword: pattern if keyword == "pattern" else {pattern: {}}}
    with pytest.raises(
        HarnessError, match=rf"\$\.properties\.a\.{keyword}.*: .* is no pattern"
    ) as refused:
        load_schema({"properties": {"a": schema}}, tmp_path)
    assert repr(pattern) in str(refused.value)


@pytest.mark.parametrize(
    "pattern",
    [r"^(\w+\s?)*$", r"^(a+)+$", r"^(a|aa)+$", r"^([a-zA-Z0-9])(([\-.]|[_]+)?([a-zA-Z0-9]+))*@"],
)
def test_no_pattern_takes_longer_than_its_text_is(tmp_path, pattern):
    started = time.process_time()
    assert not fits({"pattern": pattern}, f'"{"a" * 50_000}!"', tmp_path)
    assert not fits(
        {"patternProperties": {pattern: True}, "additionalProperties": False},
        f'{{"{"a" * 50_000}!": 1}}',
        tmp_path,
    )
    assert time.process_time() - started < 20


ENDLESS = r"^(a*)*\1b$"


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"x": {"pattern": ENDLESS}}},
        {"properties": {"x": {"not": {"pattern": ENDLESS}}}},
        {"properties": {"x": {"anyOf": [{"pattern": ENDLESS}, {"type": "integer"}]}}},
        {"properties": {"x": {"if": {"pattern": ENDLESS}, "then": False}}},
        {"additionalProperties": {"$ref": "#/$defs/p"}, "$defs": {"p": {"pattern": ENDLESS}}},
    ],
    ids=json.dumps,
)
def test_a_reply_on_which_a_pattern_finds_no_end_has_no_score(tmp_path, schema):
    loaded = load_schema(schema, tmp_path)
    started = time.process_time()
    raw, inside = json_schema(CASE, Reply(json.dumps({"x": "a" * 5_000})), loaded)
    assert time.process_time() - started < 20
    for score in (raw, inside):
        assert (score.value, score.passed) == (None, None)
        assert "/pattern finds no end at $" in score.unscored
    assert json_schema(CASE, Reply('{"x": 1}'), loaded)[0].value is not None


# ---------------------------------------------------------------------- odd replies and schemas


def test_half_a_surrogate_pair_is_a_text(tmp_path):
    assert fits({"type": "string", "maxLength": 1}, r'"\ud800"', tmp_path)
    assert not fits({"enum": ["?"]}, r'"\ud800"', tmp_path)
    assert not fits({"properties": {"a": {"type": "null"}}}, r'{"a": ["\udfff"]}', tmp_path)


def test_what_only_describes_is_not_checked(tmp_path):
    for dialect in ("http://json-schema.org/draft-07/schema#", None):
        schema = {
            "format": "date",
            "contentEncoding": "base64",
            "contentMediaType": "application/json",
        }
        dialect and schema.update({"$schema": dialect})
        assert fits(schema, '"no date, no base64"', tmp_path)


@pytest.mark.parametrize(
    ("schema", "text", "explanation"),
    [
        (
            {"properties": {"a": {"anyOf": [{"type": "null"}, {"items": {"type": "null"}}]}}},
            '{"a": [null, 5]}',
            '$.a[1]: 5 is not of type "null"',
        ),
        (
            {"required": ["a"], "properties": {"b": {"type": "string"}}},
            '{"b": 1}',
            '$: "a" is a required property',
        ),
        ({"anyOf": [{"type": "null"}, {"required": ["a"]}]}, "{}", "$: {} is not valid under any"),
    ],
)
def test_the_explanation_is_that_of_the_nearest_fault(tmp_path, schema, text, explanation):
    score, _ = json_schema(CASE, Reply(text), load_schema(schema, tmp_path))
    assert score.explanation.startswith(explanation)
