"""The `score` fixture: runs checks on one reply and records what they say."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.checks import check_digest, quoted, structured, text, tools
from harness.checks import judge as judge_checks
from harness.checks import labels as label_checks
from harness.checks.schemas import Schema, known_schema
from harness.records import Case, HarnessError, Question, Reply, Score

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
        schemas: MutableMapping[str, Schema],
        test: str,
        ask: Callable[[Question], None],
    ) -> None:
        """Score `reply` to `case` in the test function `test`.

        `record` takes each score, its metric named `suite.metric`, `ask` each question to judges;
        `root` is what schema paths are relative to; `schemas` keeps parsed schemas from one case
        to the next.
        """
        self._suite = suite
        self._case = case
        self._reply = reply
        self._root = root
        self._take = record
        self._schemas = schemas
        self._test = test
        self._ask = ask
        self._recorded: set[str] = set()

    def json_schema(
        self, schema: str | Path | Mapping[str, Any], *, name: str | None = None
    ) -> None:
        """Record `schema_match`: is the raw reply strict JSON that fits the schema?

        `schema` is a path relative to the project's root, or the schema itself. Beside it stands
        the diagnostic `schema_match_unfenced`.
        """
        loaded = known_schema(schema, self._root, self._schemas)
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

        Right is what the reference calls; or one call of `function`, with exactly these
        `arguments` if they are given. Beside it stands the diagnostic `tool_call_name`: the right
        function, whatever its arguments.
        """
        name = name or "tool_call"
        self._record(*tools.tool_call(self._case, self._reply, function, arguments, name=name))

    def judge(
        self,
        criterion: str | Sequence[str],
        *,
        rubric: Sequence[str] | None = None,
        at_least: float | None = None,
        judges: Sequence[str] = (),
        name: str | None = None,
    ) -> None:
        """Record what the judges say of the reply, once all items ran.

        `criterion` is "correctness", "format" or "completeness", or what `rubric` is about: five
        sentences, what the scores 1 to 5 mean. The metric has its name, its values are 1 to 5, and
        `at_least` (4) passes. A list of yes-or-no criteria records `criteria`, the share that is
        met; all of them pass. The judges see the reference where the case has one.

        `judges` names tables of `[tool.harness.judges]`, by default all of them; several give the
        median score, and decide on a criterion by majority. Where one is not configured, nothing
        is recorded, and the run says so.
        """
        self._question(
            judge_checks.question(self._where, criterion, rubric, at_least), name, judges
        )

    def prefer(
        self,
        criterion: str = judge_checks.PREFERENCE,
        *,
        judges: Sequence[str] = (),
        name: str | None = None,
    ) -> None:
        """Record `preference`: which of the two replies the judges prefer, once all items ran.

        1 is the candidate's, -1 the baseline's; the baseline itself has 0. The judges do not know
        whose reply is whose, and see each pair in both orders: one that contradicts itself prefers
        neither. Equal replies are a tie, and nobody is asked. `criterion` says what makes a reply
        better; `judges` as for `judge`.
        """
        self._question(Question("preference", "preference", criterion), name, judges)

    def _question(self, question: Question, name: str | None, judges: Sequence[str]) -> None:
        if isinstance(judges, str) or not all(isinstance(one, str) for one in judges):
            raise HarnessError(f"{self._where}: judges={quoted(judges)} is no list of names")
        metric = self._named(name or question.metric)
        self._ask(replace(question, metric=metric, judges=tuple(judges)))

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

    @property
    def _where(self) -> str:
        return f"{self._test} of the suite {self._suite}"

    def _record(self, *scores: Score) -> None:
        for score in scores:
            self._take(self._answered(replace(score, metric=self._named(score.metric))))

    def _named(self, name: str) -> str:
        """Return the full name of a metric that is about to be recorded."""
        if not _METRIC.fullmatch(str(name)):
            raise HarnessError(
                f"{self._where}: {quoted(name)} cannot name a metric; use letters, "
                "digits, '_' and '-', with name= where the check chose it"
            )
        metric = f"{self._suite}.{name}"
        if metric in self._recorded:
            raise HarnessError(
                f"{self._where}: the metric {metric} is recorded twice for one case; give one "
                "of the two calls another name with name="
            )
        self._recorded.add(metric)
        return metric

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
