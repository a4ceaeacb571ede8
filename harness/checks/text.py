"""Checks of free text: exact and contained matches, ROUGE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.checks import check_digest, quoted, reference, right_or_wrong
from harness.records import Case, HarnessError, Reply, Score

if TYPE_CHECKING:
    from rouge_score.scoring import Score as RougeScore

ROUGE = ("rouge1", "rouge2", "rougeL")


def exact(
    case: Case, reply: Reply, *, ignore_case: bool = False, name: str = "exact_match"
) -> Score:
    """Score 1 if the reply is the expected answer, white space around them aside."""
    expected, got = reference(case, "exact"), reply.text.strip()
    right = _folded(got, ignore_case) == _folded(expected, ignore_case)
    problem = "" if right else f"{quoted(got)} instead of {quoted(expected)}"
    return right_or_wrong(name, problem, check_digest("exact", 1, ignore_case=ignore_case))


def contains(
    case: Case,
    reply: Reply,
    needle: str | None = None,
    *,
    ignore_case: bool = False,
    name: str = "contains",
) -> Score:
    """Score 1 if the reply contains `needle`, or else the expected answer (stripped).

    Raises:
        HarnessError: `needle` is empty, or there is neither a needle nor an expected answer.

    """
    if needle == "":
        raise HarnessError(f"{case.source}: the check contains looks for an empty text; give one")
    sought = reference(case, "contains") if needle is None else needle
    right = _folded(sought, ignore_case) in _folded(reply.text, ignore_case)
    problem = "" if right else f"{quoted(sought)} is not in {quoted(reply.text)}"
    check = check_digest("contains", 1, needle=needle, ignore_case=ignore_case)
    return right_or_wrong(name, problem, check)


def _folded(text: str, ignore_case: bool) -> str:
    return text.casefold() if ignore_case else text


def rouge(case: Case, reply: Reply, *, name: str = "rouge") -> tuple[Score, ...]:
    """Score the F-measures of ROUGE-1, ROUGE-2 and ROUGE-L, with stemming, each in [0, 1].

    The metrics are `name` with 1, 2 and L behind it. The tokens are rouge-score's: lower-cased
    runs of a-z and 0-9. A reference without any is not scored, since every reply would get 0.

    Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004.
    """
    measured = _rouge(reference(case, "rouge"), reply.text)
    return tuple(_rouge_score(f"{name}{kind[5:]}", kind, measured) for kind in ROUGE)


def _rouge_score(metric: str, kind: str, measured: dict[str, RougeScore] | None) -> Score:
    check = check_digest("rouge", 1, kind=kind, stemming=True)
    if measured is None:
        reason = "the reference has no word of a-z or 0-9, which are all that ROUGE compares"
        return Score(metric, None, unscored=reason, check=check)
    found = measured[kind]
    explanation = f"precision {found.precision:.2f}, recall {found.recall:.2f}"
    return Score(metric, float(found.fmeasure), explanation=explanation, check=check)


def rouge_l(expected: str, text: str) -> float:
    """Return the F-measure of ROUGE-L, with stemming, in [0, 1]; 0 if there is no word."""
    measured = _rouge(expected, text)
    return float(measured["rougeL"].fmeasure) if measured else 0.0


def _rouge(expected: str, text: str) -> dict[str, RougeScore] | None:
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import DefaultTokenizer

    tokenizer = DefaultTokenizer(use_stemmer=True)
    if not tokenizer.tokenize(expected):
        return None
    measured: dict[str, RougeScore] = RougeScorer(ROUGE, tokenizer=tokenizer).score(expected, text)
    return measured
