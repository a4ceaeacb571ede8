"""The vocabulary: what the other rooms hand to each other, as frozen dataclasses.

Everything here is plain data. It imports the standard library only, so that any room can
import it without paying for another.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeGuard

Message = Mapping[str, Any]
"""One chat message as the OpenAI protocol has it: `role`, and `content` unless it calls a tool."""


class HarnessError(Exception):
    """A mistake of the user: one sentence that says what is wrong, where, and what to do next.

    It ends a run with exit status 4 and never shows a traceback.
    """


class EvidenceError(Exception):
    """Evidence that should be there is not: no verdict is possible (exit status 6)."""


class Role(StrEnum):
    """What a model is in a run."""

    BASELINE = "baseline"
    CANDIDATE = "candidate"


class Status(StrEnum):
    """What became of one case under a candidate, compared with the baseline."""

    HELD = "held"
    IMPROVED = "improved"
    UNSOLVED = "unsolved"
    REGRESSED = "regressed"


class Decision(StrEnum):
    """The answer of a whole run; evaluated: nothing was asked to be gated."""

    PASS = "pass"
    FAIL = "fail"
    UNDECIDABLE = "undecidable"
    EVALUATED = "evaluated"


_CANONICAL = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
)


def canonical_json(value: object) -> str:
    """Return the one JSON text of `value`: sorted keys, no spaces, UTF-8, no NaN."""
    return _CANONICAL.encode(value)


def digest_of(value: object) -> str:
    """Return the SHA-256 (64 hex digits) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()


def reply_digest(case: str, reply: Reply) -> str:
    """Return the digest of what `reply` says to the case with the digest `case`.

    The same words to the same case have one digest, whichever model said them in whichever run.
    """
    return digest_of([case, reply.text, list(reply.tool_calls)])


def as_table(record: Any) -> dict[str, Any]:
    """Return the fields of a dataclass by name; unlike `asdict`, what they hold is not copied."""
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


DEEPEST = 100
"""Levels of nesting that `strict_json` reads: more than any answer needs, less than recursion."""


def strict_json(text: str) -> Any:
    """Return the value of the JSON `text`, without what parsers forgive.

    Raises:
        ValueError: it is no JSON, or NaN, an infinity, a number beyond a double's range, the
            same key twice in one object, or nested more than `DEEPEST` levels.

    """
    try:
        value = json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_integer,
            object_pairs_hook=_unique_keys,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _refuse_depth(value)
    return value


LARGEST = 10**12
"""Of the tokens, seconds and dollars of one reply: sums of many stay exact and finite."""


def is_count(value: object) -> TypeGuard[int]:
    """Whether `value` can be a number of tokens: a whole one from 0 to `LARGEST`."""
    return type(value) is int and 0 <= value <= LARGEST


def _is_amount(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value <= LARGEST


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _finite(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise ValueError("it holds a number too large for a double")
    return number


def _integer(digits: str) -> int:
    _finite(digits)
    return int(digits)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:60]!r} stands twice in one object")
        found[key] = value
    return found


def _refuse_depth(value: object) -> None:
    level = [value]
    for _ in range(DEEPEST):
        level = [child for node in level for child in _children(node)]
        if not level:
            return
    raise ValueError(f"it is nested more than {DEEPEST} levels deep")


def _children(node: object) -> Iterable[object]:
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list) else ()


