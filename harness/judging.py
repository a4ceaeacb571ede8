"""The judges' wave: what the checks deferred is asked at once, when all items ran.

It runs where the results are: in the one process of a serial run, on the controller under xdist.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path

from harness import recording, rules, trust
from harness.arms import PlannedArm
from harness.checks import judge as checks
from harness.checks.judge import Material, Opinion
from harness.evaluation import ItemResult
from harness.judges import NONE_CONFIGURED, Errand, Judges
from harness.records import JudgeFigure, Question, Recorded, Reply, Role, Rule, Score
from harness.trust import Answer

_NO_CANDIDATE = "it compares with a baseline, and this run has no candidate"


@dataclass(frozen=True)
class Judged:
    """The results of a run with the judges' scores, and what there is to say about the judges."""

    results: tuple[ItemResult, ...]
    figures: tuple[JudgeFigure, ...] = ()
    notes: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()

    @property
    def alarms(self) -> tuple[str, ...]:
        """What is bad about the judges, or what they found to be bad."""
        return tuple(figure.warning for figure in self.figures if figure.warning)


@dataclass(frozen=True)
class _Sheet:
    """One question about the result at `place`, and the judges that answer it.

    `errands` are none where the answer is known (`settled`), one, or two: both orders of a pair.
    """

    place: int
    question: Question
    judges: tuple[str, ...]
    check: str
    errands: tuple[Errand, ...] = ()
    settled: Score | None = None

    @property
    def blank(self) -> Score:
        """The score before anybody answered."""
        return checks.blank(self.question, self.check)


