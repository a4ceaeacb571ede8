"""Stored runs of two models, and people who read them."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness import schema
from harness.records import Arm, ModelSpec, Recorded, Reply, Role, digest_of
from harness.review import desk
from harness.store import Asked, Store
from harness.votes import Tally

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
RUN = "20261126-120000-abcd"
SECRET = "5e" * 32
SHIP = "good"
MAIN = "import sys; sys.path.remove(''); from harness.cli import main; main()"

HOSTILE = (
    "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"
    "</div></article><svg onload=window.hacked=3>\u202eevil\u2066\x1b[2J\x1b]0;title\x07"
    "{{ 7 * 7 }}<!--</textarea>' onclick=window.hacked=4"
)


@dataclass(frozen=True)
class Reviewed:
    """A project with one stored run: model -> what it says to each case."""

    root: Path
    says: Mapping[str, list[str]]

    @property
    def path(self) -> Path:
        """The store."""
        return self.root / ".harness/store.sqlite"

    def harness(self, *arguments: str) -> tuple[int, str]:
        """Run our command as its installed script does."""
        done = subprocess.run(
            [sys.executable, "-c", MAIN, *arguments],
            cwd=self.root,
            env={**os.environ, "COLUMNS": "160"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout + done.stderr

    def page(self, rater: str = "anna") -> Path:
        """Write the page and return its path."""
        with closing(Store(self.path)) as store:
            reading = desk.reading(store, "latest", rater=rater)
            return desk.written(reading, None, self.root / "reports")

    def result(self) -> Tally:
        """What people say of the candidate."""
        with closing(Store(self.path)) as store:
            return desk.results(store, RUN)[0].tally

    def votes(self) -> list[Any]:
        """What is stored."""
        with closing(Store(self.path)) as store:
            return store.votes()


def build(root: Path, baseline: str, says: Mapping[str, list[str]]) -> Reviewed:
    """Store a run whose baseline is the model `baseline` of `says` and the rest candidates."""
    (root / "pyproject.toml").write_text("[tool.harness]\n")
    store = Store(root / ".harness/store.sqlite")
    with sqlite3.connect(root / ".harness/store.sqlite") as other:
        row = schema.sealed("blinding", (1, SECRET))
        other.execute("INSERT INTO blinding VALUES (?, ?, ?)", row)
    other.close()
    names = [baseline, *(name for name in says if name != baseline)]
    roles = dict(zip(names, ("baseline", "cand", "second"), strict=False))
    arms = [
        Arm(
            roles[name], Role.CANDIDATE if place else Role.BASELINE, ModelSpec(name, "python", name)
        )
        for place, name in enumerate(names)
    ]
    results = {"run_id": RUN, "started": "2026-11-26T12:00:00+00:00", "cases": []}
    digests = [digest_of(number) for number in range(len(says[baseline]))]
    replies = {
        roles[name]: [
            Recorded(f"c{number:02}", digests[number], Reply(text=text), "demo")
            for number, text in enumerate(texts)
        ]
        for name, texts in says.items()
    }
    asked = {
        digest: Asked(f"question {number}\n{HOSTILE}", "yes")
        for number, digest in enumerate(digests)
    }
    store.add_run(results, arms, replies, asked)
    store.close()
    return Reviewed(root, says)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(browser: Any, width: int = 1280, height: int = 800) -> Any:
    """A page that remembers what it asked for and complained of."""
    page = browser.new_context(viewport={"width": width, "height": height}).new_page()
    page.requested, page.complaints = [], []
    page.on("request", lambda request: page.requested.append(request.url))
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    return page


def read_one(page: Any) -> tuple[str, str]:
    """Vote on the pair that is shown as a fixed reader would; return (pair, choice).

    It prefers the text with more exclamation marks and ships what says "good".
    """
    pair = page.locator(".pair:visible")
    texts = [pair.locator(f".reply[data-side={side}]").inner_text() for side in ("left", "right")]
    name = str(pair.get_attribute("data-pair"))
    for key, text in zip("12", texts, strict=True):
        if SHIP not in text:
            page.keyboard.press(key)
    left, right = (text.count("!") for text in texts)
    choice = "tie" if left == right else "left" if left > right else "right"
    page.keyboard.press({"left": "ArrowLeft", "right": "ArrowRight", "tie": "t"}[choice])
    return name, choice


def ballot(*pairs: str, run: str = RUN, rater: str = "anna") -> str:
    """A file of votes that prefers the left side of each of `pairs`."""
    votes = [{"pair": pair, "choice": "left"} for pair in pairs]
    return json.dumps({"run": run, "rater": rater, "votes": votes})


def pair_names(page: Path) -> list[str]:
    """The pairs on a page, in their order."""
    return re.findall(r'data-pair="(\w+)"', page.read_text("utf-8"))


def ballots(path: Path) -> dict[str, Any]:
    """The content of a file of votes."""
    return dict(json.loads(path.read_text()))
