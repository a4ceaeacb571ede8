"""What is wrong is said in one sentence with its place; nothing is trained, nothing is green."""

from __future__ import annotations

import pytest

from harness.config import load
from trainers.recipe import resolve

MARKED = "import pytest\n\npytestmark = pytest.mark.cases({})\n\n\ndef test_it(score):\n    {}\n"
RECIPE = """
[tool.harness.candidates.cand]
trainer = "qlora"
train = "data/train.jsonl"
"""
HALF = '[tool.harness]\nbase = "python:stub_models:half"\n'
RECIPE_FROM_ANOTHER_BASE = f'baseline = "python:stub_models:half"\n{RECIPE}'
WITHOUT_TORCH = "import sys\n\nsys.modules['torch'] = None\n"


def _suite(arguments: str = '"data/demo.jsonl"', body: str = "score.exact()") -> str:
    return MARKED.format(arguments, body)


def _refused(project, *arguments, status: int = 4) -> list[str]:
    """Run; return the sentences, each of which was told once."""
    run = project.run(*arguments)
    assert run.status == status, run.text
    assert len(set(run.errors)) == len(run.errors)
    assert status != 4 or run.results == {}
    return run.errors


def _tell(errors: list[str], *wanted: str) -> None:
    """Every wanted beginning belongs to a sentence of its own, and no sentence is left over."""
    assert len(errors) == len(wanted), errors
    for beginning in wanted:
        assert any(error.startswith(beginning) for error in errors), (beginning, errors)


def test_every_wrong_file_and_marker_is_told(project, workers):
    """All at once: each of them ends the run on its own, and none hides another."""
    project.write("data/empty.jsonl", "\n")
    project.write(
        "data/bad.jsonl", '{"messages": [{"role": "user", "content": "a"}]}\n{"messages"\n'
    )
    project.rows("data/double.jsonl", [project.row("one", "same"), project.row("two", "same")])
    project.rows("data/shot.jsonl", [project.row("one", "a")])
    suites = {
        "empty": _suite('"data/empty.jsonl"'),
        "missing": _suite('"data/nowhere.jsonl"'),
        "bad": _suite('"data/bad.jsonl"'),
        "double": _suite('"data/double.jsonl"'),
        "nothing": _suite(""),
        "number": _suite("3"),
        "unknown": _suite('"data/demo.jsonl", shot=3'),
        "too_many": _suite('"data/demo.jsonl", few_shot="data/shot.jsonl", shots=2'),
        "none": _suite('"data/demo.jsonl", few_shot="data/shot.jsonl", shots=[]'),
        "no_path": _suite('"data/demo.jsonl", few_shot=5'),
        "choice": _suite('"data/demo.jsonl", few_shot="data/shot.jsonl", shots=[0, 1]'),
        "unmarked": "def test_it(reply):\n    assert reply.text\n",
        "two_sets": _suite()
        + '\n\n@pytest.mark.cases("data/shot.jsonl")\ndef test_b(score):\n    pass\n',
    }
    for name, text in suites.items():
        project.write(f"evals/test_{name}.py", text)
    project.write("evals/deeper/test_demo.py", _suite())
    project.settings(base="half", cand="right")
    errors = _refused(project, *workers)
    _tell(
        errors,
        "data/empty.jsonl: the file is empty",
        "data/nowhere.jsonl: there is no such file",
        "data/bad.jsonl:2: the line is no valid JSON",
        "data/double.jsonl:2: the id 'same' stands in line 1 already",
        "evals/test_nothing.py::test_it: pytest.mark.cases takes one path",
        "evals/test_number.py::test_it: pytest.mark.cases takes one path",
        "evals/test_unknown.py::test_it: pytest.mark.cases does not know shot",
        "evals/test_too_many.py::test_it: shots = 2, but there are 1 examples",
        "evals/test_none.py::test_it: shots is empty",
        "evals/test_no_path.py::test_it: few_shot = 5 is no path",
        "evals/test_choice.py::test_it: to choose among (0, 1) shots, give validation",
        "evals/test_unmarked.py:1: case, model, reply and score belong to",
        "evals/test_two_sets.py: it has two different pytest.mark.cases",
        "evals/test_demo.py::test_exact: ",
    )
    assert project.calls() == []