class Wave:
    """All questions of a run, from what is asked to the scores."""

    def __init__(
        self,
        results: Sequence[ItemResult],
        arms: Sequence[PlannedArm],
        judges: Judges,
        gates: Sequence[Rule] = (),
        doubts: Callable[[str, Question], str] = lambda judge, question: "",
    ) -> None:
        """Put the questions of `results` to `judges`.

        `gates` are the configured rules; `doubts` says why a judge is not trusted to gate by its
        answers to a question, and nothing where it is.
        """
        self._results = results
        self._judges = judges
        self._gates = gates
        self._doubts = doubts
        self._arms = [planned.arm for planned in arms]
        self._baseline = arms[0].arm.name
        self._again = {planned.arm.name for planned in arms if planned.arm.first_trial}
        self._compares = any(planned.arm.role is Role.CANDIDATE for planned in arms)
        self._before = {_key(one): one.reply for one in results if one.arm == self._baseline}
        self._digests: dict[Question, str] = {}
        self._doubted: dict[Question, str] = {}

    def run(self) -> Judged:
        """Ask, and return the results with the scores."""
        sheets = [self._sheet(*each) for each in self._questions() if not self._why_not(each[1])]
        for judge in self._judges.panel:
            mine = (sheet for sheet in sheets if judge in sheet.judges)
            self._judges.ask(judge, [errand for sheet in mine for errand in sheet.errands])
        silent = self._skipped()
        recorded = self._recorded(silent)
        skipped = {metric: why for metric, why in silent.items() if metric not in recorded}
        answers = [self._answer(one) for one in sheets if one.question.metric not in silent]
        scores = [*(one.scored for one in answers), *chain.from_iterable(recorded.values())]
        return Judged(
            results=self._with([*scores, *self._undecidable(skipped)]),
            figures=(*trust.figures(answers, self._baseline), *trust.flips(self._judges)),
            notes=(
                *_aloud(skipped),
                *(f"{metric} is as recorded, because {silent[metric]}" for metric in recorded),
                *self._advice(answers),
            ),
            errors=(*self._lost(), *self._without_evidence(skipped), *self._overruled(answers)),
        )

    def _questions(self) -> Iterator[tuple[int, Question]]:
        for place, result in enumerate(self._results):
            for question in result.questions:
                yield place, question

    def _panel_of(self, question: Question) -> tuple[str, ...]:
        return tuple(dict.fromkeys(question.judges)) or tuple(self._judges.panel)

    # ------------------------------------------------------------------ what is asked

    def _sheet(self, place: int, question: Question) -> _Sheet:
        sheet = _Sheet(place, question, self._panel_of(question), self._digest(question))
        result = self._results[place]
        if question.kind == "preference":
            return self._pair(sheet, result)
        if result.reply.failure:
            return replace(sheet, settled=sheet.blank.worst(result.reply.failure))
        return replace(sheet, errands=(self._errand(sheet, result.reply.said),))

    def _pair(self, sheet: _Sheet, result: ItemResult) -> _Sheet:
        if result.arm == self._baseline:
            return replace(sheet, settled=_preference(sheet, 0.0, ""))
        before = self._before.get(_key(result))
        if before is None or before.error:
            lacking = replace(sheet.blank, unscored="the baseline has no reply")
            return replace(sheet, settled=lacking)
        if known := _without_asking(before, result.reply):
            return replace(sheet, settled=_preference(sheet, *known))
        old, new = before.said, result.reply.said
        orders = (self._errand(sheet, old, new), self._errand(sheet, new, old))
        return replace(sheet, errands=orders)

    def _errand(self, sheet: _Sheet, *texts: str) -> Errand:
        result = self._results[sheet.place]
        material = Material(result.prompt, result.expected, texts)
        # An A/A run asks the judges again too: what they change their minds on is theirs.
        trial = int(result.arm in self._again)
        return Errand(sheet.question, material, trial, f"{result.suite}:{result.id}")

    def _digest(self, question: Question) -> str:
        if question not in self._digests:
            identities = [self._judges.identity(judge) for judge in self._panel_of(question)]
            self._digests[question] = checks.digest(question, identities)
        return self._digests[question]

    # ------------------------------------------------------------------ what was answered

    def _answer(self, sheet: _Sheet) -> Answer:
        result, opinions = self._results[sheet.place], dict[str, tuple[Opinion, ...]]()
        score = sheet.settled or sheet.blank
        if sheet.settled is None:
            opinions, problem = self._opinions(sheet)
            told = {j: checks.settled(sheet.question, found) for j, found in opinions.items()}
            score = (
                replace(score, unscored=problem)
                if problem
                else checks.scored(sheet.question, told, sheet.check)
            )
        score = replace(score, diagnostic=bool(self._doubt(sheet.question)))
        length = len(result.reply.said)
        return Answer(
            sheet.place, sheet.question, score, _key(result), result.arm, length, opinions
        )

    def _opinions(self, sheet: _Sheet) -> tuple[dict[str, tuple[Opinion, ...]], str]:
        """What each judge said, and why the score is none, if it is: a panel speaks as a whole."""
        found, problem = {}, ""
        for judge in sheet.judges:
            said_of_it = [self._judges.opinion(judge, errand) for errand in sheet.errands]
            whole = tuple(one for one in said_of_it if isinstance(one, Opinion))
            failed = next((one for one in said_of_it if isinstance(one, str)), "")
            if failed:
                problem = problem or f"{judge}: {failed}"
            else:
                found[judge] = whole
        return found, problem

    def _with(self, scores: Iterable[tuple[int, Score]]) -> tuple[ItemResult, ...]:
        by_place: dict[int, list[Score]] = {}
        for place, score in scores:
            by_place.setdefault(place, []).append(score)
        return tuple(
            replace(one, scores=(*one.scores, *by_place.get(place, ())), questions=())
            for place, one in enumerate(self._results)
        )

    # ------------------------------------------------------------------ what is not judged

    def _why_not(self, question: Question) -> str:
        """Why a question is not asked at all; empty where it is."""
        if question.kind == "preference" and not self._compares:
            return _NO_CANDIDATE
        names = self._panel_of(question)
        if not names:
            return NONE_CONFIGURED
        unknown = [name for name in names if name not in self._judges.panel]
        if unknown:
            return f"there is no judge {unknown[0]!r} in [tool.harness.judges] of pyproject.toml"
        return next((why for name in names if (why := self._judges.absent.get(name))), "")

    def _skipped(self) -> dict[str, str]:
        """Metric -> why its judges were not asked."""
        found = {question.metric: self._why_not(question) for _, question in self._questions()}
        return {metric: why for metric, why in sorted(found.items()) if why}

    def _undecidable(self, skipped: Mapping[str, str]) -> Iterator[tuple[int, Score]]:
        """Unscored scores for what is gated: a gate without its judge must not be green."""
        for place, question in self._questions():
            metric = question.metric
            if metric in skipped and rules.named(self._gates, metric):
                score = checks.blank(question, "")
                yield place, replace(score, unscored=skipped[metric])

    def _without_evidence(self, skipped: Mapping[str, str]) -> list[str]:
        return [
            f"{metric} is gated, and its judges were not asked: {why}"
            for metric, why in skipped.items()
            if rules.named(self._gates, metric)
        ]

    # ------------------------------------------------------------------ what was judged before

    def _recorded(self, silent: Mapping[str, str]) -> dict[str, list[tuple[int, Score]]]:
        """Metric -> the scores that the recordings keep, where they do of every reply.

        They must be of the same check, judges included. A preference hangs on another reply too.
        """
        found = {}
        for metric in silent:
            asked = [each for each in self._questions() if each[1].metric == metric]
            scores = [(place, score) for place, q in asked if (score := self._kept(place, q))]
            if len(scores) == len(asked):
                found[metric] = scores
        return found

    def _kept(self, place: int, question: Question) -> Score | None:
        known = set(self._panel_of(question)) <= self._judges.panel.keys()
        if question.kind == "preference" or not known or not self._panel_of(question):
            return None
        result, check = self._results[place], self._digest(question)
        one = self._recordings.get((result.arm, result.suite, result.digest, result.trial))
        score = one.scores.get(question.metric) if one else None
        if score is None or score.value is None or score.check != check:
            return None
        blank = checks.blank(question, check)
        return replace(blank, value=score.value, passed=score.passed, unscored=None)

    @cached_property
    def _recordings(self) -> dict[tuple[str, str, str, int], Recorded]:
        """(model, suite, digest of a case, trial) -> what the model's recording holds of it."""
        return {
            (arm.name, one.suite, one.digest, one.trial): one
            for arm in self._arms
            if arm.spec.recorded
            for one in recording.read(Path(arm.spec.target), arm.spec.target).replies
        }

    # ------------------------------------------------------------------ what got lost

    def _lost(self) -> list[str]:
        by_judge: dict[str, list[tuple[str, str]]] = {}
        for judge, label, error in self._judges.lost:
            by_judge.setdefault(judge, []).append((label, error))
        return [
            f"judge {judge}: {len(found)} of its requests have no reply, first {found[0][0]}: "
            f"{found[0][1]}"
            for judge, found in by_judge.items()
        ]

    # ------------------------------------------------------------------ judges that only advise

    def _doubt(self, question: Question) -> str:
        if question not in self._doubted:
            judges = self._panel_of(question)
            found = (why for judge in judges if (why := self._doubts(judge, question)))
            self._doubted[question] = next(found, "")
        return self._doubted[question]

    def _advice(self, answers: Iterable[Answer]) -> list[str]:
        doubts = {one.question.metric: self._doubt(one.question) for one in answers}
        return [
            f"{metric} advises and does not gate: {why}" for metric, why in doubts.items() if why
        ]

    def _overruled(self, answers: Iterable[Answer]) -> list[str]:
        metrics = {one.question.metric for one in answers if one.score.diagnostic}
        return [
            f"{metric} is gated, and its judges may only advise (see the notes): calibrate a judge "
            "that agrees with people, or take the gate back"
            for metric in sorted(metrics)
            if rules.named(self._gates, metric)
        ]


def _key(result: ItemResult) -> tuple[str, str, str, int]:
    return result.suite, result.id, result.test, result.trial


def _without_asking(before: Reply, after: Reply) -> tuple[float, str] | None:
    """What is preferred where nobody has to be asked, and why."""
    if before.failure or after.failure:
        value = float(bool(before.failure)) - float(bool(after.failure))
        return value, after.failure or f"the baseline's: {before.failure}"
    # Not `same_text`: what shows nothing may be an instruction, which judges are to see.
    old, new = (unicodedata.normalize("NFC", reply.said).strip() for reply in (before, after))
    return (0.0, "the replies are equal") if old == new else None


def _preference(sheet: _Sheet, value: float, why: str) -> Score:
    return replace(sheet.blank, value=value, unscored=None, passed=value >= 0, explanation=why)


def _aloud(skipped: Mapping[str, str]) -> list[str]:
    """One sentence for each reason, however many metrics it keeps from being judged."""
    by_reason: dict[str, list[str]] = {}
    for metric, why in skipped.items():
        by_reason.setdefault(why, []).append(metric)
    return [f"NOT JUDGED: {', '.join(metrics)}: {why}" for why, metrics in by_reason.items()]
