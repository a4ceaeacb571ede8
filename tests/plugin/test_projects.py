"""Which settings rule: those of the nearest project above the suites, wherever pytest runs."""

from __future__ import annotations

import pytest

INI = "[pytest]\naddopts = -p finetune --import-mode=importlib\npythonpath = service other\n"
EXACT_90 = "[tool.harness.gates]\nexact_match = { at_least = 0.9 }\n"


@pytest.fixture(autouse=True)
def configured(request: pytest.FixtureRequest) -> None:
    """Where there is a `service`: a pytest.ini above it, and a candidate that fails a gate."""
    if "service" in request.fixturenames:
        service = request.getfixturevalue("service")
        service.settings(EXACT_90, base="right", cand="wrong")
        service.write("../pytest.ini", INI)


PLACES = {
    "in the project": ("evals", "."),
    "above it": ("service/evals", ".."),
    "beside it, with another rootdir": ("--rootdir=.", "../service", "../other"),
    "in workers with a configuration elsewhere": (
        *("-n", "2", "-c", "../other/pytest.ini"),
        *("evals", "."),
    ),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_the_settings_above_the_suite_rule_wherever_pytest_runs(service, place):
    service.write("../other/pytest.ini", INI.replace("service", "../service"))
    service.write("evals/pyproject.toml", "[tool.other]\n")
    service.write("../pyproject.toml", '[tool.harness]\nbase = "python:stub_models:half"\n')
    *arguments, folder = place
    run = service.run(*arguments, folder=folder)
    assert run.status == 1, run.text
    assert run.verdicts == {"demo.exact_match[cand]": "failed"}
    assert {stub for stub, _ in service.calls()} == {"right", "wrong"}
    assert "report: reports/" in run.text


def test_suites_of_two_projects_are_no_run(service, workers):
    suite = (service.root / "evals/test_demo.py").read_text()
    service.write("../other/evals/test_more.py", suite)
    service.write("../other/pyproject.toml", "[tool.harness]\n")
    run = service.run(*workers, "service/evals", "other/evals", folder="..")
    assert run.status == 4, run.text
    [error] = run.errors
    top = service.root.resolve().parent
    for path in ("service/pyproject.toml", "other/pyproject.toml", "other/evals/test_more.py"):
        assert str(top / path) in error
    assert service.calls() == []


def test_a_suite_of_no_project_is_no_run_and_the_folders_are_named(service):
    service.write("pyproject.toml", "[tool.other]\n")
    run = service.run("evals")
    assert run.status == 4, run.text
    [error] = run.errors
    assert error.startswith("service/evals/test_demo.py: no pyproject.toml with a table")
    for folder in ("service/evals,", "service,"):
        assert str(service.root.parent.resolve() / folder) in error


def test_a_file_that_is_missing_is_looked_for_in_the_project(service):
    (service.root / "data/demo.jsonl").unlink()
    [error] = service.run("service/evals", folder="..").errors
    assert error.startswith("data/demo.jsonl: there is no such file")
    assert str(service.root) in error


def test_the_commands_find_the_settings_as_the_runs_do(service, monkeypatch):
    service.run("service/evals", folder="..")
    service.write("src/pyproject.toml", "[project]\nname = 'x'\n")
    home, service.root = service.root, service.root / "src"
    assert service.harness("runs", "show", "latest")[0] == 0
    service.root = home.parent
    status, text = service.harness("runs")
    assert status == 4
    assert "no pyproject.toml with a table [tool.harness]" in " ".join(text.split())


def test_an_earlier_baseline_is_looked_for_in_the_project(service):
    service.run("service/evals", folder="..")
    run = service.run("service/evals", "--harness-baseline=latest:base", folder="..")
    assert run.status == 1, run.text
    assert "baseline is a recording" in " ".join(run.text.split())
    lost = service.run(".", "--harness-baseline=latest", folder="..")
    assert lost.status == 4
    assert "--harness-baseline: no pyproject.toml" in " ".join(lost.text.split())


def test_a_project_of_no_gate_is_evaluated_and_passes_nothing(project):
    project.settings(base="half")
    run = project.run()
    assert run.status == 0
    assert run.results["verdict"] == "evaluated"
    assert "EVALUATED: base; no gate applies." in run.lines
    assert "PASS" not in run.text


@pytest.mark.parametrize(("where", "workers"), [("{elsewhere}", ("-n", "2")), ("../made", ())])
def test_reports_and_stores_outside_of_the_project(project, tmp_path_factory, where, workers):
    folder = where.format(elsewhere=tmp_path_factory.mktemp("elsewhere"))
    project.pyproject(
        f'[tool.harness]\nbase = "python:stub_models:half"\n'
        f'reports = "{folder}/reports"\nstore = "{folder}/store"\n{EXACT_90}'
    )
    run = project.run(*workers, "--junit-xml=junit.xml")
    assert run.status == 1, run.text
    assert project.gates() == {"demo.exact_match[base]": "failure"}
    assert f"report: {folder}/reports/" in run.text
    assert (project.root / folder / "reports/latest/index.html").is_file()
    assert (project.root / folder / "store/store.sqlite").is_file()
