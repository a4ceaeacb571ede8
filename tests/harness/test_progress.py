from __future__ import annotations

import io
import time

import pytest

from harness import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that progress sees; add to it to let time pass."""
    now = [100.0]
    monkeypatch.setattr("harness.progress.time.monotonic", lambda: now[0])
    return now


def eventually_holds(stream: io.StringIO, text: str) -> bool:
    deadline = time.perf_counter() + 20
    while text not in stream.getvalue() and time.perf_counter() < deadline:
        time.sleep(0.005)
    return text in stream.getvalue()


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "INTERVAL_S", 0.01)


@pytest.mark.usefixtures("often")
def test_without_a_terminal_a_line_tells_the_rate_and_the_time_left(clock: list[float]) -> None:
    stream = io.StringIO()
    with progress.task("asking", stream) as update:
        clock[0] += 5
        update(10, 100, "8 in flight, $0.10")
        wanted = "[harness] asking: 10/100 2/s 45 s left 8 in flight, $0.10\n"
        assert eventually_holds(stream, wanted)
        clock[0] += 5
        update(100, 100, "$1")
    assert stream.getvalue().splitlines()[-1] == "[harness] asking: 100/100 $1 in 10.0 s"


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["file", "terminal"])
def test_titles_and_details_cannot_control_a_terminal(stream: io.StringIO) -> None:
    with progress.task("asking \x1b]0;title\x07\u202e", stream) as update:
        update(1, 2, "of \x9b2Jmodel")
    assert "asking" in stream.getvalue()
    for sequence in ("\x1b]0", "\x07", "\x9b", "\u202e"):
        assert sequence not in stream.getvalue()


@pytest.mark.usefixtures("often")
def test_a_line_comes_also_while_nothing_arrives(clock: list[float]) -> None:
    stream = io.StringIO()
    with progress.task("asking", stream) as update:
        clock[0] += 7
        assert eventually_holds(stream, "[harness] asking: 7 s so far\n")
        update(0, 10)
        assert eventually_holds(stream, "[harness] asking: 0/10\n")
        update(5, 10)
        clock[0] += 3
        assert eventually_holds(stream, "[harness] asking: 5/10 0.5/s 10 s left\n")


def test_short_work_has_one_line(clock: list[float]) -> None:
    stream = io.StringIO()
    with progress.task("asking", stream) as update:
        clock[0] += 60
        for done in range(10):
            update(done + 1, 10)
    assert stream.getvalue() == "[harness] asking: 10/10 in 60.0 s\n"


def test_on_a_terminal_the_rate_and_the_cost_are_shown_live() -> None:
    stream = Terminal()
    with progress.task("asking", stream) as update:
        update(50, 100, "$0.12")
    assert "50/100" in stream.getvalue()
    assert "/s" in stream.getvalue()
    assert "$0.12" in stream.getvalue()


def test_a_sentence_in_between_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    progress.say("it was\nso")
    assert capfd.readouterr().err == "[harness] it was so\n"
