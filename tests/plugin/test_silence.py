"""A project that has nothing to do with us does not notice that we are installed."""

from __future__ import annotations

from pathlib import Path

import pytest

import pytest_finetune

HEAVY = (
    "harness trainers torch transformers peft trl openai datasets numpy jinja2 pydantic rich typer"
)
IMPORT = f"""
import sys, time
import pytest

started = time.process_time()
import pytest_finetune

assert time.process_time() - started < 0.03, time.process_time() - started
assert not set(sys.modules) & set({HEAVY.split()!r}), set(sys.modules) & set({HEAVY.split()!r})
"""
UNRELATED = f"""
import sys

import pytest


def test_nothing_heavy_is_loaded():
    loaded = set(sys.modules) & set({HEAVY.split()!r})
    assert loaded - {{"numpy"}} == OWN, "pytest-randomly loads numpy"


@pytest.fixture
def case():
    return 1


@pytest.fixture
def score(case):
    return case + 1


def test_own_fixtures_win(case, score):
    assert (case, score) == (1, 2)


@pytest.mark.parametrize("model", ["a", "b"])
def test_own_parameters_win(model):
    assert model in "ab"
"""
CONFTEST = """
def pytest_generate_tests(metafunc):
    if "reply" in metafunc.fixturenames:
        metafunc.parametrize("reply", [3])
"""
GENERATED = "\n\ndef test_generated_parameters_win(reply):\n    assert reply == 3\n"
INSTALLED = f"""
import sys

# An editable install has a finder of its own, which finds our modules inside of any package.
sys.meta_path[:] = [finder for finder in sys.meta_path if "Editable" not in str(finder)]
sys.path.append({str(Path(pytest_finetune.__file__).parent)!r})
"""
RECIPE = '[tool.harness.candidates.cand]\ntrainer = "qlora"\ntrain = "data/demo.jsonl"\n'


@pytest.fixture
def unrelated(project):
    for path in ("evals/test_demo.py", "data/demo.jsonl", "stub_models.py"):
        (project.root / path).unlink()
    project.write("tests/conftest.py", CONFTEST)
    project.write("tests/test_it.py", UNRELATED.replace("OWN", "set()") + GENERATED)
    return project


@pytest.fixture
def all_plugins(monkeypatch):
    """Load every plugin that is installed, ours among them, as a user's pytest does."""
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    # It is not among those that a project of pytest-finetune would meet, and the slowest to load.
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest")


def test_importing_the_plugin_loads_nothing_and_takes_no_time(pytester):
    script = pytester.makepyfile(IMPORT)
    assert any(pytester.runpython(script).ret == 0 for _ in range(3)), "3 times: machines stutter"


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["serial", "two workers"])
def test_an_unrelated_project_sees_nothing_of_us(unrelated, all_plugins, arguments):
    unrelated.write("pyproject.toml", "")
    run = unrelated.run(*arguments)
    assert run.status == 0, run.text
    assert run.counts == {"passed": 5}
    header = [line for line in run.lines if line.startswith("plugins: ")]
    said = [line for line in run.lines if line not in header]
    assert not any(word in line for line in said for word in ("finetune", "harness", "ERROR"))
    assert not (unrelated.root / ".harness").exists()
    assert not (unrelated.root / "reports").exists()


def test_a_project_may_own_packages_with_our_names(unrelated, all_plugins):
    for package in ("harness", "trainers", "datasets"):
        unrelated.write(f"{package}/__init__.py", f'OWNER = "the project: {package}"\n')
    owned = "import datasets\nimport harness\nimport trainers\n"
    told = (
        "\n\ndef test_the_packages_are_its_own():\n"
        "    assert {m.OWNER[:11] for m in (harness, trainers, datasets)} == {'the project'}\n"
    )
    text = UNRELATED.replace("OWN", '{"harness", "trainers", "datasets"}')
    unrelated.write("tests/test_it.py", owned + text + GENERATED + told)
    unrelated.write("pyproject.toml", "")
    # pytester starts `python -m pytest`, which puts the working directory first on sys.path.
    run = unrelated.run("-p", "no:randomly")
    assert run.status == 0, run.text
    assert run.counts == {"passed": 6}


@pytest.mark.parametrize(
    ("package", "arguments"),
    [("harness", ()), ("harness", ("-n", "2")), ("trainers", ())],
    ids=["harness", "harness, two workers", "trainers"],
)
def test_a_project_that_uses_us_and_owns_a_package_of_ours_is_told(project, package, arguments):
    project.write("sitecustomize.py", INSTALLED)
    project.write(f"{package}/__init__.py", "")
    project.settings(RECIPE, base="bundled:pocket")
    run = project.run(*arguments)
    assert run.status == 4
    [error] = run.errors
    assert f"{package}/__init__.py hides its package '{package}'" in error
    assert "rename yours" in error


def test_a_suites_own_fixtures_win(project):
    project.write(
        "evals/test_demo.py",
        """
import pytest

pytestmark = pytest.mark.cases("data/demo.jsonl")


@pytest.fixture
def score():
    return "mine"


def test_only_its_own(score):
    assert score == "mine"


def test_own_beside_ours(score, reply):
    assert (score, reply.text) == ("mine", "yes")


@pytest.mark.parametrize("case", ["one", "two"])
def test_own_parameters(case):
    assert case in ("one", "two")


def test_neither(request):
    assert request.node.name == "test_neither"
""",
    )
    project.settings(base="half", cand="right")
    run = project.run()
    assert run.status == 0, run.text
    assert run.verdicts == {"demo.own_beside_ours[cand]": "improved"}
    assert run.counts["passed"] == 1 + 24 + 2 + 1 + len(run.verdicts)
