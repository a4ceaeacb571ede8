"""Classification: the check of one label, and what a whole series of labels says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from harness.checks import check_digest, quoted, reference, shortened
from harness.records import INVALID_LABEL, Case, HarnessError, Reply, Score, strict_json
from harness.unicode import by_form, normalised

Pairs = Iterable[tuple[str, str]]
"""(expected, predicted) of each case."""


def label(
    case: Case,
    reply: Reply,
    labels: Sequence[str],
    *,
    field: str | None = None,
    ignore_case: bool = False,
    name: str | None = None,
) -> Score:
    """Score 1 if the reply is the expected one of `labels`, white space around them aside.

    With `field`, label and reference are read from this field of the JSON reply and of the JSON
    reference. The metric is `accuracy`, or `<field>_accuracy`, unless `name` says otherwise. The
    score's `labels` are what macro-F1 and the confusion table are made of.

    Raises:
        HarnessError: `labels` are no distinct texts, or the reference is none of them.

    """
    known = _known(labels, ignore_case, case)
    expected = _expected(case, field)
    sought = known.get(_form(expected, ignore_case))
    if sought is None:
        raise HarnessError(
            f"{case.source}: the case {case.id!r} expects {quoted(expected)}, which is none of the "
            f"labels {shortened(', '.join(labels), 200)}; correct the case or the labels"
        )
    answer, problem = _answer(reply.text, field)
    predicted = known.get(_form(answer, ignore_case), INVALID_LABEL)
    if predicted == INVALID_LABEL:
        problem = problem or f"{quoted(answer)} is none of the labels"
    elif predicted != sought:
        problem = f"{quoted(predicted)} instead of {quoted(sought)}"
    settings = {"labels": sorted(labels), "field": field, "ignore_case": ignore_case}
    return Score(
        metric=name or (f"{field}_accuracy" if field else "accuracy"),
        value=float(not problem),
        passed=not problem,
        explanation=problem,
        labels=(sought, predicted),
        check=check_digest("label", 2, **settings),
    )


def _known(labels: Sequence[str], ignore_case: bool, case: Case) -> dict[str, str]:
    if isinstance(labels, str) or not all(isinstance(one, str) for one in labels):
        raise HarnessError(f"{case.source}: the check label takes a list of texts as its labels")
    known = {_form(one, ignore_case): one for one in labels}
    if len(known) != len(labels) or not known or "" in known or INVALID_LABEL in known:
        raise HarnessError(
            f"{case.source}: the check label takes distinct, non-empty labels, not "
            f"{quoted(list(labels), 200)}; correct the list"
        )
    return known


def _form(label: str, ignore_case: bool) -> str:
    return normalised(label, ignore_case=ignore_case).strip()


def _expected(case: Case, field: str | None) -> str:
    expected = reference(case, "label")
    answer, problem = _answer(expected, field)
    if problem:
        raise HarnessError(
            f"{case.source}: the reference of the case {case.id!r} has no label: {problem}; "
            "correct the case"
        )
    return answer


def _answer(text: str, field: str | None) -> tuple[str, str]:
    """Return the label that `text` gives and, if it gives none, why."""
    if field is None:
        return text.strip(), ""
    try:
        values = strict_json(text)
    except ValueError as problem:
        return "", f"no JSON: {problem}"
    if not isinstance(values, dict):
        return "", "no JSON object"
    values = by_form(values)
    if normalised(field) not in values:
        return "", f"the field {field} is missing"
    answer = values[normalised(field)]
    return (answer, "") if isinstance(answer, str) else ("", f"{field} is {quoted(answer)}")


@dataclass(frozen=True, slots=True)
class ClassScore:
    """How well one label is found: all but `support` (its expected cases) lie in [0, 1].

    A ratio without any case to count is 0.
    """

    label: str
    precision: float
    recall: float
    f1: float
    support: int


def confusion(pairs: Pairs) -> dict[tuple[str, str], int]:
    """Return (expected, predicted) -> count, sorted; `(invalid)` is among the predicted."""
    return dict(sorted(Counter(pairs).items()))


def per_class(pairs: Pairs) -> tuple[ClassScore, ...]:
    """Return the scores of every label that is expected or predicted, sorted; never `(invalid)`."""
    counts = Counter(pairs)
    found = sorted({label for pair in counts for label in pair} - {INVALID_LABEL})
    return tuple(_class_score(label, counts) for label in found)


def _class_score(label: str, counts: Mapping[tuple[str, str], int]) -> ClassScore:
    right = counts.get((label, label), 0)
    expected = sum(count for (truth, _), count in counts.items() if truth == label)
    predicted = sum(count for (_, answer), count in counts.items() if answer == label)
    return ClassScore(
        label=label,
        precision=right / predicted if predicted else 0.0,
        recall=right / expected if expected else 0.0,
        f1=2 * right / (expected + predicted),
        support=expected,
    )


def accuracy(pairs: Pairs) -> float:
    """Return the share of right labels, in [0, 1]; ValueError if there are no pairs."""
    return fmean(truth == answer for truth, answer in pairs)


def macro_f1(pairs: Pairs) -> float:
    """Return the mean F1 of the labels, in [0, 1]; ValueError if there are no pairs.

    As scikit-learn's `f1_score(average="macro", zero_division=0)` over the labels that are
    expected or predicted. `(invalid)` is no label of its own: it only costs the recall of the
    label that was expected.
    """
    return fmean(score.f1 for score in per_class(pairs))
