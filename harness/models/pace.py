"""How many calls may be in flight at once at one service: learned from its answers.

Pure: the time is handed in, in seconds of any clock that never goes back.
"""

from __future__ import annotations

FIRST_WINDOW = 8
CUT = 0.8
COOL_DOWN_S = 1.0


class Pace:
    """The calls in flight at one endpoint and account, and how many there may be.

    The window begins modestly and doubles with every clean round (as many answers as the window
    is wide). The first refusal for coming too fast ends that: from then on a clean round adds one
    and a refusal takes a fifth, each at most once per cool-down. A server's own failure makes a
    round unclean and never cuts. Nothing is sent while a pause that the server asked for lasts.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.window = min(FIRST_WINDOW, limit)
        self.in_flight = 0
        self.opens = 0.0
        self._learned = False
        self._clean = 0
        self._cut_again = self._grow_again = 0.0

    def may_send(self, now: float) -> bool:
        """Return whether one more call may leave now."""
        return now >= self.opens and self.in_flight < min(self.window, self.limit)

    def sent(self) -> None:
        """Count a call that leaves."""
        self.in_flight += 1

    def answered(self, now: float) -> None:
        """Count a call that came back as it should."""
        self.in_flight -= 1
        self._clean += 1
        if self._clean >= self.window and now >= self._grow_again:
            self._clean = 0
            wider = self.window + 1 if self._learned else 2 * self.window
            self.window = min(wider, self.limit)
            self._grow_again = now + COOL_DOWN_S if self._learned else now

    def failed(self) -> None:
        """Count a call that the server, or the way to it, failed: this round adds nothing."""
        self.in_flight -= 1
        self._clean = 0

    def refused(self, now: float, pause_s: float = 0.0) -> None:
        """Count a call that was refused because calls come too fast; nothing leaves for `pause_s`.

        What was sent before a cut is refused after it too, and tells nothing new: therefore the
        cool-down, which the pause is part of.
        """
        self.in_flight -= 1
        self._learned, self._clean = True, 0
        self.opens = max(self.opens, now + pause_s)
        if now >= self._cut_again:
            self.window = max(1, int(self.window * CUT))
            self._cut_again = now + COOL_DOWN_S
        self._cut_again = max(self._cut_again, self.opens)
