"""Blind reading in a real browser: votes by keyboard, nothing lost, nothing given away."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from harness.review import desk
from harness.store import Store

from .conftest import (
    HOSTILE,
    MAIN,
    Reviewed,
    ballot,
    ballots,
    build,
    opened,
    pair_names,
    read_one,
)

SIZES = [(1280, 800), (390, 844)]


BASELINE = [f"old {n} good{'!' if n % 5 == 0 else ''}" for n in range(20)]
CANDIDATE = [f"new {n} {'bad' if n < 3 else 'good'}{'!!' if n % 3 else ''}" for n in range(20)]
SAYS = {"old": BASELINE, "new": CANDIDATE}


def expected() -> tuple[int, int, int]:
    """Wins, losses and ties of the candidate for the fixed reader."""
    moves = [new.count("!") - old.count("!") for old, new in zip(BASELINE, CANDIDATE, strict=True)]
    return sum(m > 0 for m in moves), sum(m < 0 for m in moves), sum(m == 0 for m in moves)


@pytest.fixture
def reviewed(tmp_path: Path) -> Reviewed:
    return build(tmp_path, "old", SAYS)


def test_twenty_votes_by_keyboard_survive_a_reload_and_match_the_result(
    browser: Any, reviewed: Reviewed
) -> None:
    status, text = reviewed.harness("review", "--rater", "anna")
    assert status == 0
    file = Path(text.replace("\n", ""))
    page = opened(browser)
    page.goto(file.as_uri())
    given = dict(read_one(page) for _ in range(9))
    page.keyboard.press("1")
    page.keyboard.press("n")
    page.keyboard.type("t is a letter here")
    page.reload()
    assert page.locator("#done").inner_text() == "9"
    half_done = page.locator(".pair:visible")
    assert half_done.locator("textarea").input_value() == "t is a letter here"
    assert half_done.locator("input[name=left]").is_checked()
    page.keyboard.press("1")
    given |= dict(read_one(page) for _ in range(11))
    assert len(given) == 20
    assert page.locator("#end").is_visible()
    with page.expect_download() as download:
        page.locator("#end button").click()
    votes = reviewed.root / download.value.suggested_filename
    download.value.save_as(votes)
    assert {one["pair"]: one["choice"] for one in ballots(votes)["votes"]} == given
    assert page.requested == 2 * [file.as_uri()]
    assert page.complaints == []
    page.context.close()

    status, text = reviewed.harness("review", "result", "--votes", votes.name)
    assert status == 0
    wins, losses, ties = expected()
    assert f"better {wins}, worse {losses}, tie {ties}" in text
    assert f"+{(wins - losses) / 20:.2f}" in text
    assert "85 % [64, 95]" in text  # Wilson's interval of 17 in 20
    assert "baseline 100 % [84, 100]" in text
    assert text.count("would not ship") == 3
    assert "t is a letter here" in text
    assert {vote.pair: vote.choice for vote in reviewed.votes()} == given


def test_undo_goes_back_in_the_order_of_the_votes(browser: Any, reviewed: Reviewed) -> None:
    page = opened(browser)
    page.goto(reviewed.page().as_uri())
    names = [read_one(page)[0] for _ in range(3)]
    for name in reversed(names):
        page.keyboard.press("u")
        assert page.locator(".pair:visible").get_attribute("data-pair") == name
    page.keyboard.press("u")
    assert page.locator("#done").inner_text() == "0"
    page.context.close()


def test_keys_with_a_modifier_and_held_keys_are_no_votes(browser: Any, reviewed: Reviewed) -> None:
    page = opened(browser)
    page.goto(reviewed.page().as_uri())
    page.keyboard.press("Control+t")
    page.keyboard.press("Alt+ArrowLeft")
    page.keyboard.down("t")
    page.keyboard.down("t")  # the browser repeats a key that is held
    assert page.locator("#done").inner_text() == "1"
    page.context.close()


@pytest.mark.parametrize("size", SIZES, ids=lambda size: str(size[0]))
def test_hostile_replies_stay_text_and_the_page_fits(
    browser: Any, tmp_path: Path, size: tuple[int, int]
) -> None:
    hostile = {"old": [HOSTILE + "W" * 3_000] * 2, "new": ["", HOSTILE * 50]}
    reviewed = build(tmp_path, "old", hostile)
    page = opened(browser, *size)
    page.goto(reviewed.page().as_uri())
    for _ in range(2):
        shown = page.locator(".pair:visible").inner_text()
        assert "<script>window.hacked = 1</script>" in shown
        assert "\\u202eevil\\u2066" in shown
        assert "\\u001b[2J" in shown
        assert "{{ 7 * 7 }}" in shown
        width, client = page.evaluate(
            "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert width <= client
        for choice in page.locator(".choices button").all():
            box = choice.bounding_box()
            assert box["y"] + box["height"] <= size[1]
        page.locator("[data-do=tie]").click()
    assert page.evaluate("window.hacked") is None
    assert page.complaints == []
    page.context.close()


def test_exchanged_models_give_the_same_page_byte_for_byte(tmp_path: Path) -> None:
    pages, results = [], []
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        reviewed = build(tmp_path / name, name, SAYS)
        pages.append((page := reviewed.page()).read_bytes())
        votes = tmp_path / name / "votes.json"
        votes.write_text(ballot(*pair_names(page)))
        with closing(Store(reviewed.path)) as store:
            desk.imported(store, votes)
        results.append(reviewed.result())
    assert pages[0] == pages[1]
    one, other = results
    assert (one.wins, one.losses) == (other.losses, other.wins)
    assert 0 < one.wins < 20  # the sides are mixed


def test_another_store_orders_and_names_the_pairs_otherwise(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        build(tmp_path / name, "old", SAYS)
    one, two = (Reviewed(tmp_path / name, SAYS) for name in ("one", "two"))
    with closing(Store(two.path)) as store:
        store._rows("UPDATE blinding SET secret = 'other'")
    assert set(pair_names(one.page())).isdisjoint(pair_names(two.page()))


# ---------------------------------------------------------------------- served


@contextmanager
def served(reviewed: Reviewed, *arguments: str) -> Iterator[str]:
    """Run `harness review --serve`; yield its address."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", MAIN, "review", "--serve", "--rater", "bo", *arguments],
        cwd=reviewed.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    try:
        yield process.stdout.readline().strip()
    finally:
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=20)
        assert (process.returncode, complaints) == (0, "")


