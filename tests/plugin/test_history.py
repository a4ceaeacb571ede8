"""Earlier runs: as a baseline, as the champion, in tables."""

from __future__ import annotations

import re

import pytest

GATE = '[tool.harness.gates]\n"demo.exact_match" = { better_by = 0.1 }\n'


def run_id(run):
    return str(run.results["run_id"])


def candidates(**stubs):
    return "".join(
        f'[tool.harness.candidates.{name}]\nmodel = "python:stub_models:{stub}"\n'
        for name, stub in stubs.items()
    )


# ---------------------------------------------------------------------- an earlier run as baseline


@pytest.fixture
def earlier(project):
    """A run whose only candidate is half right, and a better candidate of today."""
    project.settings(base="wrong", cand="half")
    run = project.run()
    project.settings(base="wrong", cand="right")
    project.forget_calls()
    return run


@pytest.mark.parametrize("reference", ["ID", "PREFIX", "latest", "ID:cand"])
def test_the_only_candidate_of_an_earlier_run_is_the_baseline(project, earlier, reference):
    name = run_id(earlier)
    reference = reference.replace("ID", name).replace("PREFIX", name[:-2])
    run = project.run(f"--harness-baseline={reference}")
    assert run.status == 0
    assert run.metric("demo.exact_match")["baseline_mean"] == 0.5
    assert {name for name, _ in project.calls()} == {"right"}
    told = run.text.replace("\n", " ")
    assert "baseline is a recording of python:stub_models:half made on" in told
    assert f"temperature 0 (run {name})" in told


def test_workers_mean_the_same_run(project, earlier):
    run = project.run("--harness-baseline=latest", "-n", "2")
    assert run.status == 0
    assert run.metric("demo.exact_match")["baseline_mean"] == 0.5


def test_another_model_of_an_earlier_run_is_the_baseline(project, earlier):
    run = project.run("--harness-baseline=latest:base")
    assert run.metric("demo.exact_match")["baseline_mean"] == 0


def test_a_run_without_candidates_lends_its_baseline(project):
    project.settings(base="half")
    project.run()
    project.settings(base="wrong", cand="right")
    run = project.run("--harness-baseline=latest")
    assert run.metric("demo.exact_match")["baseline_mean"] == 0.5


def test_a_refused_run_does_not_become_the_latest(project, earlier):
    project.rows("data/demo.jsonl", [*project.questions(24), project.row("is it 24", "c24")])
    for _ in range(2):
        run = project.run("--harness-baseline=latest")
        assert run.status == 6
        told = " ".join(run.results["errors"])
        assert "which answers 24 of 25 cases: case c24 was not recorded" in told
    assert project.calls() == []


def test_a_baseline_that_was_replayed_itself_is_refused(project, earlier):
    assert project.run("--harness-baseline=latest").status == 0
    again = project.run("--harness-baseline=latest:baseline")
    assert again.status == 4
    assert "was itself read from the recording" in again.text


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("2", "2 runs begin with '2'; give the id of one run: 2"),
        ("nothing", "there is no run 'nothing'; give the id of one run: 2"),
        (":cand", "2 runs begin with ''"),
        ("ID:nobody", "holds no replies of 'nobody'; there: a, b, base"),
        ("ID", "has several candidates: a, b; name one: --harness-baseline ID:a"),
        ("champion", "there is no champion yet: let a run pass"),
    ],
)
def test_a_run_that_is_not_there_or_not_clear_is_a_mistake(project, reference, told):
    project.settings(base="half", a="right", b="half")
    project.run()
    name = run_id(project.run())
    run = project.run("--harness-baseline", reference.replace("ID", name))
    assert run.status == 4
    assert told.replace("ID", name) in run.text
    assert run.text.count("ERROR: ") <= 2


def test_without_any_run_there_is_no_baseline(project):
    project.settings(base="half", cand="right")
    run = project.run("--harness-baseline=latest")
    assert run.status == 4
    assert "no run is stored here yet; run `pytest evals/` first" in run.text
    status, said = project.harness("runs")
    assert (status, "no run is stored here yet" in said) == (4, True)


def test_a_damaged_store_is_told_and_holds_no_run_any_more(project):
    project.settings(base="half", cand="right")
    project.write(".harness/store.sqlite", "no database " * 100)
    run = project.run("--harness-baseline=latest")
    assert run.status == 4
    assert "the store was damaged; 0 replies and 0 runs" in run.text
    assert "no run is stored yet; run `pytest evals/` first" in run.text
    status, said = project.harness("runs")
    assert (status, "damaged" in said) == (0, False), "it is rebuilt"


# ---------------------------------------------------------------------- the champion


def champion(project, workers=()):
    project.pyproject(
        '[tool.harness]\nbase = "python:stub_models:wrong"\nbaseline = "champion"\n'
        + candidates(cand="right")
    )
    return project.run(*workers)


def test_the_champion_is_asked_what_is_new(project, workers):
    project.write(
        "evals/test_demo.py",
        'import pytest\n\npytestmark = pytest.mark.cases("data/demo.jsonl", '
        'few_shot="data/few.jsonl")\n\n\ndef test_exact(score):\n    score.exact()\n',
    )
    project.rows("data/few.jsonl", [project.row("for 91")])
    project.settings(GATE, base="wrong", cand="half")
    first = project.run()
    assert first.status == 0
    status, said = project.harness("promote", "latest", "cand")
    assert (status, said.strip()) == (0, f"cand of the run {run_id(first)} is the champion")

    project.forget_calls()
    project.rows("data/demo.jsonl", [*project.questions(24), project.row("is it 25", "new")])
    run = champion(project, workers)
    assert run.status == 0
    assert run.metric("demo.exact_match")["baseline"] == "champion"
    assert run.metric("demo.exact_match")["baseline_mean"] == 13 / 25
    asked = [messages for name, messages in project.conversations() if name == "half"]
    assert [[m["content"] for m in messages] for messages in asked] == [["is it 25"]], (
        "it is asked as it was when it was a candidate, without examples"
    )
    note = f"champion is cand of the run {run_id(first)}, promoted on"
    assert note in run.text.replace("\n", " ")


