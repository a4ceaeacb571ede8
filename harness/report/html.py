"""`index.html`: one file that needs no network, no script and no font of its own.

Whatever the template prints passes through `visible` and Jinja2's escaping; nothing is marked as
safe but the style sheet.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import unicode
from harness.checks.labels import ClassScore, per_class
from harness.records import (
    Arm,
    Candidate,
    Comparison,
    Decision,
    LabelTable,
    Rule,
    Run,
    Slice,
    Status,
    Verdict,
)
from harness.report import plots, results, summary, text
from harness.report.plots import Curve, Whisker
from harness.report.summary import Change, Figure
from harness.text import visible

_HERE = Path(__file__).parent
_OPEN_CASES = 3
_LONGEST_TEXT = 6_000
_LONGEST_COMPARED = 1_000
_LARGEST_MATRIX = 20
_LISTED_CONFUSIONS = 20
_HEATS = 5
_MINUS = "\N{MINUS SIGN}"


def page(run: Run) -> str:
    """Return the report of `run` as one HTML document."""
    from markupsafe import Markup

    style = (_HERE / "report.css").read_text(encoding="utf-8")
    before = summary.baseline(run)
    template = environment(_HERE / "templates").get_template("index.html.j2")
    return str(
        template.render(
            style=Markup(style),
            run=run,
            baseline=before,
            headline=summary.headline(run),
            reason=summary.reason(run),
            models=[_model(run, arm, place) for place, arm in enumerate(summary.judged(run))],
            tables=[_labels(table) for table in sorted(run.labels, key=_table_key)],
            training=[_training(made) for made in sorted(run.training, key=lambda made: made.name)],
            users=summary.users(run),
            ranks=summary.ranks(run),
            striking=summary.STRIKING,
            environment=_flat(run.environment),
        )
    )


def environment(folder: Path) -> Any:
    """Return the Jinja2 environment of the templates in `folder`, which escapes what it prints."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    for show in _FILTERS:
        made.filters[show.__name__] = show
    return made


def _shown(value: object) -> object:
    """Make hostile characters visible in everything that a template prints."""
    return visible(value) if type(value) is str else value


@dataclass(frozen=True, slots=True)
class Gate:
    """A row of the table of gates."""

    verdict: Verdict
    whisker: Whisker | None
    tone: str
    p: float | None
    direction: str


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text; `marked` where it is not what was expected."""

    text: str
    marked: bool = False


@dataclass(frozen=True, slots=True)
class Text:
    """A text of a case in pieces; `left` counts the characters that were cut off its end.

    `empty`: there is none, and the only piece says so.
    """

    title: str
    model: str
    pieces: tuple[Piece, ...]
    left: int = 0
    empty: bool = False


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One metric of a case under both models."""

    metric: str
    before: float | None
    after: float | None
    status: str
    explanations: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class CaseView:
    """A changed case as it is shown."""

    change: Change
    opened: bool
    texts: tuple[Text, ...]
    scores: tuple[ScoreRow, ...]


@dataclass(frozen=True, slots=True)
class ModelView:
    """Everything that the report says about one candidate."""

    arm: Arm
    place: int
    decision: str
    figures: list[Figure]
    gates: list[Gate]
    beside: list[Comparison]
    sights: list[str]
    slices: list[Slice]
    cases: list[CaseView]
    regressed: int
    improved: int

    @property
    def left(self) -> int:
        """How many changed cases are not shown."""
        return self.regressed + self.improved - len(self.cases)


def _model(run: Run, arm: Arm, place: int) -> ModelView:
    verdicts = summary.gates(run, arm.name)
    drawn = plots.whiskers([(verdict.comparison, verdict.rule) for verdict in verdicts])
    decision = summary.decision(run, arm.name)
    changes = summary.changes(run, arm.name)
    counts = Counter(change.status for change in changes)
    before = summary.baseline(run)
    return ModelView(
        arm=arm,
        place=place,
        decision=decision.value if decision else "",
        figures=summary.figures(run, arm.name),
        gates=[
            Gate(v, w, _tone(v), *summary.evidence(v.comparison))
            for v, w in zip(verdicts, drawn, strict=True)
        ],
        beside=summary.beside(run, arm.name),
        sights=summary.sights(run, arm.name),
        slices=[s for s in summary.sliced(run.slices) if s.comparison.candidate == arm.name],
        cases=[
            _case(change, before.name if before else "", arm.name, number < _OPEN_CASES)
            for number, change in enumerate(changes[: summary.SHOWN_CASES])
        ],
        regressed=counts[Status.REGRESSED],
        improved=counts[Status.IMPROVED],
    )