def test_a_served_page_stores_every_vote_as_it_is_given(browser: Any, reviewed: Reviewed) -> None:
    page = opened(browser)
    with served(reviewed) as url:
        page.goto(url)
        given = {}
        for _ in range(7):
            with page.expect_response("**/votes"):
                given |= dict([read_one(page)])
            assert {vote.pair: vote.choice for vote in reviewed.votes()} == given
        with page.expect_response("**/votes"):
            page.keyboard.press("u")
        given.popitem()
        assert {vote.pair: vote.choice for vote in reviewed.votes()} == given
        page.reload()
        assert page.locator("#done").inner_text() == "6"
        # The reply that was marked before the undo is still marked: start over with its marks.
        pair = page.locator(".pair:visible")
        for key, side in (("1", "left"), ("2", "right")):
            if pair.locator(f"input[name={side}]").is_checked():
                page.keyboard.press(key)
        with page.expect_response("**/votes"):
            given |= dict([read_one(page)])
        assert {urlsplit(asked).netloc for asked in page.requested} == {urlsplit(url).netloc}
        assert page.complaints == []
    page.keyboard.press("t")
    page.get_by_role("alert").wait_for()
    assert "not stored yet" in page.get_by_role("alert").inner_text()
    page.context.close()

    page = opened(browser)
    with served(reviewed) as url:
        page.goto(url)
        assert page.locator("#done").inner_text() == "7"
        while page.locator(".pair:visible").count():
            with page.expect_response("**/votes"):
                given |= dict([read_one(page)])
    page.context.close()
    assert {vote.pair: vote.choice for vote in reviewed.votes()} == given
    assert len(given) == 20
    made = reviewed.result()
    assert (made.wins, made.losses, made.ties) == expected()


def test_only_the_served_page_itself_may_vote(reviewed: Reviewed) -> None:
    import http.client

    with served(reviewed) as url:
        place = urlsplit(url)
        [pair, *_] = pair_names(reviewed.page())
        good = json.dumps({"pair": pair, "choice": "left"})
        mine = {"Host": place.netloc, "Origin": f"http://{place.netloc}"}

        def status(path: str, method: str = "POST", body: str = good, **headers: str) -> int:
            connection = http.client.HTTPConnection(place.netloc, timeout=10)
            connection.request(method, path, body, {**mine, **headers})
            return connection.getresponse().status

        votes = f"{place.path}votes"
        assert status(place.path, "GET", Host="evil.example") == 403
        assert status("/guess/", "GET") == 404
        assert status("/guess/votes") == 404
        assert status(votes, Host="evil.example:80") == 403
        assert status(votes, Origin="http://evil.example") == 403
        assert status(votes, Origin="null") == 403
        assert status(votes, body='{"pair": "0", "choice": "left"}') == 400
        assert status(votes, body="no JSON") == 400
        assert status(votes, body=good.replace("left", "L" * 100_000)) == 400
        assert reviewed.votes() == []
        assert status(votes) == 204
    assert [vote.choice for vote in reviewed.votes()] == ["left"]
