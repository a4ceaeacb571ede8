"""Judges against people: what both say of the same replies -> how far a judge is to be trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness import agreement
from harness.checks import judge as checks
from harness.checks.judge import Material, Opinion
from harness.config import Settings
from harness.data.jsonl import key_path, numbered_lines
from harness.judges import NONE_CONFIGURED, Errand, Judges, panel
from harness.records import (
    Calibration,
    EvidenceError,
    HarnessError,
    Question,
    digest_of,
    strict_json,
)
from harness.replies import Replies
from harness.review.pairs import candidates, pairs_of
from harness.store import Store
from harness.votes import preferences

LABELS_AT_LEAST = 20
"""Under these the interval of kappa says more than the labels do."""

_SIDES = {"first": -1.0, "tie": 0.0, "second": 1.0}
_Text = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class Label:
    """What people say of one reply (1 to 5), or of two (-1 the first, 0 tie, 1 the second)."""

    question: Question
    material: Material
    value: float

    @property
    def errands(self) -> tuple[Errand, ...]:
        """What a judge is asked to answer the same: a pair in both orders."""
        if self.question.kind != "preference":
            return (Errand(self.question, self.material),)
        other = Material(self.material.prompt, self.material.expected, self.material.replies[::-1])
        return Errand(self.question, self.material), Errand(self.question, other)


class _Row(BaseModel):
    """A line of a file of labels."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    prompt: str
    expected: str | None = None
    reply: str | None = None
    score: Annotated[int, Field(ge=checks.LOWEST, le=checks.HIGHEST)] | None = None
    replies: Annotated[list[str], Field(min_length=2, max_length=2)] | None = None
    better: Literal["first", "second", "tie"] | None = None
    criterion: _Text | None = None
    rubric: list[str] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> _Row:
        given = tuple(self.__getattribute__(name) is not None for name in _KINDS)
        if given not in ((True, True, False, False), (False, False, True, True)):
            raise ValueError("a label is `reply` with `score`, or `replies` with `better`")
        return self


_KINDS = ("reply", "score", "replies", "better")


# ---------------------------------------------------------------------- what people say


def labels(path: Path) -> list[Label]:
    """Return the labels in the JSONL file at `path`.

    A line holds `prompt`, `expected` if there is a reference, and `reply` with `score` (1 to 5;
    `criterion` is correctness and `rubric` built in unless given) or `replies` (two) with `better`
    (first, second or tie).

    Raises:
        HarnessError: with file and line: it is no such file.

    """
    lines = numbered_lines(path, str(path))
    return [_label(line, f"{path}:{number}") for number, line in lines]


def _label(line: str, where: str) -> Label:
    try:
        row = _Row.model_validate(strict_json(line))
    except ValidationError as problem:
        first = problem.errors()[0]
        key = key_path(first["loc"]) or "this line"
        message = first["msg"].removeprefix("Value error, ")
        raise HarnessError(f"{where}: {key}: {message}; correct the label") from None
    except ValueError as problem:
        raise HarnessError(f"{where}: this is no JSON: {problem}; correct the label") from None
    if row.score is None:
        texts, value = tuple(row.replies or ()), _SIDES[row.better or "tie"]
        asked = preference(row.criterion)
    else:
        texts, value = (row.reply or "",), float(row.score)
        asked = checks.question(where, row.criterion or "correctness", row.rubric)
    return Label(asked, Material(row.prompt, row.expected, texts), value)


def preference(criterion: str | None = None) -> Question:
    """Return what `score.prefer` asks."""
    return Question("preference", "preference", criterion or checks.PREFERENCE)


def votes(store: Store, run: str) -> list[Label]:
    """Return what people preferred of the pairs of `run`; of identical replies nothing is asked.

    Raises:
        HarnessError: the run has no pairs.
        EvidenceError: it cannot be read.

    """
    return [label for name in candidates(store, run) for label in _of_pairs(store, run, name)]


def _of_pairs(store: Store, run: str, candidate: str) -> Iterator[Label]:
    """Yield the preferences of left and right, which mix the models.

    Of baseline and candidate, one is mostly preferred, and kappa would credit that to chance.
    """
    pairs = {pair.sides: pair for pair in pairs_of(store, run, candidate)}
    for sides, value in preferences(store.votes(), pairs).items():
        pair = pairs[sides]
        turned = 1 if pair.right.digest == sides.after else -1
        material = Material(
            pair.asked.prompt, pair.asked.expected, (pair.left.text, pair.right.text)
        )
        if sides.before != sides.after:
            yield Label(preference(), material, float(turned * value))