def test_fixtures_without_cases_end_the_run_alone(project):
    project.write("evals/test_demo.py", "def test_it(score):\n    score.exact()\n")
    project.settings(base="half", cand="right")
    _tell(_refused(project), "evals/test_demo.py:1: case, model, reply and score belong to")


SETTINGS = {
    "keys": (
        '[tool.harness]\nbaze = "x"\n[tool.harness.gates]\nexact_match = { at_leest = 1 }\n'
        "contains = { at_least = 1, margin = 0.1 }\n"
        '[tool.harness.candidates.cand]\ntrainer = "qlora"\n',
        (
            "tool.harness.baze: there is no such key",
            "tool.harness.gates.exact_match.at_leest: there is no such key",
            "tool.harness.gates.contains: a gate is exactly one of",
            "tool.harness.candidates.cand: a candidate needs `trainer` and `train`",
        ),
    ),
    "unknown candidate": (
        f'{HALF}[tool.harness.candidates.cand]\nmodel = "tickets"\n',
        ("tool.harness.candidates.cand.model: 'tickets' is no provider:name",),
    ),
    "unknown provider": (
        f'{HALF}[tool.harness.candidates.cand]\nmodel = "opneai:gpt"\n',
        ("'cand'", "no provider 'opneai'", "bundled, local, openai, python"),
    ),
    "bad template": (
        '[tool.harness]\nbase = "asked"\n[tool.harness.models.asked]\n'
        'model = "python:stub_models:right"\ntemplate = "{{ question }}"\n',
        ("template", "question"),
    ),
    "base that cannot be trained": (
        f"{HALF}{RECIPE}",
        ("tool.harness.candidates.cand", "'python:stub_models:half'"),
    ),
    "no toml": ("[tool.harness\n", ("pyproject.toml",)),
}


@pytest.mark.parametrize(("toml", "wanted"), SETTINGS.values(), ids=SETTINGS)
def test_wrong_settings_are_told_with_their_key(project, toml, wanted):
    project.pyproject(toml)
    [error] = _refused(project)
    for words in wanted:
        assert words in error


def test_a_function_that_is_not_there_is_told(project, workers):
    project.pyproject(
        f'{HALF}[tool.harness.candidates.cand]\nmodel = "python:stub_models:nowhere"\n'
    )
    [error] = _refused(project, *workers)
    assert "'cand'" in error
    assert "nowhere" in error


def test_wrong_checks_and_gates_are_told(project, workers):
    project.write("data/no_schema.json", '{"type": "objekt"}')
    project.write(
        "evals/test_demo.py",
        """
import pytest

pytestmark = pytest.mark.cases("data/demo.jsonl")


FOLDER = "data"  # a computed path is known when the test runs


def test_no_schema(score):
    score.json_schema(FOLDER + "/no_schema.json")


def test_missing_schema(score):
    score.json_schema(FOLDER + "/nowhere.json")


def test_twice(score):
    score.exact()
    score.exact()


def test_no_number(score):
    score.record("odd", 2)


def test_contains(score):
    score.contains()


def test_contains_too(score):
    score.contains()


@pytest.mark.parametrize("word", ["y", "e"])
def test_word(reply, word):
    assert word in reply.text
""",
    )
    gates = '"demo.exakt_match" = { at_least = 0.9 }\nother = { margin = 0.1 }\n'
    project.settings(f"[tool.harness.gates]\n{gates}", base="half", cand="right")
    _tell(
        _refused(project, *workers),
        "data/no_schema.json",
        "data/nowhere.json",
        "test_twice of the suite demo: the metric demo.exact_match is recorded twice",
        "test_no_number of the suite demo: score.record('odd', 2)",
        "demo.contains is recorded twice for one case, in test_contains and test_contains_too",
        "demo.word is recorded twice for one case, in test_word; give one of the two another name: "
        "the check by name=, an assertion by its test's name; a test with parameters",
        "pyproject.toml: tool.harness.gates.demo.exakt_match: no test recorded such a metric",
        "pyproject.toml: tool.harness.gates.other: no test recorded such a metric",
    )


