"""Checks of free text: exact and contained matches, ROUGE.

Texts are compared by `harness.unicode`: equal is what reads the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.checks import check_digest, quoted, reference, right_or_wrong
from harness.records import Case, HarnessError, Reply, Score
from harness.unicode import folded, normalised, pieces, same_text, words

if TYPE_CHECKING:
    from rouge_score.scoring import Score as RougeScore

ROUGE = ("rouge1", "rouge2", "rougeL")


def exact(
    case: Case, reply: Reply, *, ignore_case: bool = False, name: str = "exact_match"
) -> Score:
    """Score 1 if the reply is the expected answer, white space around them aside."""
    expected, got = reference(case, "exact"), reply.text.strip()
    right = same_text(got, expected, ignore_case=ignore_case)
    problem = "" if right else f"{quoted(got)} instead of {quoted(expected)}"
    return right_or_wrong(name, problem, check_digest("exact", 2, ignore_case=ignore_case))


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
        HarnessError: what is looked for shows nothing, so that every reply would contain it, or
            is no text, or there is neither a needle nor an expected answer.

    """
    if not isinstance(needle, str | None):
        raise HarnessError(
            f"{case.source}: the check contains looks for one text, not {quoted(needle)}; "
            "call it once for each text, with a name= of its own"
        )
    sought = reference(case, "contains") if needle is None else needle
    form, whole = (normalised(each, ignore_case=ignore_case) for each in (sought, reply.text))
    if not form:
        raise HarnessError(f"{case.source}: the check contains looks for an empty text; give one")
    problem = "" if form in whole else f"{quoted(sought)} is not in {quoted(reply.text)}"
    check = check_digest("contains", 2, needle=needle, ignore_case=ignore_case)
    return right_or_wrong(name, problem, check)


def rouge(case: Case, reply: Reply, *, name: str = "rouge") -> tuple[Score, ...]:
    """Score the F-measures of ROUGE-1, ROUGE-2 and ROUGE-L, with stemming, each in [0, 1].

    The metrics are `name` with 1, 2 and L behind it. The tokens are words of letters and digits of
    every script (`harness.unicode.words`), case folded; a reference without any is compared by its
    signs. English words are stemmed: texts of ASCII have rouge-score's own values. Any other text
    has 1 with itself. A reference that shows nothing is not scored.

    Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004.
    """
    measured = _rouge(reference(case, "rouge"), reply.text)
    return tuple(_rouge_score(f"{name}{kind[5:]}", kind, measured) for kind in ROUGE)


def _rouge_score(metric: str, kind: str, measured: dict[str, RougeScore] | None) -> Score:
    check = check_digest("rouge", 2, kind=kind, stemming=True)
    if measured is None:
        reason = "the reference shows nothing that ROUGE could compare"
        return Score(metric, None, unscored=reason, check=check)
    found = measured[kind]
    explanation = f"precision {found.precision:.2f}, recall {found.recall:.2f}"
    return Score(metric, float(found.fmeasure), explanation=explanation, check=check)


def rouge_l(expected: str, text: str) -> float:
    """Return the F-measure of ROUGE-L as `rouge` has it, in [0, 1]; 0 if nothing can be seen."""
    measured = _rouge(expected, text)
    return float(measured["rougeL"].fmeasure) if measured else 0.0


def _rouge(expected: str, text: str) -> dict[str, RougeScore] | None:
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.scoring import Score as RougeScore

    expected, text = folded(expected), folded(text)
    tokenizer = _Tokenizer(signs=not words(expected))
    if not tokenizer.tokenize(expected):
        return None
    if expected == text and (tokenizer.signs or not expected.isascii()):
        return dict.fromkeys(ROUGE, RougeScore(1.0, 1.0, 1.0))  # also ROUGE-2 of a single token
    measured: dict[str, RougeScore] = RougeScorer(ROUGE, tokenizer=tokenizer).score(expected, text)
    return measured


class _Tokenizer:
    """rouge-score's own tokens of ASCII words, stemmed, and those of every other script.

    With `signs` what is neither letter nor digit counts too.
    """

    def __init__(self, *, signs: bool) -> None:
        from rouge_score.tokenizers import DefaultTokenizer

        self.signs = signs
        self._english = DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of a folded text."""
        found = [one for one in pieces(text) if not one.isspace()] if self.signs else words(text)
        return [token for word in found for token in self._known(word) or [word]]

    def _known(self, word: str) -> list[str]:
        return list(self._english.tokenize(word)) if word.isascii() else []