def content_of(message: Message) -> str:
    """Return the text of a message; "" where it has none, as a call of a tool or its result."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return "" if content is None else str(content)


def with_calls(text: str, calls: Iterable[object]) -> str:
    """Return what a message says for people: its text, if any, then a line for each call."""
    return "\n".join([*filter(None, [text]), *map(canonical_json, calls)])


_PLAIN_SLUG = re.compile(r"[A-Za-z0-9._-]{1,60}")


@dataclass(frozen=True, slots=True)
class Case:
    """One input with its reference; identified by (suite, id).

    `messages` is what the model sees (several turns possible, before any few-shot examples);
    `expected` the last assistant message, taken off, and `expected_tool_calls` the calls of tools
    in it; `cluster` names cases of one origin; `source` is `file:line`, for messages to people.
    """

    suite: str
    id: str
    messages: tuple[Message, ...]
    expected: str | None = None
    tags: tuple[str, ...] = ()
    cluster: str | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    source: str = ""
    expected_tool_calls: tuple[Mapping[str, Any], ...] = ()

    @property
    def text(self) -> str:
        """The last user message."""
        for message in reversed(self.messages):
            if message["role"] == "user":
                return content_of(message)
        return ""

    @property
    def reference(self) -> str | None:
        """The expected answer as people and judges see it: its text and its calls of tools."""
        if not self.expected_tool_calls:
            return self.expected
        return with_calls(self.expected or "", self.expected_tool_calls)

    @property
    def digest(self) -> str:
        """SHA-256 of messages, expected answer and calls, cluster and tools; not of tags."""
        parts = [list(self.messages), self.expected, self.cluster, list(self.tools)]
        calls = [list(self.expected_tool_calls)] if self.expected_tool_calls else []
        return digest_of([*parts, *calls])

    @property
    def slug(self) -> str:
        """The id as part of a pytest item id: itself where plain, else cleaned and hashed."""
        if _PLAIN_SLUG.fullmatch(self.id):
            return self.id
        cleaned = re.sub(r"[^A-Za-z0-9._-]+", "-", self.id)[:51].strip("-")
        return f"{cleaned}~{hashlib.sha256(self.id.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How replies are drawn: greedy unless the user says otherwise."""

    temperature: float = 0.0
    max_tokens: int = 256
    seed: int = 0


THINKING = ("strip", "keep", "off")
"""Thinking is no part of the answer; it is; the model's chat template is told to do without."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Anything that answers messages, with its prompt: two prompts are two models.

    `provider` and `target` come from `provider:target`. `few_shot` holds the example turns that
    stand between the system message and the case. `adapter` is a trained artefact on top of a
    local base. `thinking` is one of `THINKING`: what happens to thinking at the beginning of its
    replies. `options` are the remaining keys of the model's table, for its provider.
    """

    name: str
    provider: str
    target: str
    system: str | None = None
    template: str | None = None
    few_shot: tuple[Message, ...] = ()
    sampling: Sampling = Sampling()
    adapter: Path | None = None
    revision: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)  # it may hold a secret
    thinking: str = "strip"

    @property
    def spec(self) -> str:
        """`provider:target`, as the user writes it."""
        return f"{self.provider}:{self.target}"

    @property
    def recorded(self) -> bool:
        """Whether its replies are read from a recording: it is asked cases and no free prompts."""
        return self.provider == "replay"


@dataclass(frozen=True, slots=True)
class Arm:
    """One model in its role in a run; `fingerprint` is empty until the model is known.

    `examples`: the suites' few-shot examples stand before its prompt. `first_trial` is where
    its trials begin: after the baseline's, where the baseline is compared with itself.
    """

    name: str
    role: Role
    spec: ModelSpec
    fingerprint: str = ""
    examples: bool = False
    first_trial: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """One planned call. `key` is its identity in the cache (see `harness.replies`).

    `length` is the case's own length in characters, before few-shot: batches are sorted by it.
    `case` is the case that is asked, where it is one: recordings are looked up by it.
    """

    key: str
    model: ModelSpec
    messages: tuple[Message, ...]
    length: int
    trial: int = 0
    label: str = ""
    case: Case | None = None


_REASONS = {
    "content_filter": "refused",
    "sensitive": "refused",
    "refusal": "refused",
    "safety": "refused",
    "recitation": "refused",
    "blocklist": "refused",
    "prohibited_content": "refused",
    "spii": "refused",
    "content_filtered": "refused",
    "guardrail_intervened": "refused",
    "error_toxic": "refused",
    "error_limit": "truncated",
    "length": "truncated",
    "model_length": "truncated",
    "max_tokens": "truncated",
    "model_context_window_exceeded": "truncated",
}
"""What services call the reason why a reply ended, in lower case -> what it means."""

_BROKEN_OFF = re.compile(
    r"error|fail|abort|cancel|interrupt|disconnect|time.?out|timed.?out|overload|unavailable|"
    r"insufficient.?system.?resource",
    re.IGNORECASE,
)


