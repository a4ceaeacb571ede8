"""JSON Schemas, wholly understood when they are read: no reply meets one that is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from harness.checks import quoted, shortened
from harness.files import read_file
from harness.records import EvidenceError, HarnessError, digest_of, strict_json

if TYPE_CHECKING:
    from jsonschema_rs import Resolved, Resolver, ValidationError, Validator

DEFAULT_DIALECT = "https://json-schema.org/draft/2020-12/schema"
DIALECTS = (
    "http://json-schema.org/draft-04/schema",
    "http://json-schema.org/draft-06/schema",
    "http://json-schema.org/draft-07/schema",
    "https://json-schema.org/draft/2019-09/schema",
    DEFAULT_DIALECT,
)
MOST_STEPS = 1_000_000
"""How often one pattern may step back in one text, which takes a few hundredths of a second.

Only patterns that look around or refer back do; all others take linear time.
"""

_REFERENCES = {"$ref", "$dynamicRef", "$recursiveRef"}
_SAME_VALUE = {"allOf", "anyOf", "oneOf", "not", "if", "then", "else"} | {
    "dependentSchemas",
    "dependencies",
}
"""Keywords whose schemas judge the same value as the schema that they stand in."""

_INNER_VALUES = {"$defs", "definitions", "properties", "patternProperties", "propertyNames"} | {
    "additionalProperties",
    "unevaluatedProperties",
    "items",
    "prefixItems",
    "additionalItems",
    "unevaluatedItems",
    "contains",
}
_BY_NAME = {"$defs", "definitions", "properties", "patternProperties"} | {
    "dependentSchemas",
    "dependencies",
}
_ASSERTIONS = {"type", "enum", "const", "required", "dependentRequired", "pattern", "format"} | {
    "multipleOf",
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    *("minLength", "maxLength", "minItems", "maxItems", "uniqueItems"),
    *("minContains", "maxContains", "minProperties", "maxProperties"),
}
_KEYWORDS = _REFERENCES | _SAME_VALUE | _INNER_VALUES | _ASSERTIONS

_CHOICES = ("anyOf", "oneOf")

_Place = tuple[str, str]
"""A reference: the URI that it is relative to, and itself."""


@dataclass(frozen=True)
class Schema:
    """A JSON Schema, ready to use: `where` it comes from and the `digest` of its content."""

    where: str
    digest: str
    validator: Validator

    def misfit(self, value: Any) -> str:
        """Return why a JSON value does not fit; nothing if it does.

        Raises:
            EvidenceError: a pattern takes too long to tell.

        """
        try:
            with _without_panic():
                errors = list(self.validator.iter_errors(value))
        except UnicodeEncodeError:
            return self.misfit(_well_formed(value))
        except _Panic as problem:
            raise EvidenceError(f"{self.where}: the reply cannot be judged: {problem}") from None
        self._refuse_endless(errors)
        return fault(_telling(errors)) if errors else ""

    def _refuse_endless(self, errors: Iterable[ValidationError]) -> None:
        from jsonschema_rs import ValidationErrorKind as Kind

        for error in errors:
            if isinstance(error.kind, Kind.BacktrackLimitExceeded | Kind.RegexEngineFailure):
                pattern = "/".join(["#", *map(str, error.schema_path)])
                raise EvidenceError(
                    f"{self.where}: {pattern} finds no end at {json_path(error.instance_path)} "
                    f"within {MOST_STEPS:,} steps; write a simpler pattern"
                )


class _Panic(Exception):
    """The library gave up on something that it took for impossible."""


@contextmanager
def _without_panic() -> Iterator[None]:
    """Make a panic of the library, which is no Exception, a `_Panic`."""
    try:
        yield
    except BaseException as problem:
        if isinstance(problem, Exception | KeyboardInterrupt | SystemExit | GeneratorExit):
            raise
        raise _Panic(str(problem)) from None


def known_schema(
    schema: str | Path | Mapping[str, Any], root: Path, known: MutableMapping[str, Schema]
) -> Schema:
    """Return a schema as `load_schema` does; one in a file is read once and kept in `known`."""
    if not isinstance(schema, str | Path):
        return load_schema(schema, root)
    key = str(root / schema)
    if key not in known:
        known[key] = load_schema(schema, root)
    return known[key]


def load_schema(schema: str | Path | Mapping[str, Any], root: Path) -> Schema:
    """Return the schema in a file (relative to `root`), or the one given as a mapping.

    Without `$schema` it is read as draft 2020-12. References lead into the schema, to files beside
    it (beside `root`, if it is given) and to the standard's own schemas; nothing is fetched.

    Raises:
        HarnessError: there is no such file, it is no JSON, it is no JSON Schema, one of its
            references leads nowhere or back to itself, or a pattern is none; or `schema` is
            something else.

    """
    if not isinstance(schema, str | Path | Mapping):
        raise HarnessError(
            "score.json_schema takes the path of a schema or a schema as a dict, not "
            f"{quoted(schema)}; for a pydantic model, pass MODEL.model_json_schema()"
        )
    if isinstance(schema, Mapping):
        given = "the schema given to score.json_schema"
        return _schema(dict(schema), given, root.resolve() / "given to score.json_schema")
    return _schema(_read(root / schema, str(schema)), str(schema), (root / schema).resolve())


def _read(path: Path, where: str) -> Any:
    try:
        return strict_json(read_file(path).decode("utf-8-sig"))
    except FileNotFoundError:
        raise HarnessError(f"{where}: there is no such schema; correct the path") from None
    except OSError as problem:
        raise HarnessError(
            f"{where}: the schema cannot be read ({problem.strerror or problem})"
        ) from None
    except ValueError as problem:
        line = f":{problem.lineno}" if isinstance(problem, json.JSONDecodeError) else ""
        raise HarnessError(
            f"{where}{line}: the schema is no valid JSON: {problem}; correct it"
        ) from None


def _schema(content: Any, where: str, path: Path) -> Schema:
    import jsonschema_rs

    _refuse_other_json(content, where)
    files = _Files(where, path.parent)
    try:
        jsonschema_rs.meta.validate(content)
        digest = digest_of(content)
        registry = jsonschema_rs.Registry([(path.as_uri(), content)], retriever=files.read)
        references = _References(where, str(content.get("$schema", DEFAULT_DIALECT)))
        references.follow(content, registry.resolver(path.as_uri()))
        with _without_panic():
            validator = jsonschema_rs.validator_for(
                content,
                registry=registry,
                base_uri=path.as_uri(),
                validate_formats=False,
                pattern_options=jsonschema_rs.FancyRegexOptions(backtrack_limit=MOST_STEPS),
                keywords={"contentEncoding": _Unchecked, "contentMediaType": _Unchecked},
            )
    except jsonschema_rs.ValidationError as problem:
        raise _refusal(where, files.problem, _mistake(problem)) from None
    except (RecursionError, TypeError, ValueError, _Panic) as problem:
        raise _refusal(where, files.problem, str(problem)) from None
    if files.contents:
        digest = digest_of([digest, files.contents])
    return Schema(where, digest, validator)


def _refusal(where: str, of_a_file: str, problem: str) -> HarnessError:
    return HarnessError(of_a_file or f"{where}: it is no JSON Schema: {problem}; correct it")


def _mistake(error: ValidationError) -> str:
    from jsonschema_rs import ValidationErrorKind as Kind

    if isinstance(error.kind, Kind.Format) and error.kind.format == "regex":
        place, pattern = json_path(error.instance_path), quoted(error.instance)
        return (
            f"{printable(place, 80)}: {pattern} is no pattern of ECMAScript, the dialect of JSON "
            "Schema, or uses a part of it that is not known here"
        )
    return fault(error)


def _refuse_other_json(content: Any, where: str) -> None:
    if not isinstance(content, dict):
        raise HarnessError(f"{where}: a JSON Schema is an object, not {quoted(content)}")
    dialect = content.get("$schema", DEFAULT_DIALECT)
    if str(dialect).removesuffix("#") not in DIALECTS:
        raise HarnessError(f"{where}: $schema is {quoted(dialect)}; use {DEFAULT_DIALECT}")
    if not _KEYWORDS & content.keys():
        raise HarnessError(
            f"{where}: it is no JSON Schema: none of its keys {quoted(list(content))} says "
            "anything about a reply; begin with type, properties and required"
        )


class _Unchecked:
    """A keyword that only describes."""

    def __init__(self, *about: object) -> None:
        """Take what a keyword's validator is given."""

    def validate(self, instance: object) -> None:
        """Find every value right."""


