"""Escape sequences in settings reach no terminal and no JUnit file."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

ESC = r"\u001b[2J\u009b31m\u202e\u0007"
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
HALF = 'base = "python:stub_models:half"\n'
RIGHT = '[tool.harness.candidates.cand]\nmodel = "python:stub_models:right"\n'
GATES = (
    f'"demo.{ESC}" = {{ at_least = 0.1 }}\n'
    f'"demo.exact_match" = {{ margin = 0.1, tag = "{ESC}", candidate = "{ESC}" }}\n'
)
SETTINGS = {
    "keys": f'"x{ESC}" = 1\n{HALF}[tool.harness.judges."j{ESC}"]\nmodel = "{ESC}"\n',
    "values": f'base = "python:{ESC}:half"\n',
    "gates": f"{HALF}{RIGHT}[tool.harness.gates]\n{GATES}",
    "folders": f'reports = "r{ESC}"\nstore = "s{ESC}"\n{HALF}{RIGHT}',
}


def _harmless(text: str) -> None:
    found = CONTROLS.search(text)
    assert not found, text[max(0, found.start() - 200) : found.end() + 50]


@pytest.mark.parametrize("toml", SETTINGS.values(), ids=SETTINGS)
def test_nothing_in_settings_controls_the_terminal(project, toml):
    project.pyproject(f"[tool.harness]\n{toml}")
    _harmless(project.run("-v", "-rA", "--junitxml=junit.xml").text)
    if (project.root / "junit.xml").exists():
        file = (project.root / "junit.xml").read_text("utf-8")
        _harmless(file)
        ElementTree.fromstring(file)
    _harmless(project.harness("train", "cand")[1])
