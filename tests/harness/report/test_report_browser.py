"""The page in a real browser: what people see."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import report
from harness.records import Decision, Run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SIZES = [(1280, 800), (390, 844)]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def reports(run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    bad = replace(run.verdicts[0], decision=Decision.FAIL, verdict="regressed")
    runs = {
        "pass": run,
        "fail": replace(run, decision=Decision.FAIL, verdicts=(bad, *run.verdicts[1:])),
        "undecidable": replace(run, decision=Decision.UNDECIDABLE, errors=("W" * 5_000,)),
    }
    folder = tmp_path_factory.mktemp("reports")
    return {
        name: report.write(replace(made, run_id=name), folder) / "index.html"
        for name, made in runs.items()
    }


@pytest.fixture(params=SIZES, ids=lambda size: str(size[0]))
def page(request: pytest.FixtureRequest, browser: Any) -> Iterator[Any]:
    width, height = request.param
    context = browser.new_context(viewport={"width": width, "height": height})
    page = context.new_page()
    page.requested, page.complaints = [], []
    page.on("request", lambda request: page.requested.append(request.url))
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    yield page
    context.close()


@pytest.mark.parametrize("name", ["pass", "fail", "undecidable"])
def test_the_page_fits_shows_its_verdict_and_asks_for_nothing(
    page: Any, reports: dict[str, Path], name: str
) -> None:
    page.goto(reports[name].as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    width, client = page.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert width <= client
    box = page.locator("#verdict").bounding_box()
    assert box["y"] + box["height"] <= page.viewport_size["height"]
    assert name.upper() in page.locator("#verdict").inner_text()
    assert page.requested == [reports[name].as_uri()]
    assert page.complaints == []


def test_nothing_but_wide_tables_scrolls_sideways(page: Any, reports: dict[str, Path]) -> None:
    page.goto(reports["pass"].as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    outside = page.evaluate(
        """[...document.querySelectorAll('main *, header *')]
        .filter(one => !one.closest('.scroll, svg'))
        .filter(one => one.getBoundingClientRect().right > innerWidth + 1)
        .map(one => one.outerHTML.slice(0, 80))"""
    )
    assert outside == []


def test_the_key_figures_stand_in_the_first_screen(page: Any, reports: dict[str, Path]) -> None:
    page.goto(reports["pass"].as_uri())
    for tile in page.locator(".tile").all():
        box = tile.bounding_box()
        assert box["y"] + box["height"] <= page.viewport_size["height"]


def test_changed_cases_can_be_filtered_without_a_script(
    page: Any, reports: dict[str, Path]
) -> None:
    page.goto(reports["pass"].as_uri())
    page.get_by_text("Improved 40").click()
    assert page.locator(".case:visible").count() == 40
    page.get_by_text("Regressed 5").click()
    assert page.locator(".case:visible").count() == 5


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(
    browser: Any, reports: dict[str, Path], scheme: str
) -> None:
    page = browser.new_page(color_scheme=scheme)
    page.goto(reports["fail"].as_uri())
    ratios = page.evaluate(CONTRASTS)
    page.close()
    assert {text: ratio for text, ratio in ratios if ratio < 4.5} == {}


CONTRASTS = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgb = color => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = color => {
    const [r, g, b] = rgb(color).map(x => x / 255)
      .map(x => x <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ground = one => {
    for (; one; one = one.parentElement) {
      const color = getComputedStyle(one).backgroundColor;
      if (rgb(color)[3] === 255) return color;
    }
    return 'white';
  };
  return [...document.querySelectorAll('h1, h2, h3, h4, p, th, td, span, a, li, dt, dd, label')]
    .filter(one => one.innerText && one.checkVisibility() && !one.matches('.nil'))
    .map(one => {
      const [a, b] = [light(getComputedStyle(one).color), light(ground(one))];
      return [one.innerText.slice(0, 40), (Math.max(a, b) + .05) / (Math.min(a, b) + .05)];
    });
}"""