# ---------------------------------------------------------------------- what the judge says


def calibrate(
    name: str, given: Sequence[Label], settings: Settings, root: Path
) -> list[Calibration]:
    """Ask the judge called `name` what people were asked, store how far they agree and return it.

    One calibration for each question among the labels.

    Raises:
        HarnessError: there is no such judge, or it cannot be asked.
        EvidenceError: there are fewer than 20 labels on a question (then nobody is asked), or the
            judge gave a verdict on fewer.

    """
    judges = panel(settings, root)
    if name not in judges:
        known = f"there: {', '.join(judges)}" if judges else NONE_CONFIGURED
        raise HarnessError(f"pyproject.toml: tool.harness.judges: no judge {name!r}; {known}")
    _refuse_few(given)
    store = Store(root / settings.store / "store.sqlite")
    with closing(Replies(store, table=settings.price_table)) as replies:
        asker = Judges({name: judges[name]}, replies)
        asker.ask(name, [errand for label in given for errand in label.errands])
        if name in asker.absent:
            raise HarnessError(asker.absent[name])
        made = {
            key(asker, name, question): _calibration(asker, name, question, found)
            for question, found in _by_question(given).items()
        }
        for one, calibration in made.items():
            store.put_calibration(one, calibration)
    return list(made.values())


def _refuse_few(given: Sequence[Label]) -> None:
    few = [each for each in _by_question(given).items() if len(each[1]) < LABELS_AT_LEAST]
    if few or not given:
        what = f"{len(few[0][1])} labels on {_title(few[0][0])}" if few else "0 labels"
        raise EvidenceError(
            f"only {what}, and it takes {LABELS_AT_LEAST} at least; label more replies, or "
            "vote on more pairs with `harness review`"
        )


def _by_question(given: Iterable[Label]) -> Mapping[Question, list[Label]]:
    found: dict[Question, list[Label]] = {}
    for label in given:
        found.setdefault(label.question, []).append(label)
    return found


def _calibration(
    judges: Judges, name: str, question: Question, given: Sequence[Label]
) -> Calibration:
    answered = [(label.value, _answer(judges, name, label)) for label in given]
    pairs = [(mine, its) for mine, its in answered if its is not None]
    if len(pairs) < LABELS_AT_LEAST:
        lost = next((error for _, _, error in judges.lost), "")
        raise EvidenceError(
            f"judge {name} gave a verdict on {len(pairs)} of {len(given)} labels on "
            f"{_title(question)}{f' ({lost})' if lost else ''}; it takes {LABELS_AT_LEAST} at least"
        )
    people, its = zip(*pairs, strict=True)
    kappa, bias = agreement.quadratic_kappa(people, its), agreement.bias(people, its)
    confusion = agreement.confusion(people, its)
    return Calibration(
        judge=name,
        criterion=_title(question),
        n=len(pairs),
        unscored=len(given) - len(pairs),
        kappa=kappa.value,
        interval=kappa.interval,
        bias=bias.value,
        bias_interval=bias.interval,
        confusion=tuple((*scores, count) for scores, count in confusion.items()),
    )


def _title(question: Question) -> str:
    return question.kind if question.kind == "preference" else question.criterion


def _answer(judges: Judges, name: str, label: Label) -> float | None:
    said = [judges.opinion(name, errand) for errand in label.errands]
    opinions = [one for one in said if isinstance(one, Opinion)]
    if len(opinions) < len(said):
        return None
    return checks.settled(label.question, opinions).value


# ---------------------------------------------------------------------- what follows


def key(judges: Judges, name: str, question: Question) -> str:
    """Return what a calibration holds for: this judge as it is configured, and this question."""
    asked = [question.kind, question.criterion, list(question.levels)]
    return digest_of([judges.identity(name), checks.INSTRUCTIONS, asked])


def doubts(store: Store, judges: Judges) -> Callable[[str, Question], str]:
    """Return a function (judge, question) -> why it may only advise; empty where it may gate.

    A judge that was never calibrated on a question is not doubted.
    """

    def doubt(name: str, question: Question) -> str:
        found = store.calibration(key(judges, name, question))
        return found.doubt if found else ""

    return doubt
