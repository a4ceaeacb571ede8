"""The `score` fixture: runs checks on one reply and records what they say."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.checks import check_digest, quoted, structured, text, tools
from harness.checks import labels as label_checks
from harness.records import Case, HarnessError, Reply, Score

_METRIC = re.compile(r"[A-Za-z0-9_-]{1,80}")
_TERMINAL = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]"
)


class Scorer:
    """The checks of one case: each records one or more scores, and none raises on a bad reply.

    Every method takes `name`, the metric's name instead of the usual one. A reply with an `error`
    is recorded as unscored, with the reason; where the model answered with nothing or refused,
    every check scores its worst.

    Raises:
        HarnessError: the test or the case is wrong: a metric recorded twice, a schema that is
            none, a check without the reference that it needs.

    """

    def __init__(
        self,
        suite: str,
        case: Case,
        reply: Reply,
        root: Path,
        record: Callable[[Score], None],
        *,
        schemas: MutableMapping[str, structured.Schema],
        test: str,
    ) -> None:
        """Score `reply` to `case` in the test function `test`.

        `record` takes each score, its metric named `suite.metric`; `root` is what schema paths
        are relative to; `schemas` keeps parsed schemas from one case to the next.
        """
        self._suite = suite
        self._case = case
        self._reply = reply
        self._root = root
        self._take = record
        self._schemas = schemas
        self._test = test
        self._recorded: set[str] = set()

    def json_schema(
        self, schema: str | Path | Mapping[str, Any], *, name: str | None = None
    ) -> None:
        """Record `schema_match`: is the raw reply strict JSON that fits the schema?

        `schema` is a path relative to the project's root, or the schema itself. Beside it stands
        the diagnostic `schema_match_unfenced`.
        """
        loaded = self._schema(schema)
        self._record(
            *structured.json_schema(self._case, self._reply, loaded, name=name or "schema_match")
        )

    def fields(self, *, ignore_case: bool = False, name: str | None = None) -> None:
        """Record `field_accuracy`: the share of the expected JSON fields that are right.

        Beside it stands the diagnostic `field_accuracy_unfenced`.
        """
        name = name or "field_accuracy"
        self._record(
            *structured.fields(self._case, self._reply, ignore_case=ignore_case, name=name)
        )

    def exact(self, *, ignore_case: bool = False, name: str | None = None) -> None:
        """Record `exact_match`: is the stripped reply the expected answer?"""
        name = name or "exact_match"
        self._record(text.exact(self._case, self._reply, ignore_case=ignore_case, name=name))

    def contains(
        self, needle: str | None = None, *, ignore_case: bool = False, name: str | None = None
    ) -> None:
        """Record `contains`: does the reply contain `needle`, by default the expected answer?"""
        name = name or "contains"
        self._record(
            text.contains(self._case, self._reply, needle, ignore_case=ignore_case, name=name)
        )

    def label(
        self,
        labels: Sequence[str],
        *,
        field: str | None = None,
        ignore_case: bool = False,
        name: str | None = None,
    ) -> None:
        """Record `accuracy`: is the stripped reply the expected one of `labels`?

        With `field`, label and reference are read from this field of their JSON objects, and the
        metric is `<field>_accuracy`.
        """
        self._record(
            label_checks.label(
                self._case, self._reply, labels, field=field, ignore_case=ignore_case, name=name
            )
        )

    def rouge(self, *, name: str | None = None) -> None:
        """Record `rouge1`, `rouge2` and `rougeL`: F-measures with stemming.

        `name` stands for "rouge": `name="summary"` gives `summary1`, `summary2`, `summaryL`.
        """
        self._record(*text.rouge(self._case, self._reply, name=name or "rouge"))

    def tool_call(
        self,
        function: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
    ) -> None:
        """Record `tool_call`: does the reply call the right function with the right arguments?

        Right is what the reference calls; or `function`, and of its arguments those in
        `arguments`, if they are given. Beside it stands the diagnostic `tool_call_name`: the right
        function, whatever its arguments.
        """
        name = name or "tool_call"
        self._record(*tools.tool_call(self._case, self._reply, function, arguments, name=name))

    def record(
        self,
        name: str,
        value: float,
        *,
        explanation: str = "",
        higher_is_better: bool = True,
        low: float | None = 0.0,
        high: float | None = 1.0,
        unit: str = "",
    ) -> None:
        """Record `value` as the metric `name`; a truth value counts as 1 or 0.

        `low` and `high` are the range, both inclusive; None leaves a side open.
        """
        settings = {"low": low, "high": high, "unit": unit, "higher_is_better": higher_is_better}
        self._record(
            Score(
                metric=name,
                value=self._number(name, value, low, high),
                passed=value if isinstance(value, bool) else None,
                explanation=first_line(explanation),
                higher_is_better=higher_is_better,
                low=low,
                high=high,
                unit=unit,
                check=check_digest("record", 1, **settings),
            )
        )

    def _number(self, name: str, value: float, low: float | None, high: float | None) -> float:
        least, most = -math.inf if low is None else low, math.inf if high is None else high
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number) or not least <= number <= most:
            raise HarnessError(
                f"{self._where}: score.record({name!r}, {quoted(value)}): the value is no finite "
                f"number from {least:g} to {most:g}; correct it, or give the range as low= and "
                "high="
            )
        return number

    def _schema(self, schema: str | Path | Mapping[str, Any]) -> structured.Schema:
        if isinstance(schema, Mapping):
            return structured.load_schema(schema, self._root)
        key = str(self._root / schema)
        if key not in self._schemas:
            self._schemas[key] = structured.load_schema(schema, self._root)
        return self._schemas[key]

    @property
    def _where(self) -> str:
        return f"{self._test} of the suite {self._suite}"

    def _record(self, *scores: Score) -> None:
        for score in scores:
            if not _METRIC.fullmatch(str(score.metric)):
                raise HarnessError(
                    f"{self._where}: {quoted(score.metric)} cannot name a metric; use letters, "
                    "digits, '_' and '-', with name= where the check chose it"
                )
            metric = f"{self._suite}.{score.metric}"
            if metric in self._recorded:
                raise HarnessError(
                    f"{self._where}: the metric {metric} is recorded twice for one case; give one "
                    "of the two calls another name with name="
                )
            self._recorded.add(metric)
            self._take(self._answered(replace(score, metric=metric)))

    def _answered(self, score: Score) -> Score:
        if self._reply.error is None:
            failed = self._reply.failure and score.value is not None
            return score.worst(self._reply.failure) if failed else score
        reason = f"no reply: {first_line(self._reply.error)}"
        return replace(
            score, value=None, passed=None, explanation="", unscored=reason, labels=None, parts={}
        )


def first_line(message: str) -> str:
    """Return the first line of `message` that has text, without terminal sequences and controls.

    At most 300 characters.
    """
    lines = _TERMINAL.sub("", message).strip().splitlines()
    line = lines[0] if lines else ""
    return " ".join("".join(c if c.isprintable() else " " for c in line).split())[:300]