# ---------------------------------------------------------------------- references


@dataclass
class _Files:
    """The files that the schema `where` refers to: path relative to `folder` -> `contents`.

    `problem` is what kept one from being read.
    """

    where: str
    folder: Path
    contents: dict[str, Any] = field(default_factory=dict)
    problem: str = ""

    def read(self, uri: str) -> Any:
        """Return the content of a file that a reference leads to; raises HarnessError."""
        try:
            name = self._name(uri)
            self.contents[name] = _read(self.folder / name, name)
        except HarnessError as problem:
            self.problem = self.problem or str(problem)
            raise
        return self.contents[name]

    def _name(self, uri: str) -> str:
        parts = urlsplit(uri)
        if parts.scheme != "file":
            raise HarnessError(
                f"{self.where}: its $ref {quoted(uri)} leads nowhere, because nothing is fetched; "
                "put a copy beside the schema, or into its $defs, and refer to that"
            )
        return os.path.relpath(url2pathname(parts.path), self.folder)


class _References:
    """All references in a schema and in what they lead to."""

    def __init__(self, where: str, dialect: str) -> None:
        self._where = where
        self._id = "id" if dialect.startswith(DIALECTS[0]) else "$id"
        self._ref_stands_alone = dialect.removesuffix("#") in DIALECTS[:3]
        self._named: dict[str, Any] = {}
        self._leads: dict[_Place, set[_Place]] = {}
        self._pending: list[tuple[_Place, Resolved]] = []

    def follow(self, content: Any, resolver: Resolver) -> None:
        """Raise HarnessError if one leads nowhere, or back to itself for the same value."""
        self._same_value(content, resolver)
        while self._pending:
            place, found = self._pending.pop()
            self._leads[place] = self._same_value(found.contents, found.resolver)
        try:
            TopologicalSorter(self._leads).prepare()
        except CycleError as problem:
            (_, reference), *_ = problem.args[1]
            raise HarnessError(
                f"{self._where}: it is no JSON Schema: its $ref {quoted(reference)} refers to "
                "itself without end; correct it"
            ) from None

    def _same_value(self, schema: Any, resolver: Resolver) -> set[_Place]:
        """Return where `schema` leads for the value that it judges; follow the others too."""
        if not isinstance(schema, dict):
            return set()
        if self._ref_stands_alone and "$ref" in schema:
            schema = {"$ref": schema["$ref"]}  # those drafts ignore what stands beside it
        if isinstance(schema.get(self._id), str):
            resolver = self._found(schema[self._id], resolver).resolver
            self._refuse_twins(schema, resolver.base_uri)
        named = (schema[key] for key in sorted(_REFERENCES & schema.keys()))
        places = {self._place(one, resolver) for one in named if isinstance(one, str)}
        for inner in _schemas(schema, _INNER_VALUES):
            self._same_value(inner, resolver)
        return places.union(*(self._same_value(o, resolver) for o in _schemas(schema, _SAME_VALUE)))

    def _refuse_twins(self, schema: dict[str, Any], uri: str) -> None:
        anchors = schema[self._id].startswith("#")  # which older drafts write as ids
        if not anchors and self._named.setdefault(uri, schema) != schema:
            raise HarnessError(
                f"{self._where}: two of its schemas have the {self._id} "
                f"{quoted(schema[self._id])}; correct one of them"
            )

    def _place(self, reference: str, resolver: Resolver) -> _Place:
        place = (resolver.base_uri, reference)
        if place not in self._leads:
            self._leads[place] = set()
            self._pending.append((place, self._found(reference, resolver)))
        return place

    def _found(self, reference: str, resolver: Resolver) -> Resolved:
        from jsonschema_rs import ReferencingError

        try:
            return resolver.lookup(reference)
        except ReferencingError:
            raise HarnessError(
                f"{self._where}: its $ref {quoted(reference)} leads nowhere; correct it"
            ) from None