@pytest.mark.parametrize(
    ("check", "status", "words"),
    [
        ('score.record("size", 1, high=len(case.id))', 4, "differing ranges"),
        ('score.exact(ignore_case=model.name == "cand")', 6, "different checks"),
    ],
    ids=["differing ranges", "different checks"],
)
def test_scores_that_cannot_be_compared_are_told(project, check, status, words):
    text = _suite(body=check).replace("test_it(score)", "test_it(score, case, model)")
    project.write("evals/test_demo.py", text)
    project.settings(base="half", cand="right")
    run = project.run()
    assert run.status == status
    assert words in " ".join(run.text.split())


def test_a_case_in_the_training_data_is_told_before_anything_is_trained(project, workers):
    project.rows("data/train.jsonl", [project.row("something else"), project.row("  Is it  7")])
    project.settings(RECIPE, base="bundled:pocket")
    _tell(
        _refused(project, *workers),
        "data/train.jsonl:2: this training row is also the evaluation case 'c7' "
        "at data/demo.jsonl:8",
    )
    assert not (project.root / ".harness/candidates").exists()


@pytest.mark.parametrize("recipe", [RECIPE, ""], ids=["to train", "to ask"])
def test_a_missing_extra_is_told(project, recipe):
    project.write("sitecustomize.py", WITHOUT_TORCH)
    project.rows("data/train.jsonl", [project.row("something else")])
    project.settings(recipe, base="bundled:pocket")
    [error] = _refused(project)
    assert "pip install 'pytest-finetune[local]'" in error
    assert "torch" in error


def test_a_candidate_that_may_not_be_trained_is_undecidable(project):
    project.rows("data/train.jsonl", [project.row("something else")])
    project.rows("data/demo.jsonl", project.questions(1))
    project.settings(RECIPE_FROM_ANOTHER_BASE, base="bundled:pocket")
    run = project.run("--harness-no-train")
    assert run.status == 6
    assert "run: harness train cand" in " ".join(run.results["errors"])
    assert run.results["verdict"] == "undecidable"


def test_a_damaged_candidate_is_undecidable(project):
    project.rows("data/train.jsonl", [project.row("something else")])
    project.rows("data/demo.jsonl", project.questions(1))
    project.settings(RECIPE_FROM_ANOTHER_BASE, base="bundled:pocket")
    settings = load(project.root)
    recipe = resolve("cand", settings.candidates["cand"], settings.base, project.root)
    project.write(f".harness/candidates/{recipe.fingerprint}/candidate.json", "{")
    run = project.run()
    assert run.status == 6
    error = run.results["errors"][0]
    assert "the candidate cand is damaged" in error
    assert recipe.fingerprint in error
    assert "delete" in error
    plan = project.run("--harness-plan")
    assert plan.status == 0
    assert "is damaged" in plan.text


def test_a_damaged_store_is_told_kept_aside_and_asked_again(project, workers):
    project.write(".harness/store.sqlite", "this is no database, " * 500)
    project.settings(base="half", cand="right")
    run = project.run(*workers)
    assert run.status == 0
    assert "the store was damaged; 0 replies and 0 runs" in " ".join(run.text.split())
    assert len(project.calls()) == 48
    [kept] = (project.root / ".harness").glob("store.sqlite.damaged-*")
    assert kept.read_text().startswith("this is no database")


SCHEMAS = """
import pytest

pytestmark = pytest.mark.cases("data/demo.jsonl")


@pytest.mark.parametrize("schema", ["data/good.json", "data/bad.json"])
def test_shape(score, schema):
    check(score, schema)
    score.json_schema(schema)


def check(desk, schema):
    desk.json_schema("data/helper.json", name="helper")
"""


@pytest.mark.parametrize("option", [(), ("--harness-plan",), ("-n", "2")], ids=str)
def test_a_wrong_schema_ends_the_run_before_anything_is_asked(project, option):
    project.write("evals/test_demo.py", SCHEMAS)
    project.write("data/good.json", '{"type": "object"}')
    project.write("data/helper.json", '{"type": "object"}')
    project.write("data/bad.json", '{"properties": {"id": {"$ref": "#/$defs/ident"}}}')
    project.settings(base="half", cand="right")
    _tell(_refused(project, *option), "data/bad.json: its $ref '#/$defs/ident' leads nowhere")
    project.write("data/bad.json", '{"type": "object"}')
    (project.root / "data/helper.json").unlink()
    _tell(_refused(project, *option), "data/helper.json: there is no such schema")
    assert project.calls() == []
