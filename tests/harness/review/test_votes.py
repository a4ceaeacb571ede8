"""Votes: files of them, what they add up to, and what they survive."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
from statsmodels.stats.proportion import proportion_confint

from harness import stats
from harness.records import HarnessError, Vote
from harness.review import desk
from harness.store import Store
from harness.votes import Sides, ships, tally

from .conftest import RUN, Reviewed, ballot, build, pair_names

SAYS = {"old": ["yes", "no", "no", "maybe"], "new": ["yes!", "no", "no!", "maybe!"]}


@pytest.fixture
def reviewed(tmp_path: Path) -> Reviewed:
    return build(tmp_path, "old", SAYS)


def vote(rater: str, choice: str, pair: str = "p", **ships: bool) -> Vote:
    return Vote(pair, rater, f"{pair}-left", f"{pair}-right", choice, **ships)


# ---------------------------------------------------------------------- numbers


def test_a_reply_would_be_shipped_where_more_than_half_of_its_readers_would() -> None:
    said = [
        vote("a", "tie", left_ships=False),
        vote("b", "tie"),
        vote("c", "tie", right_ships=False),
        vote("d", "tie", left_ships=False),
    ]
    assert ships(said) == {"p-left": False, "p-right": True}


def test_a_pair_counts_as_what_most_of_its_raters_say() -> None:
    pairs = [Sides("p-left", "p-right"), Sides("q-right", "q-left"), Sides("r-left", "r-right")]
    said = [
        *(
            vote(rater, choice)
            for rater, choice in zip("abc", ("right", "right", "left"), strict=True)
        ),
        *(vote(rater, choice, "q") for rater, choice in zip("ab", ("left", "left"), strict=True)),
        *(vote(rater, choice, "r") for rater, choice in zip("ab", ("left", "right"), strict=True)),
        vote("a", "left", "elsewhere"),
    ]
    made = tally(said, pairs)
    assert (made.wins, made.losses, made.ties) == (2, 0, 1)
    assert made.raters == ("a", "b", "c")
    assert made.preference.value == pytest.approx(2 / 3)
    assert made.preference.interval == stats.tango_interval(3, 0, 2, 0.95)
    assert made.alpha.n == 3


def test_nobody_has_voted() -> None:
    made = tally([], [Sides("a", "b")])
    assert made.preference.n == made.ships_after.n == 0
    assert made.preference.value is None


@pytest.mark.parametrize(("count", "n"), [(0, 20), (17, 20), (20, 20), (1, 1), (3, 7)])
def test_wilsons_interval_is_that_of_statsmodels(count: int, n: int) -> None:
    expected = proportion_confint(count, n, 0.1, method="wilson")
    assert stats.wilson_interval(count, n, 0.9) == pytest.approx(expected, abs=1e-9)


# ---------------------------------------------------------------------- files of votes


def imported(reviewed: Reviewed, content: str, **options: bool) -> str:
    file = reviewed.root / "votes.json"
    file.write_text(content)
    with closing(Store(reviewed.path)) as store:
        return desk.imported(store, file, **options)


def test_votes_of_several_raters_are_kept(reviewed: Reviewed) -> None:
    names = pair_names(reviewed.page())
    assert len(names) == 4
    for rater, given in (("anna", names), ("bo", names[:2]), ("anna", names[:1])):
        imported(reviewed, ballot(*given, rater=rater))
    assert reviewed.result().raters == ("anna", "bo")
    assert reviewed.result().preference.n == 4
    assert len(reviewed.votes()) == 6


@pytest.mark.parametrize(
    "said",
    ['"right"', '"left", "left_ships": false', '"left", "note": "on a second thought"'],
    ids=["choice", "ships", "note"],
)
def test_imported_votes_replace_stored_ones_only_when_told_to(
    reviewed: Reviewed, said: str
) -> None:
    names = pair_names(reviewed.page())
    imported(reviewed, ballot(*names[:2]))
    before = reviewed.votes()
    content = ballot(*names).replace('"left"', said)
    told = imported(reviewed, content)
    assert "2 new votes of" in told
    assert "2 differ from votes of this rater that are stored already, which were kept" in told
    assert reviewed.votes()[:2] == before
    assert "2 replace earlier ones" in imported(reviewed, content, replace=True)
    changed = {vote.pair: vote.says for vote in reviewed.votes()}
    assert all(changed[vote.pair] != vote.says for vote in before)
    assert len(changed) == len(reviewed.votes()) == 4


def test_importing_the_same_file_again_changes_nothing(reviewed: Reviewed) -> None:
    content = ballot(*pair_names(reviewed.page()))
    imported(reviewed, content)
    before = reviewed.votes()
    assert imported(reviewed, content).endswith("0 new votes of anna are stored")
    assert reviewed.votes() == before


def test_a_damaged_store_keeps_its_votes(reviewed: Reviewed) -> None:
    names = pair_names(reviewed.page())
    (reviewed.root / "votes.json").write_text(ballot(*names))
    with closing(Store(reviewed.path)) as store:
        desk.imported(store, reviewed.root / "votes.json")
        store._rows("DROP TABLE promotions")
    with closing(Store(reviewed.path)) as store:
        assert "1 runs and 4 votes could be read" in store.rescued
    assert len(reviewed.votes()) == 4
    assert pair_names(reviewed.page()) == names


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "this is no file of votes"),
        ("[]", "this is no file of votes"),
        ('{"run": "x"}', "this is no file of votes"),
        (ballot("0" * 24), "there is no pair '000000000000000000000000' in the run"),
        (ballot(run="unknown"), "there is no run 'unknown'"),
        (ballot(rater="../evil"), "'../evil' cannot name a rater"),
        (ballot("P").replace("left", "both"), "this is no file of votes"),
        (ballot("P").replace("}]", ', "winner": "me"}]'), "this is no file of votes"),
    ],
)
def test_what_is_no_file_of_votes_is_refused_whole(
    reviewed: Reviewed, content: str, problem: str
) -> None:
    file = reviewed.root / "votes.json"
    file.write_text(content.replace('"P"', json.dumps(pair_names(reviewed.page())[0])))
    with closing(Store(reviewed.path)) as store, pytest.raises(HarnessError, match=problem):
        desk.imported(store, file)
    assert reviewed.votes() == []


def test_a_missing_file_is_told(reviewed: Reviewed) -> None:
    status, text = reviewed.harness("review", "result", "--votes", "no.json")
    assert status == 4
    assert "ERROR: no.json: No such file or directory; give the file that the page made" in text


# ---------------------------------------------------------------------- what is read


def test_who_reads_what_is_a_sentence_where_it_is_not_clear(tmp_path: Path) -> None:
    reviewed = build(tmp_path, "old", {**SAYS, "other": SAYS["new"]})
    with closing(Store(reviewed.path)) as store:
        for named, problem in (
            ({}, "has several candidates: cand, second; name one: --candidate cand"),
            ({"candidate": "no"}, "no candidate 'no'; there: cand, second"),
            ({"candidate": "cand", "suite": "no"}, "no suite 'no' to read; there: demo"),
            ({"candidate": "cand", "rater": "a/b"}, "'a/b' cannot name a rater"),
        ):
            with pytest.raises(HarnessError, match=problem):
                desk.reading(store, "latest", **named)


def test_the_number_of_pairs_is_chosen_and_the_first_stay_the_same(reviewed: Reviewed) -> None:
    with closing(Store(reviewed.path)) as store:
        few, many = (desk.reading(store, RUN, number=number).pairs for number in (2, 9))
    assert (len(few), len(many)) == (2, 4)
    assert many[:2] == few


def test_identical_replies_are_a_tie_whatever_the_vote(reviewed: Reviewed) -> None:
    file = reviewed.root / "votes.json"
    file.write_text(ballot(*pair_names(reviewed.page())))
    with closing(Store(reviewed.path)) as store:
        desk.imported(store, file)
    assert reviewed.result().ties == 1