def _schemas(schema: Mapping[str, Any], keywords: set[str]) -> Iterator[Any]:
    for key in sorted(keywords & schema.keys()):
        value = schema[key]
        if isinstance(value, dict) and key in _BY_NAME:
            yield from value.values()
        else:
            yield from value if isinstance(value, list) else [value]


# ---------------------------------------------------------------------- what does not fit


def _telling(errors: Sequence[ValidationError]) -> ValidationError:
    """Return the error that tells most: near the top, and inside the only alternative that fits."""
    error = min(errors, key=lambda one: (len(one.instance_path), one.kind.name in _CHOICES))
    inner = [each for branch in getattr(error.kind, "context", ()) for each in branch]
    deepest = max((len(each.instance_path) for each in inner), default=0)
    nearest = [each for each in inner if len(each.instance_path) == deepest]
    return _telling(nearest) if deepest > len(error.instance_path) else error


def fault(error: ValidationError) -> str:
    """Return what an error says about which place, in one printable line."""
    return f"{printable(json_path(error.instance_path), 80)}: {printable(error.message, 200)}"


def json_path(path: Iterable[str | int]) -> str:
    """Return a path into a JSON value: `$.items[0].name`."""
    return "$" + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)


def printable(text: str, longest: int) -> str:
    """Return `text` with escapes for what cannot be printed, cut to `longest` characters."""
    cut = shortened(text, longest)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def _well_formed(value: Any) -> Any:
    """Return a JSON value with U+FFFD for each half of a surrogate pair, which is no character."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_well_formed(key): _well_formed(inner) for key, inner in value.items()}
    return [_well_formed(inner) for inner in value] if isinstance(value, list) else value