def _tone(verdict: Verdict) -> str:
    if verdict.decision is not Decision.PASS:
        return "bad" if verdict.decision is Decision.FAIL else "warn"
    return "good" if verdict.verdict in ("improved", "passed", "non_inferior") else "quiet"


def _case(change: Change, before: str, after: str, opened: bool) -> CaseView:
    case = change.case
    expected = case.expected
    return CaseView(
        change=change,
        opened=opened and change.status is Status.REGRESSED,
        texts=(
            _text("Prompt", "", case.prompt, None),
            _text("Expected", "", expected, None),
            _text("Baseline reply", before, case.replies.get(before), expected),
            _text("Candidate reply", after, case.replies.get(after), expected),
        ),
        scores=tuple(_scores(change, before, after)),
    )


def _text(title: str, model: str, content: str | None, expected: str | None) -> Text:
    if not content:
        missing = "(empty)" if content == "" else "(none)"
        return Text(title, model, (Piece(missing),), empty=True)
    shown = content[:_LONGEST_TEXT]
    return Text(title, model, tuple(compared(shown, expected)), len(content) - len(shown))


def compared(reply: str, expected: str | None) -> list[Piece]:
    """Return `reply` in pieces, those marked that `expected` does not have at their place.

    Nothing is marked in texts of over 1,000 words and punctuation marks, nor where less than half
    is alike: marking nearly everything tells nothing.
    """
    words = unicode.pieces(reply)
    forms = [_form(word) for word in words]
    wanted = [form for word in unicode.pieces(expected or "") if (form := _form(word))]
    mine = [place for place, form in enumerate(forms) if form]
    if not wanted or max(len(wanted), len(mine)) > _LONGEST_COMPARED:
        return [Piece(reply)]
    common = _common([forms[place] for place in mine], wanted)
    if 4 * len(common) < len(wanted) + len(mine):
        return [Piece(reply)]
    return _pieces(words, {mine[place] for place in common})


def _common(mine: Sequence[str], wanted: Sequence[str]) -> set[int]:
    """Return the places in `mine` of a longest common subsequence.

    Bit-parallel (Hyyrö 2004): `difflib` takes minutes where hostile texts repeat themselves.
    """
    places: dict[str, int] = defaultdict(int)
    for place, word in enumerate(mine):
        places[word] |= 1 << place
    rows = [(1 << len(mine)) - 1]
    for word in wanted:
        steps = rows[-1] & places.get(word, 0)
        rows.append(((rows[-1] + steps) | (rows[-1] - steps)) & rows[0])
    return set(_path(rows, len(mine)))


def _path(rows: Sequence[int], column: int) -> Iterable[int]:
    """Walk back through the rows: a zero bit says that its word lengthens the subsequence."""
    row = len(rows) - 1
    while row and column:
        bit = 1 << (column - 1)
        if rows[row] & bit:
            column -= 1
            continue
        row -= 1
        if rows[row] & bit:
            column -= 1
            yield column


def _form(word: str) -> str:
    """What a word is compared by; nothing where it is white space or shows nothing."""
    return unicode.normalised(word).strip()


def _pieces(words: Sequence[str], alike: set[int]) -> list[Piece]:
    """Join neighbours; white space between two marked words is marked with them."""
    pieces: list[Piece] = []
    for place, word in enumerate(words):
        marked = place not in alike and bool(_form(word))
        if pieces and pieces[-1].marked == marked:
            pieces[-1] = Piece(pieces[-1].text + word, marked)
        else:
            pieces.append(Piece(word, marked))
    return pieces


