"""Checks of JSON replies: against a schema, and field by field against the reference.

The raw reply counts: a fence or a word around the JSON fails. The figures without them are
diagnostics (`<metric>_unfenced`), shown beside and never gated.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from statistics import fmean
from typing import Any

from harness.checks import check_digest, quoted, reference, right_or_wrong, shortened
from harness.checks.schemas import Schema, printable
from harness.records import Case, EvidenceError, HarnessError, Reply, Score, strict_json
from harness.unicode import by_form, same_text

MOST_BRACES = 1000
"""Opening braces at which an object is looked for: a hostile reply has as many as it likes."""

_FENCE = re.compile(r"```[^`\n]*\n(.*?)(?:```|\Z)", re.DOTALL)


# ---------------------------------------------------------------------- schema


def json_schema(
    case: Case, reply: Reply, schema: Schema, *, name: str = "schema_match"
) -> tuple[Score, Score]:
    """Score 1 if the raw reply is strict JSON that fits `schema`.

    The diagnostic `<name>_unfenced` does the same with the inside of the reply's first Markdown
    fence. `format` is not checked, as JSON Schema has it by default. A reply on which a pattern
    finds no end is not scored.
    """
    check = check_digest("json_schema", 2, schema=schema.digest)
    raw = _fit(name, reply.text, schema, check)
    return raw, _diagnostic(_fit(f"{name}_unfenced", unfenced(reply.text), schema, check))


def _fit(name: str, text: str, schema: Schema, check: str) -> Score:
    try:
        return right_or_wrong(name, schema.misfit(strict_json(text)), check)
    except EvidenceError as problem:
        return Score(name, None, unscored=str(problem), check=check)
    except ValueError as problem:
        return right_or_wrong(name, shortened(f"no JSON: {problem}", 200), check)


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
        key: float(form in found and same_json(value, found[form], ignore_case=ignore_case))
        for key, (form, value) in zip(expected, by_form(expected).items(), strict=True)
    }


def _field_problems(
    expected: Mapping[str, Any], got: Mapping[str, Any] | None, parts: Mapping[str, float]
) -> str:
    if got is None:
        return "no JSON object"
    found = by_form(got)
    wrong = [
        f"{printable(key, 80)}: {quoted(found[form])} instead of {quoted(expected[key])}"
        if form in found
        else f"{printable(key, 80)} is missing"
        for (key, part), form in zip(parts.items(), by_form(expected), strict=True)
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
