from __future__ import annotations

import io

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


def test_without_a_terminal_a_line_tells_the_rate_and_the_time_left(clock: list[float]) -> None:
    stream = io.StringIO()
    with progress.task("asking", stream) as update:
        for done in range(1, 41):
            clock[0] += 0.5
            update(done, 100, f"${done / 100:.2f}")
    lines = stream.getvalue().splitlines()
    assert lines[0] == "[harness] asking: 10/100 2/s 45 s left $0.10"
    assert lines[-1] == "[harness] asking: 40/100 $0.40 in 20.0 s"
    assert len(lines) == 5, "one every five seconds, and the end"


def test_on_a_terminal_the_rate_and_the_cost_are_shown_live() -> None:
    stream = Terminal()
    with progress.task("asking", stream) as update:
        update(50, 100, "$0.12")
    assert "50/100" in stream.getvalue()
    assert "/s" in stream.getvalue()
    assert "$0.12" in stream.getvalue()


def test_nothing_done_has_no_rate(clock: list[float]) -> None:
    stream = io.StringIO()
    with progress.task("asking", stream) as update:
        clock[0] += 60
        update(0, 10)
    assert stream.getvalue().splitlines()[0] == "[harness] asking: 0/10"


def test_a_sentence_in_between_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    progress.say("it was\nso")
    assert capfd.readouterr().err == "[harness] it was so\n"