def broken_off(finish_reason: str) -> bool:
    """Whether a service that names this reason failed: what it sent is no reply of the model."""
    known = finish_reason.lower() in _REASONS
    return not known and _BROKEN_OFF.search(finish_reason) is not None


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back of a request: text and what it took, or an `error` (then no score).

    Latencies are seconds (in a batch: the batch's time divided by its size), costs US dollars.
    `cached_tokens` are those of the prompt that the service had cached, `queue_s` the seconds that
    the call waited for its turn, `attempts` how often it was sent, `served_model` the model that
    the service says answered. `reasoning` is what the model thought, where it is not part of the
    text; `reasoning_tokens` are those of the completion that went into it.
    """

    text: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    latency_s: float | None = None
    queue_s: float | None = None
    cost_usd: float | None = None
    attempts: int | None = None
    served_model: str | None = None
    finish_reason: str | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    error: str | None = None
    reasoning: str = ""
    reasoning_tokens: int | None = None

    def __post_init__(self) -> None:
        counts = (
            self.prompt_tokens,
            self.completion_tokens,
            self.cached_tokens,
            self.reasoning_tokens,
            self.attempts,
        )
        numbers = (self.latency_s, self.queue_s, self.cost_usd)
        if not isinstance(self.text, str):
            raise TypeError("a reply's text is a text")
        if not isinstance(self.reasoning, str):
            raise TypeError("a reply's reasoning is a text")
        texts = (self.finish_reason, self.error, self.served_model)
        if not all(isinstance(text, str | None) for text in texts):
            raise TypeError("a reply's finish_reason, error and served_model are texts")
        if not all(count is None or is_count(count) for count in counts):
            raise TypeError("a reply's token counts are whole numbers from 0 to 1e12")
        if not all(number is None or _is_amount(number) for number in numbers):
            raise TypeError("a reply's latency_s, queue_s and cost_usd are numbers from 0 to 1e12")
        if not all(isinstance(call, Mapping) for call in self.tool_calls):
            raise TypeError("a reply's tool_calls are objects")

    @property
    def said(self) -> str:
        """What judges and raters are shown: the text, then a line for each call of a tool."""
        return "\n".join([self.text, *map(canonical_json, self.tool_calls)])

    @property
    def broken_off(self) -> bool:
        """Whether the service failed before the reply ended: then it is none of the model's."""
        return self.finish_reason is not None and broken_off(self.finish_reason)

    @property
    def shortfall(self) -> str:
        """`refused`, `truncated` or `empty` where the model did not answer in full; else "".

        A reply with an `error` is none of the model's doing, and one that calls a tool is not
        empty.
        """
        if self.error is not None:
            return ""
        reason = _REASONS.get((self.finish_reason or "").lower(), "")
        return reason or ("empty" if self._says_nothing else "")

    @property
    def failure(self) -> str:
        """Why the model gave nothing to score (then every check scores its worst); else ""."""
        if self.shortfall == "refused":
            return "the model refused to answer"
        if self.error is not None or not self._says_nothing:
            return ""
        if not self.reasoning:
            return "the reply is empty"
        if self.shortfall == "truncated":
            return "the reply is empty: max_tokens cut it off while the model was still thinking"
        return "the reply is empty: it holds thinking and no answer"

    @property
    def _says_nothing(self) -> bool:
        return not self.text.strip() and not self.tool_calls

    def json(self) -> Any:
        """Return the reply parsed as strict JSON; AssertionError (a score of 0) if it is none."""
        try:
            return strict_json(self.text)
        except ValueError as problem:
            raise AssertionError(f"the reply is no JSON: {problem}") from None


@dataclass(frozen=True, slots=True)
class Score:
    """One value of one metric for one reply; or *unscored*, with the reason.

    `value` lies in [`low`, `high`] (both inclusive; None: open). `metric` is the full name
    `suite.metric`. A `diagnostic` score is shown and never gated. `labels` holds (expected,
    predicted) for metrics of the whole series, such as macro-F1. `parts` are the values behind
    an average (field -> value), `check` the digest of the check with its settings.
    """

    metric: str
    value: float | None
    passed: bool | None = None
    explanation: str = ""
    unscored: str | None = None
    higher_is_better: bool = True
    low: float | None = 0.0
    high: float | None = 1.0
    unit: str = ""
    diagnostic: bool = False
    labels: tuple[str, str] | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    check: str = ""

    def __post_init__(self) -> None:
        if (self.value is None) == (self.unscored is None):
            raise ValueError("a score has a value or a reason why it has none")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"{self.metric}: {self.value} is no finite number")

    def worst(self, reason: str) -> Score:
        """Return the score that a model's failure gets: the worst of the range, for this `reason`.

        Unscored where the range is open on that side.
        """
        value = self.low if self.higher_is_better else self.high
        return replace(
            self,
            value=value,
            passed=None if value is None else False,
            explanation="" if value is None else reason,
            unscored=f"{reason}, and the metric's range has no worst" if value is None else None,
            labels=(self.labels[0], INVALID_LABEL) if self.labels and value is not None else None,
            parts=dict.fromkeys(self.parts, 0.0) if value is not None else {},
        )