def _scores(change: Change, before: str, after: str) -> Iterable[ScoreRow]:
    case = change.case
    old, new = case.scores.get(before, {}), case.scores.get(after, {})
    for metric in sorted({*old, *new}, key=lambda name: (name not in change.metrics, name)):
        status = case.status.get(after, {}).get(metric)
        told = [(name, case.explanations.get(name, {}).get(metric, "")) for name in (before, after)]
        yield ScoreRow(
            metric=metric,
            before=old.get(metric),
            after=new.get(metric),
            status=status.value if status else "",
            explanations=tuple((name, why) for name, why in told if why),
        )


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One label: how well it is found, and how often each label was predicted in its place.

    `cells` holds (count, heat 0 to 5, whether right).
    """

    found: ClassScore
    cells: tuple[tuple[int, int, bool], ...]


@dataclass(frozen=True, slots=True)
class Labels:
    """A confusion table; `matrix` is false where it is too large to read."""

    table: LabelTable
    predicted: tuple[str, ...]
    rows: tuple[LabelRow, ...]
    confusions: tuple[tuple[str, str, int], ...]
    matrix: bool


def _table_key(table: LabelTable) -> tuple[str, str]:
    return table.metric, table.model


def _labels(table: LabelTable) -> Labels:
    found = per_class(Counter(table.counts).elements())
    labels = [score.label for score in found]
    predicted = [*labels, *sorted({pair[1] for pair in table.counts} - set(labels))]
    wrong = [(e, p, n) for (e, p), n in table.counts.items() if e != p]
    return Labels(
        table=table,
        predicted=tuple(predicted),
        rows=tuple(LabelRow(score, _cells(table, score, predicted)) for score in found),
        confusions=tuple(sorted(wrong, key=lambda one: (-one[2], one))[:_LISTED_CONFUSIONS]),
        matrix=len(predicted) <= _LARGEST_MATRIX,
    )


def _cells(
    table: LabelTable, score: ClassScore, predicted: Sequence[str]
) -> tuple[tuple[int, int, bool], ...]:
    counts = [table.counts.get((score.label, other), 0) for other in predicted]
    return tuple(
        (count, math.ceil(_HEATS * count / max(score.support, 1)), other == score.label)
        for other, count in zip(predicted, counts, strict=True)
    )


@dataclass(frozen=True, slots=True)
class Training:
    """One candidate's training."""

    made: Candidate
    curve: Curve | None
    train_loss: float | None
    validation_loss: float | None
    recipe: list[tuple[str, str]]


def _training(made: Candidate) -> Training:
    return Training(
        made=made,
        curve=plots.curve(made.losses),
        train_loss=results.final_loss(made),
        validation_loss=results.best_validation_loss(made),
        recipe=_flat(made.recipe),
    )


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return the leaves of nested mappings as (dotted key, text), sorted; empty ones left out."""
    rows: list[tuple[str, str]] = []
    for key in sorted(value, key=str):
        leaf, name = value[key], f"{prefix}{key}"
        if isinstance(leaf, Mapping):
            rows += _flat(leaf, f"{name}.")
        elif isinstance(leaf, list | tuple):
            rows.append((name, ", ".join(map(str, leaf))))
        elif leaf is not None:
            rows.append((name, str(leaf)))
    return rows


def number(value: float | None) -> str:
    """Show a metric with three digits and a real minus sign."""
    return text.number(value, 3).replace("-", _MINUS)


def signed(value: float | None) -> str:
    """Show a difference with its sign."""
    return text.signed(value, 3).replace("-", _MINUS)


def interval(bounds: tuple[float, float] | None) -> str:
    """Show an interval with its signs."""
    return f"{signed(bounds[0])} to {signed(bounds[1])}" if bounds else ""


def parts(name: str) -> list[str]:
    """Split a name after its dots and underscores, where a line may break."""
    return re.findall(r"[^._/]*[._/]?", name)


def rule(value: Rule) -> str:
    """Show a rule as the user wrote it."""
    return str(value)


_FILTERS = (
    number,
    parts,
    signed,
    interval,
    rule,
    text.p_value,
    text.seconds,
    text.dollars,
    text.whole,
    text.plural,
)
