"""Pairs -> a page on which people vote: one HTML file that asks the network for nothing.

Model output passes through `visible` and Jinja2's escaping; nothing is marked as safe but our own
style sheets and script, which the page's Content-Security-Policy admits by its digest.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from harness.records import Vote
from harness.review.ballots import LONGEST_NOTE
from harness.review.pairs import Pair

_HERE = Path(__file__).parent
_LONGEST_TEXT = 20_000


def page(
    run: str, pairs: Sequence[Pair], rater: str, votes: Iterable[Vote] = (), *, served: bool = False
) -> str:
    """Return the page on which `rater` reads `pairs` of `run`.

    A `served` page posts every vote to `votes` beside it and begins with the stored `votes`; the
    other keeps them in the browser and offers them as a file.
    """
    from markupsafe import Markup

    from harness.report import html

    styles = (Path(html.__file__).with_name("report.css"), _HERE / "review.css")
    script = (_HERE / "review.js").read_text(encoding="utf-8")
    template = html.environment(_HERE).get_template("review.html.j2")
    return str(
        template.render(
            style=Markup("".join(path.read_text(encoding="utf-8") for path in styles)),
            script=Markup(script),
            policy=_policy(script, served=served),
            run=run,
            pairs=pairs,
            rater=rater,
            served=served,
            begun=[_said(vote) for vote in votes],
            longest_text=_LONGEST_TEXT,
            longest_note=LONGEST_NOTE,
        )
    )


def _policy(script: str, *, served: bool) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rules = (
        "default-src 'none'",
        "style-src 'unsafe-inline'",
        f"script-src 'sha256-{digest}'",
        f"connect-src '{'self' if served else 'none'}'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    )
    return "; ".join(rules)


def _said(vote: Vote) -> dict[str, Any]:
    names = ("pair", "choice", "left_ships", "right_ships", "note")
    return {name: getattr(vote, name) for name in names}