@dataclass(frozen=True, slots=True)
class Question:
    """What judges are asked about the reply to a case, in one wave after the items.

    `metric` is the full name `suite.metric`. `kind` is "rubric" (`levels` are the sentences of the
    scores 1 to 5), "criteria" (`levels` are yes-or-no criteria) or "preference" (the reply beside
    the baseline's, no `levels`); `criterion` says in words what is judged. A score of `at_least`
    passes. `judges` names those that are asked; empty: all that are configured.
    """

    metric: str
    kind: str
    criterion: str
    levels: tuple[str, ...] = ()
    at_least: float = 0.0
    judges: tuple[str, ...] = ()


TRUSTED = 0.4
"""The lower bound of kappa from which on a judge may gate: fair agreement is below it."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far the judge called `judge` agrees with people on what `criterion` says.

    `kappa` is quadratic-weighted, `bias` is by how much the judge's scores are higher; the
    intervals are two-sided at 95 %. `confusion` holds (people's score, the judge's, how often) of
    the `n` replies that both scored; `unscored` are those that the judge gave no verdict on.
    """

    judge: str
    criterion: str
    n: int
    unscored: int
    kappa: float | None
    interval: tuple[float, float] | None
    bias: float | None
    bias_interval: tuple[float, float] | None
    confusion: tuple[tuple[float, float, int], ...] = ()

    @property
    def doubt(self) -> str:
        """Why the judge may only advise; empty where it may gate."""
        if self.interval is not None and self.interval[0] >= TRUSTED:
            return ""
        measured = "cannot be measured, because there is only one score"
        if self.kappa is not None and self.interval is not None:
            low, high = self.interval
            measured = f"is {self.kappa:.2f} [{low:.2f}, {high:.2f}]"
        return (
            f"the agreement of judge {self.judge} with people (kappa) {measured}, and its lower "
            f"bound must be {TRUSTED:g}"
        )


@dataclass(frozen=True, slots=True)
class RecordedScore:
    """A score as a recording keeps it; `check` is the digest of the check with its settings."""

    value: float | None
    passed: bool | None
    check: str


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a model replied to a case: a line of a recording, a row of a stored run.

    `digest` is the case's; `suite` is empty where none is known. `scores` maps metrics to what
    the checks said at the time.
    """

    id: str
    digest: str
    reply: Reply
    suite: str = ""
    trial: int = 0
    scores: Mapping[str, RecordedScore] = field(default_factory=dict)


WOULD_SHIP = "would_ship"
"""The metric that people's votes make: whether they would ship a reply."""

CHOICES = ("left", "right", "tie")
"""Which of two replies a rater prefers."""


@dataclass(frozen=True, slots=True)
class Vote:
    """What `rater` says of two replies to one case without knowing which model said which.

    `pair` is the name of the two, `left` and `right` are their digests (`reply_digest`); `choice`
    is one of `CHOICES`. `left_ships`: the rater would ship the left one. `created` is when the
    vote was stored (ISO 8601).
    """

    pair: str
    rater: str
    left: str
    right: str
    choice: str
    left_ships: bool = True
    right_ships: bool = True
    note: str = ""
    created: str = ""

    @property
    def says(self) -> tuple[str, bool, bool, str]:
        """What the rater decided and noted."""
        return self.choice, self.left_ships, self.right_ships, self.note

    @property
    def ships(self) -> Mapping[str, bool]:
        """The digests of the replies -> whether the rater would ship them."""
        if self.left == self.right:
            return {self.left: self.left_ships and self.right_ships}
        return {self.left: self.left_ships, self.right: self.right_ships}

    def preference(self, before: str, after: str) -> int | None:
        """Return 1 for the reply `after`, -1 for `before`, 0 for a tie; None for other replies."""
        if {before, after} != {self.left, self.right}:
            return None
        if self.choice == "tie" or before == after:
            return 0
        preferred = self.left if self.choice == "left" else self.right
        return 1 if preferred == after else -1


