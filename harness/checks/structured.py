"""Checks of JSON replies: against a schema, and field by field against the reference.

The raw reply counts: a fence or a word around the JSON fails. The figures without them are
diagnostics (`<metric>_unfenced`), shown beside and never gated.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from harness.checks import check_digest, quoted, reference, right_or_wrong, shortened
from harness.records import Case, HarnessError, Reply, Score, digest_of, strict_json
from harness.unicode import by_form, normalised, same_text

if TYPE_CHECKING:
    from jsonschema.exceptions import SchemaError, ValidationError
    from jsonschema.protocols import Validator

DEFAULT_DIALECT = "https://json-schema.org/draft/2020-12/schema"
MOST_BRACES = 1000
"""Opening braces at which an object is looked for: a hostile reply has as many as it likes."""

_FENCE = re.compile(r"```[^`\n]*\n(.*?)(?:```|\Z)", re.DOTALL)


# ---------------------------------------------------------------------- schema


@dataclass(frozen=True)
class Schema:
    """A JSON Schema, ready to use: `where` it comes from and the `digest` of its content."""

    where: str
    digest: str
    validator: Validator


def load_schema(schema: str | Path | Mapping[str, Any], root: Path) -> Schema:
    """Return the schema in a file (relative to `root`), or the one given as a mapping.

    Without `$schema` it is read as draft 2020-12.

    Raises:
        HarnessError: there is no such file, it is no JSON, or it is no JSON Schema that ends.

    """
    if isinstance(schema, Mapping):
        return _schema(dict(schema), "the schema given to score.json_schema")
    return _schema(_read(root / schema, str(schema)), str(schema))


def _read(path: Path, where: str) -> Any:
    try:
        return strict_json(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise HarnessError(f"{where}: there is no such schema; correct the path") from None
    except OSError as problem:
        raise HarnessError(f"{where}: the schema cannot be read ({problem.strerror})") from None
    except ValueError as problem:
        line = f":{problem.lineno}" if isinstance(problem, json.JSONDecodeError) else ""
        raise HarnessError(
            f"{where}{line}: the schema is no valid JSON: {problem}; correct it"
        ) from None


def _schema(content: Any, where: str) -> Schema:
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for
    from referencing import Registry

    if not isinstance(content, dict):
        raise HarnessError(f"{where}: a JSON Schema is an object, not {quoted(content)}")
    dialect = content.get("$schema", DEFAULT_DIALECT)
    kind = validator_for({"$schema": str(dialect)}, default=None)  # type: ignore[arg-type]
    if kind is None:
        raise HarnessError(f"{where}: $schema is {quoted(dialect)}; use {DEFAULT_DIALECT}")
    if not kind.VALIDATORS.keys() & content.keys():
        raise HarnessError(
            f"{where}: it is no JSON Schema: none of its keys {quoted(list(content))} says "
            "anything about a reply; begin with type, properties and required"
        )
    try:
        kind.check_schema(content)
        digest = digest_of(content)
    except SchemaError as problem:
        raise HarnessError(
            f"{where}: it is no JSON Schema: {_fault(problem)}; correct it"
        ) from None
    except (RecursionError, TypeError, ValueError) as problem:
        raise HarnessError(f"{where}: it is no JSON Schema: {problem}; correct it") from None
    # An empty registry, because the default one fetches references from the network.
    schema = Schema(where, digest, kind(content, registry=Registry()))
    _refuse_endless(schema)
    return schema


def _refuse_endless(schema: Schema) -> None:
    try:
        _best_match(schema, None)
    except RecursionError:
        raise HarnessError(
            f"{schema.where}: it is no JSON Schema: it refers to itself without end; correct it"
        ) from None


def json_schema(
    case: Case, reply: Reply, schema: Schema, *, name: str = "schema_match"
) -> tuple[Score, Score]:
    """Score 1 if the raw reply is strict JSON that fits `schema`.

    The diagnostic `<name>_unfenced` does the same with the inside of the reply's first Markdown
    fence. `format` is not checked, as JSON Schema has it by default.

    Raises:
        HarnessError: a `$ref` of the schema leads nowhere.

    """
    check = check_digest("json_schema", 1, schema=schema.digest)
    raw = right_or_wrong(name, _misfit(reply.text, schema), check)
    inside = _misfit(unfenced(reply.text), schema)
    return raw, _diagnostic(right_or_wrong(f"{name}_unfenced", inside, check))


def _misfit(text: str, schema: Schema) -> str:
    """Return why `text` does not fit `schema`; nothing if it does."""
    try:
        error = _best_match(schema, strict_json(text))
    except RecursionError:
        return "it is nested too deeply for the schema"
    except ValueError as problem:
        return shortened(f"no JSON: {problem}", 200)
    return _fault(error) if error else ""


def _best_match(schema: Schema, value: Any) -> ValidationError | None:
    from jsonschema.exceptions import best_match
    from referencing.exceptions import Unresolvable

    try:
        error: ValidationError | None = best_match(schema.validator.iter_errors(value))
    except Unresolvable as problem:
        raise HarnessError(
            f"{schema.where}: its $ref {quoted(problem.ref)} leads nowhere; correct it"
        ) from None
    return error


def _fault(error: ValidationError | SchemaError) -> str:
    return f"{_printable(error.json_path, 80)}: {_printable(error.message, 200)}"


def _printable(text: str, longest: int) -> str:
    cut = shortened(text, longest)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def unfenced(text: str) -> str:
    """Return the inside of the first Markdown code fence in `text`; without one, `text`."""
    fence = _FENCE.search(text)
    return fence.group(1) if fence else text


def _diagnostic(score: Score) -> Score:
    return replace(score, diagnostic=True)


# ---------------------------------------------------------------------- fields


def fields(
    case: Case, reply: Reply, *, ignore_case: bool = False, name: str = "field_accuracy"
) -> tuple[Score, Score]:
    """Score the share of the expected fields that the reply has right; `parts` are the fields.

    The raw reply has to be one strict JSON object, otherwise it earns nothing. Texts are compared
    without white space around them, other values as JSON values (1 is 1.0, and no truth value);
    fields that nobody expects do not count. The diagnostic `<name>_unfenced` reads the first JSON
    object in the reply, whatever stands around it.

    Raises:
        HarnessError: the reference is no JSON object with fields.

    """
    expected = _expected_fields(case)
    check = check_digest("fields", 2, ignore_case=ignore_case)
    raw = _field_score(name, expected, strict_object(reply.text), ignore_case, check)
    inside = first_object(reply.text)
    beside = _field_score(f"{name}_unfenced", expected, inside, ignore_case, check)
    return raw, _diagnostic(beside)


def _expected_fields(case: Case) -> dict[str, Any]:
    expected = strict_object(reference(case, "fields"))
    if not expected:
        raise HarnessError(
            f"{case.source}: the reference of the case {case.id!r} is no JSON object with fields, "
            "which the check fields compares with; correct the case or use another check"
        )
    return expected


def _field_score(
    metric: str,
    expected: Mapping[str, Any],
    got: Mapping[str, Any] | None,
    ignore_case: bool,
    check: str,
) -> Score:
    parts = _parts(expected, got, ignore_case)
    value = fmean(parts.values())
    explanation = _field_problems(expected, got, parts)
    return Score(metric, value, value == 1, explanation, parts=parts, check=check)


def _parts(
    expected: Mapping[str, Any], got: Mapping[str, Any] | None, ignore_case: bool
) -> dict[str, float]:
    found = by_form(got or {})
    return {
        key: float(
            (form := normalised(key)) in found
            and same_json(value, found[form], ignore_case=ignore_case)
        )
        for key, value in expected.items()
    }


def _field_problems(
    expected: Mapping[str, Any], got: Mapping[str, Any] | None, parts: Mapping[str, float]
) -> str:
    if got is None:
        return "no JSON object"
    found = by_form(got)
    wrong = [
        f"{_printable(key, 80)}: {quoted(found[form])} instead of {quoted(expected[key])}"
        if (form := normalised(key)) in found
        else f"{_printable(key, 80)} is missing"
        for key, part in parts.items()
        if not part
    ]
    return shortened("; ".join(wrong), 300)


def same_json(expected: Any, got: Any, *, ignore_case: bool = False) -> bool:
    """Return whether two JSON values are equal: texts and names where they read the same.

    White space around texts does not count; 1 is 1.0, and no truth value.
    """
    if isinstance(expected, str) and isinstance(got, str):
        return same_text(expected, got, ignore_case=ignore_case)
    if isinstance(expected, list) and isinstance(got, list):
        pairs = zip(expected, got, strict=False)
        return len(expected) == len(got) and all(
            same_json(a, b, ignore_case=ignore_case) for a, b in pairs
        )
    if isinstance(expected, dict) and isinstance(got, dict):
        expected, got = by_form(expected), by_form(got)
        return expected.keys() == got.keys() and all(
            same_json(value, got[key], ignore_case=ignore_case) for key, value in expected.items()
        )
    return isinstance(expected, bool) == isinstance(got, bool) and bool(expected == got)


def field_accuracy(expected: str, text: str) -> float:
    """Return the share of the fields of the JSON object `expected` that `text` has right.

    As `fields` scores it; 0 if `expected` is no JSON object with fields.
    """
    values = strict_object(expected)
    return fmean(_parts(values, strict_object(text), False).values()) if values else 0.0


def strict_object(text: str) -> dict[str, Any] | None:
    """Return `text` as one strict JSON object; None if it is none."""
    try:
        value = strict_json(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def first_object(text: str) -> dict[str, Any] | None:
    """Return the first strict JSON object that stands anywhere in `text`; None without one."""
    decoder = json.JSONDecoder()
    for brace in islice(re.finditer(r"\{", text), MOST_BRACES):
        try:
            _, end = decoder.raw_decode(text, brace.start())
        except (ValueError, RecursionError):
            continue
        if (value := strict_object(text[brace.start() : end])) is not None:
            return value
    return None
