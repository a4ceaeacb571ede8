"""The statistics of judges that are right or wrong by chance, and of their trust."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping

import pytest
from scipy import stats as scipy_stats

from harness.arms import PlannedArm
from harness.comparing import compare
from harness.evaluation import ItemResult
from harness.evidence import clusters_in, evidence_of, series
from harness.judges import Judges
from harness.judging import Judged, Wave
from harness.records import Arm, Comparison, ModelSpec, Question, Reply, Request, Role

PAIRS = 60
BETTER = 0.6
QUESTION = Question("demo.preference", "preference", "the better one")


class Coin:
    """Replies of a judge that finds the good answer with a probability, each time anew."""

    def __init__(self, seed: int, right: float) -> None:
        self._draw = random.Random(seed)
        self._right = right
        self._count = 0

    def identity(self, spec: ModelSpec) -> Mapping[str, object]:
        return {}

    def plan(self, spec: ModelSpec, messages: object, trial: int, label: str) -> Request:
        self._count += 1
        return Request(str(self._count), spec, tuple(messages), 0, trial, label)  # type: ignore[arg-type]

    def gather(self, requests: Iterable[Request], progress: object) -> dict[str, Reply]:
        return {one.key: Reply(self._verdict(one)) for one in requests}

    def _verdict(self, request: Request) -> str:
        text = str(request.messages[0]["content"])
        mark = re.search('{"id": "([0-9a-f]{32})"', text)
        assert mark
        first_is_good = text.index("| good") < text.index("| poor")
        right = self._draw.random() < self._right
        side = "first" if first_is_good == right else "second"
        return f'{{"id": "{mark[1]}", "evidence": "a coin", "better": "{side}"}}'


def quiet(title: str):
    from contextlib import nullcontext

    return nullcontext(lambda done, total, detail="": None)


def result(case: int, arm: str, text: str) -> ItemResult:
    return ItemResult(
        suite="demo",
        id=f"c{case}",
        test="test_it",
        arm=arm,
        guard=False,
        plain=False,
        prompt=f"question {case}",
        expected=None,
        tags=(),
        cluster=None,
        digest=f"{case}",
        reply=Reply(text),
        error="",
        trial=0,
        asserted=True,
        explanation="",
        mistake="",
        scores=(),
        questions=(QUESTION,),
    )


ARMS = tuple(
    PlannedArm(Arm(name, role, ModelSpec(name, "python", name)))
    for name, role in (("base", Role.BASELINE), ("new", Role.CANDIDATE))
)


def results(draw: random.Random) -> Iterator[ItemResult]:
    """Pairs of which the candidate's reply is the good one with a probability of `BETTER`."""
    for case in range(PAIRS):
        replies = ["poor", "good"] if draw.random() < BETTER else ["good", "poor"]
        for arm, reply in zip(("base", "new"), replies, strict=True):
            yield result(case, arm, reply)


def judged_by_coin(given: Iterable[ItemResult], seed: int, right: float) -> Judged:
    judges = Judges({"coin": ModelSpec("coin", "python", "coin")}, Coin(seed, right), quiet)
    return Wave(list(given), ARMS, judges).run()


def run(seed: int, right: float) -> tuple[Comparison, Judged]:
    judged = judged_by_coin(results(random.Random(f"cases {seed}")), seed, right)
    evidence = evidence_of(judged.results)
    models = evidence.scores["demo.preference"]
    before, after = (series("demo.preference", arm, models) for arm in ("base", "new"))
    return compare(before, after, clusters_in(evidence, "demo.preference"), 0.05), judged


@pytest.mark.slow
def test_a_judge_that_is_right_nine_times_in_ten_yields_the_preference_in_its_interval() -> None:
    expected = (2 * BETTER - 1) * (0.9**2 - 0.1**2)
    covered, ratios = 0, []
    for seed in range(400):
        compared, _ = run(seed, 0.9)
        low, high = compared.interval
        covered += low <= expected <= high
        decided = compared.wins + compared.losses
        exact = scipy_stats.binomtest(compared.wins, decided).proportion_ci(0.95, "exact")
        ratios.append((high - low) / (2 * decided / PAIRS * (exact.high - exact.low)))
    assert 0.92 <= covered / 400 <= 0.98
    assert max(ratios) <= 1.2


def test_a_consistent_judge_raises_no_alarm() -> None:
    compared, judged = run(0, 1.0)
    assert compared.ties == 0
    assert judged.alarms == ()


def test_a_judge_that_guesses_raises_an_alarm() -> None:
    compared, judged = run(0, 0.5)
    assert compared.ties > PAIRS / 3
    assert any("same of both orders" in alarm for alarm in judged.alarms)


def test_winners_that_are_always_the_longer_ones_raise_an_alarm() -> None:
    pairs = [
        result(case, arm, text)
        for case in range(PAIRS)
        for arm, text in (("base", "poor"), ("new", "good, and longer"))
    ]
    judged = judged_by_coin(pairs, 0, 1.0)
    [alarm] = judged.alarms
    assert f"the longer reply scores higher in {PAIRS} of {PAIRS} pairs that differ" in alarm


def test_a_length_that_sways_nobody_raises_no_alarm() -> None:
    pairs = [
        result(case, arm, text)
        for case in range(PAIRS)
        for arm, text in (("base", f"poor{case % 7 * '.'}"), ("new", f"good{case % 5 * '.'}"))
    ]
    judged = judged_by_coin(pairs, 0, 1.0)
    assert judged.alarms == ()


def test_replies_that_read_the_same_are_a_tie_that_nobody_is_asked_about() -> None:
    pairs = [result(1, "base", "good caf\u00e9"), result(1, "new", "good cafe\u0301")]
    judged = judged_by_coin(pairs, 0, 1.0)
    [_, score] = [score for one in judged.results for score in one.scores]
    assert (score.value, score.explanation) == (0.0, "the replies are equal")


def test_replies_that_differ_in_what_shows_nothing_are_judged() -> None:
    pairs = [result(1, "base", "good\npoor"), result(1, "new", "good\npoor\U000e0079\U000e0065")]
    judged = judged_by_coin(pairs, 0, 1.0)
    [_, score] = [score for one in judged.results for score in one.scores]
    assert score.explanation != "the replies are equal"