def test_the_last_promotion_counts_and_the_option_asks_for_it_too(project):
    project.settings(base="wrong", a="half", b="quarter")
    name = run_id(project.run())
    assert project.harness("promote", name, "a")[0] == 0
    assert project.harness("promote", name, "b")[0] == 0
    project.settings(base="wrong", cand="right")
    run = project.run("--harness-baseline=champion")
    assert "champion is b of the run" in run.text


def test_without_a_champion_it_is_said_how_to_promote(project):
    project.settings(base="wrong", cand="half")
    project.run()
    run = champion(project)
    assert run.status == 4
    assert "there is no champion yet" in run.text
    assert "`harness promote RUN CANDIDATE`" in run.text


def test_a_table_of_that_name_is_a_model_like_any_other(project):
    project.pyproject(
        '[tool.harness]\nbaseline = "champion"\n'
        '[tool.harness.models.champion]\nmodel = "python:stub_models:half"\n'
        + candidates(cand="right")
    )
    assert project.run().metric("demo.exact_match")["baseline_mean"] == 0.5


def test_a_run_that_did_not_pass_is_promoted_only_by_force(project):
    project.settings(GATE, base="half", cand="wrong")
    assert project.run().status == 1
    status, said = project.harness("promote", "latest", "cand")
    assert status == 4
    assert "ended with FAIL: demo.exact_match of cand: " in said
    assert "promote a run that passed, or add --force" in said
    assert "there is no champion yet" in champion(project).text
    project.settings(GATE, base="half", cand="wrong")
    assert project.harness("promote", "latest", "cand", "--force")[0] == 0
    assert champion(project).metric("demo.exact_match")["baseline_mean"] == 0


def test_only_a_candidate_can_be_promoted(project):
    project.settings(base="half", cand="right")
    project.run()
    for name in ("base", "nobody"):
        status, said = project.harness("promote", "latest", name)
        assert (status, f"has no candidate '{name}'; there: cand" in said) == (4, True)


# ---------------------------------------------------------------------- tables


def test_runs_are_listed_shown_and_compared(project):
    project.settings(GATE, base="half", cand="right")
    first = run_id(project.run())
    rows = [*project.questions(23), project.row("is it 98", "new")]
    project.rows("data/demo.jsonl", rows)
    project.settings(GATE, base="half", other="other_half")
    second = run_id(project.run())

    status, listed = project.harness("runs")
    assert status == 0
    lines = [re.split(r"\s{2,}", line.strip()) for line in listed.splitlines()]
    [mine] = [line for line in lines if line[0] == first]
    assert mine[2:] == ["pass", "base", "cand", "demo.exact_match 0.50 -> 1.00 improved"]
    assert [line[0] for line in lines if line[0] in (first, second)] == [first, second]

    status, shown = project.harness("runs", "show", second)
    assert status == 0
    assert f"FAIL: run {second}" in shown
    assert "candidate: other (python:stub_models:other_half)" in shown
    assert "better_by = 0.1" in shown
    regressed = shown.partition("regressed under other:")[2]
    assert "demo:c1 demo.exact_match" in regressed

    status, compared = project.harness("runs", "diff", first, "latest")
    assert status == 0
    [row] = [line for line in compared.splitlines() if "demo.exact_match" in line and "->" in line][
        :1
    ]
    assert re.split(r"\s{2,}", row.strip())[:5] == [
        "demo.exact_match",
        "other",
        "1.00",
        "0.54",
        "-0.46",
    ]
    assert "demo:c1 (test_exact) demo.exact_match under other: 1.00 held -> 0.00 regre" in compared
    assert "added:\n  demo:new (test_exact)" in compared
    assert "removed:\n  demo:c23 (test_exact)" in compared


def test_a_run_compared_with_itself_changes_nothing(project):
    project.settings(base="half", cand="right")
    project.run()
    assert "no case changed" in project.harness("runs", "diff", "latest", "latest")[1]


@pytest.mark.parametrize(
    "command",
    [
        ("runs", "show", "nothing"),
        ("runs", "diff", "latest", "nothing"),
        ("promote", "nothing", "cand"),
        ("baseline", "save", "x.jsonl", "--run", "nothing"),
    ],
)
def test_an_unknown_run_is_told_with_those_that_there_are(project, command):
    project.settings(base="half", cand="right")
    name = run_id(project.run())
    status, said = project.harness(*command)
    assert status == 4
    assert f"there is no run 'nothing'; give the id of one run: {name}" in said


def test_hostile_replies_and_ids_reach_no_terminal(project):
    project.rows("data/demo.jsonl", [project.row("is it 1", "[red]\u202eevil[/red] " + "x" * 150)])
    project.settings(base="hostile", cand="right")
    project.run()
    for command in (("runs",), ("runs", "show", "latest"), ("runs", "diff", "latest", "latest")):
        status, said = project.harness(*command)
        assert status == 0
        assert not re.search("[\x00-\x08\x1b\u202e]", said)
    assert "[red]\\u202eevil[/red]" in project.harness("runs", "show", "latest")[1]
