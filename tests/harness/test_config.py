"""Settings that no run can use end in sentences with their keys, and nothing waits forever."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import recording
from harness.arms import planned_arms
from harness.cases import load_cases, load_few_shot
from harness.checks.schemas import load_schema
from harness.config import load, parse, project_root
from harness.models import Models
from harness.records import HarnessError
from harness.review import ballots
from trainers.recipe import load_data

ODD = {
    "alpha = nan": "tool.harness.alpha: must be a finite number, not nan",
    "gates.x = { at_least = inf }": "tool.harness.gates.x.at_least: must be a finite number",
    "gates.x = [{ at_most = -inf }]": "tool.harness.gates.x.0.at_most: must be a finite number",
    "base = 1979-05-27": "tool.harness.base: must be a string, a number",
    "models.m = { model = 'a:b', extra_body = { when = 1979-05-27T07:32:00Z } }": (
        "tool.harness.models.m.extra_body.when: must be a string"
    ),
    "models.m = { model = 'a:b', headers = { X = 07:32:00 } }": (
        "tool.harness.models.m.headers.X: must be a string"
    ),
    "judges.j = { model = 'a:b', stop = [nan] }": "tool.harness.judges.j.stop.0: must be a finite",
    f"models.m = {{ model = 'a:b', top_p = {10**30} }}": "models.m.top_p: must be an integer of",
    f"models.m = {{ model = 'a:b', stop = {'[' * 110}{']' * 110} }}": "nested more than 100 levels",
    "store = 'a\\u0000b'".replace("'", '"'): "tool.harness.store: a path holds no control",
    'candidates.c = { trainer = "lora", train = "a\\u001b[2Jb" }': (
        "candidates.c.train: a path holds no control characters"
    ),
    'models.m = { model = "a:b", few_shot = "a\\u0000b" }': "models.m.few_shot: a path holds no",
}


@pytest.mark.parametrize(("toml", "sentence"), ODD.items())
def test_what_neither_json_nor_a_model_can_hold_is_refused_with_its_key(toml, sentence):
    with pytest.raises(HarnessError, match=r"^pyproject\.toml: tool\.harness") as refusal:
        parse(tomllib.loads(toml))
    assert sentence in str(refusal.value)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff",
        b"[tool.harness\n",
        b"[tool]\nx = " + b"9" * 5_000,
        b"[tool]\nx = " + b"[" * 5_000,
        b"[tool.harness]\nx = " + b"[" * 5_000 + b"]" * 5_000,
    ],
)
def test_a_pyproject_that_is_no_toml_is_named(tmp_path, content):
    (tmp_path / "pyproject.toml").write_bytes(content)
    for read in (load, lambda folder: project_root(folder / "evals", "here")):
        with pytest.raises(HarnessError, match=r"pyproject\.toml: "):
            read(tmp_path)


@pytest.mark.parametrize("content", ["", "tool = 5", "[tool]\nother = 1", "harness = {}"])
def test_a_pyproject_without_the_table_is_no_project(tmp_path, content):
    (tmp_path / "pyproject.toml").write_text(content)
    with pytest.raises(HarnessError, match=f"^here: no pyproject.toml .* {tmp_path},"):
        project_root(tmp_path, "here")
    assert load(tmp_path) == parse({})


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


SPECIAL = {"a pipe": _pipe, "a loop": _loop, "a device": _device, "a folder": Path.mkdir}


def _replayed(root: Path) -> object:
    arms = planned_arms(parse({"base": "replay:odd"}), root)
    return Models().identity(arms[0].arm.spec)


def _examples(root: Path) -> object:
    return planned_arms(
        parse({"base": "m", "models": {"m": {"model": "openai:x", "few_shot": "odd"}}}), root
    )


PLACES: dict[str, Callable[[Path], object]] = {
    "the settings": lambda root: load(root / "settings"),
    "cases": lambda root: load_cases(root / "odd", "s", root),
    "few-shot examples": lambda root: load_few_shot(root / "odd", root),
    "examples of a model": _examples,
    "training rows": lambda root: load_data(root / "odd", None, None, 0, root),
    "a recording": _replayed,
    "a schema": lambda root: load_schema("odd", root),
    "a recording by its path": lambda root: recording.read(root / "odd", "odd"),
    "votes": lambda root: ballots.read(root / "odd"),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", SPECIAL.values(), ids=SPECIAL)
@pytest.mark.parametrize("read", PLACES.values(), ids=PLACES)
def test_what_is_no_file_is_refused_at_once(tmp_path, make, read):
    make(tmp_path / "odd")
    (tmp_path / "settings").mkdir()
    make(tmp_path / "settings/pyproject.toml")
    with pytest.raises(HarnessError, match=r"odd|pyproject\.toml"):
        read(tmp_path)


@pytest.mark.parametrize("target", ["x" * 5_000, "a\x00b", "../" * 2_000])
def test_a_model_of_an_impossible_path_is_refused(tmp_path, target):
    spec = planned_arms(parse({"base": f"replay:{target}"}), tmp_path)[0].arm.spec
    with pytest.raises(HarnessError):
        Models().identity(spec)
    adapted = {"base": "m", "models": {"m": {"model": f"local:{target}", "adapter": "x" * 5_000}}}
    with pytest.raises(HarnessError, match="holds no adapter_config"):
        planned_arms(parse(adapted), tmp_path)