RULES = ("at_least", "at_most", "better_by", "margin", "max_regressions", "max_would_not_ship")
"""The kinds of gates, by the key that each is written with."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A gate on a metric as the user wrote it; `key` is its key in `[tool.harness.gates]`.

    All numbers are in the metric's own unit. Exactly one of the six is set, except in the
    default rule of a metric without any (`None` everywhere: a guard in mode `detect`). `candidate`
    and `tag` narrow a rule to one candidate, and to the cases with a tag.
    """

    key: str = ""
    at_least: float | None = None
    at_most: float | None = None
    better_by: float | None = None
    margin: float | None = None
    max_regressions: int | None = None
    max_would_not_ship: int | None = None
    candidate: str | None = None
    tag: str | None = None

    def __str__(self) -> str:
        for name in RULES:
            if (value := getattr(self, name)) is not None:
                return f"{name} = {value:g}"
        return "must not regress"


@dataclass(frozen=True, slots=True)
class Series:
    """All scores of one metric under one model, cases in no meaningful order.

    `scores`: case id -> its scores, one per trial (repeats of the same request), at least one.
    """

    metric: str
    model: str
    scores: Mapping[str, tuple[Score, ...]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Paired baseline and candidate scores of one metric, summed up.

    `difference` is candidate minus baseline in the metric's unit, signed so that more is better
    for every metric (`higher_is_better` false: the sign is turned). `p` tests for a regression,
    `p_better` for an improvement; `p_adjusted` and `p_better_adjusted` are Holm's. Without a
    baseline (`baseline` None) only `n`, `candidate_mean` and the counts are set.

    `missing` pairs have a score in one arm only, `unscored` ones are in both and lack a value;
    `absent` counts values that (baseline, candidate) lack. `interval` is two-sided at 1 - alpha,
    `lower` the one-sided lower bound at 1 - alpha, `se` the standard error of the difference.
    `binary`: one trial, all scores are 0 or 1 and no cases share a cluster; then `p_exact` is set
    beside the mid-p, and `e_value` (against "not worse"; at 1 / alpha it may stop a run early).
    `extremes` is the same comparison with the incomplete pairs as losses, and as wins.
    `tag`: only the cases with this tag were compared. `guard`: a test marked as guard records it.

    A case's `trials` are averaged first: `losses` and `wins` count cases whose average moved,
    `contract_losses` those that went from passed to failed by the majority of trials (where all
    scores are yes or no; else it is `losses`). `noise_share` in [0, 1] is how much of the
    difference's variance is the models' own sampling, None for one trial. `deviation` is the
    standard deviation of one case's difference, `design_effect` how many times more cases their
    clusters cost. `skew` is the skewness of the clusters' summed differences over the root of their
    sizes (of all, or of those that are not zero where that is less), positive for many small
    losses and few large wins; None where all are equally large, because then it does not matter.
    """

    metric: str
    candidate: str
    baseline: str | None
    n: int
    missing: int
    unscored: int
    trials: int = 1
    baseline_mean: float | None = None
    candidate_mean: float | None = None
    difference: float | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None
    p_better: float | None = None
    p_adjusted: float | None = None
    p_better_adjusted: float | None = None
    losses: int = 0
    wins: int = 0
    ties: int = 0
    mde: float | None = None
    diagnostic: bool = False
    p_exact: float | None = None
    lower: float | None = None
    se: float | None = None
    clusters: int = 0
    binary: bool = False
    tag: str | None = None
    guard: bool = False
    absent: tuple[int, int] = (0, 0)
    higher_is_better: bool = True
    low: float | None = 0.0
    high: float | None = 1.0
    unit: str = ""
    extremes: tuple[Comparison, ...] = ()
    contract_losses: int = 0
    noise_share: float | None = None
    skew: float | None = None
    e_value: float | None = None
    deviation: float | None = None
    design_effect: float = 1.0

    @property
    def title(self) -> str:
        """The metric, and behind @ the tag of the cases that were compared."""
        return self.metric if self.tag is None else f"{self.metric}@{self.tag}"


INVALID_LABEL = "(invalid)"
"""What a reply predicts that is none of the labels: never right, and no class of its own."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer of one gate.

    `verdict` is one of regressed, non_inferior, improved, inconclusive, smoke, passed, failed,
    undecidable; `decision` what it means for the run; `reason` one plain sentence.
    """

    comparison: Comparison
    rule: Rule
    verdict: str
    decision: Decision
    reason: str


@dataclass(frozen=True, slots=True)
class Slice:
    """A comparison on a part of the evidence: `kind` "tag" or "field", `name` the tag or field.

    Exploratory. `q` is the rate of false discoveries at which this one stands out.
    """

    kind: str
    name: str
    comparison: Comparison
    q: float


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a candidate stands among the others on one metric.

    `ahead_of` names the candidates that it is shown to be better than, Holm's correction included.
    """

    metric: str
    candidate: str
    mean: float
    ahead_of: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class JudgeFigure:
    """One figure that says how far the judges of a metric can be trusted.

    `metric`, `candidate` and `judge` are None where the figure is about all of them. `name` is one
    of agreement, consistency, position preference, flip rate, length correlation, raw difference,
    length-adjusted difference, mean; `interval` is two-sided at 95 %, `n` what was counted.
    `warning` is a sentence where the figure is bad.
    """

    name: str
    metric: str | None
    candidate: str | None
    judge: str | None
    value: float | None
    interval: tuple[float, float] | None
    n: int
    warning: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one model took in a run. Tokens are means per request, latencies seconds.

    `cached` requests were known before, `cached_tokens_mean` are tokens of the prompt that the
    service had cached. `attempts` counts how often requests were sent, in this run or when their
    reply was stored. `empty`, `refused` and `truncated` count replies that fall short, `thinking`
    those that hold thinking, with the mean of the tokens that went into it where they are known.
    """

    requests: int = 0
    cached: int = 0
    prompt_tokens_mean: float | None = None
    completion_tokens_mean: float | None = None
    latency_p50_s: float | None = None
    latency_p95_s: float | None = None
    cost_usd: float | None = None
    cached_tokens_mean: float | None = None
    attempts: int | None = None
    empty: int = 0
    refused: int = 0
    truncated: int = 0
    thinking: int = 0
    reasoning_tokens_mean: float | None = None


@dataclass(frozen=True, slots=True)
class LossPoint:
    """One logged point of a training: optimiser step, epoch, mean loss per token in nats."""

    step: int
    epoch: float
    train: float | None = None
    validation: float | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A recipe and the model it made, named by the recipe's fingerprint.

    `path` holds the artefact (an adapter, or full weights where `full`), `base` the model spec it
    stands on. `rows`, `truncated` and `dropped` count training rows. `model` is what a service
    calls it; then nothing but its description is here. `started` is when the training began (ISO
    8601).
    """

    name: str
    fingerprint: str
    path: Path
    base: str
    full: bool = False
    quantized: bool = False
    model: str = ""
    cached: bool = False
    started: str = ""
    seconds: float = 0.0
    steps: int = 0
    rows: int = 0
    truncated: int = 0
    dropped: int = 0
    losses: tuple[LossPoint, ...] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)
    findings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One case of one test function with everything that the models did on it.

    `scores`: model -> metric -> value (None: unscored); `explanations` alike; `replies`:
    model -> text; `status`: candidate -> metric -> status.
    """

    suite: str
    id: str
    test: str
    prompt: str
    expected: str | None
    tags: tuple[str, ...]
    scores: Mapping[str, Mapping[str, float | None]]
    explanations: Mapping[str, Mapping[str, str]]
    replies: Mapping[str, str]
    status: Mapping[str, Mapping[str, Status]]


@dataclass(frozen=True, slots=True)
class LabelTable:
    """Labels of one classification metric under one model: (expected, predicted) -> count."""

    metric: str
    model: str
    counts: Mapping[tuple[str, str], int]


@dataclass(frozen=True, slots=True)
class Run:
    """One execution, whole: what the report shows and `results.json` holds.

    `comparisons` are all that were made, in any order: also those without a verdict (diagnostics,
    and what is not gated). `alarms` are notes that must not be overlooked.
    """

    run_id: str
    started: str
    finished: str
    decision: Decision
    exit_status: int
    arms: tuple[Arm, ...]
    verdicts: tuple[Verdict, ...]
    usage: Mapping[str, Usage]
    training: tuple[Candidate, ...]
    cases: tuple[CaseResult, ...]
    labels: tuple[LabelTable, ...] = ()
    notes: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    comparisons: tuple[Comparison, ...] = ()
    slices: tuple[Slice, ...] = ()
    ranking: tuple[Standing, ...] = ()
    alarms: tuple[str, ...] = ()
    judges: tuple[JudgeFigure, ...] = ()
