"""`pytest evals/` on the bundled base, as shipped: what a first user sees."""

from __future__ import annotations

import json
import re

import pytest
from scripted_judge import ScriptedJudge

pytestmark = pytest.mark.slow

CHOICE = re.compile(r"tickets: base is prompted with (\d) examples")
PLANNED = re.compile(r"requests to (.+): (\d+)$", re.MULTILINE)


def test_the_run_passes_and_says_so_in_its_results(shipped):
    from jsonschema import validate

    from harness.report.results import schema

    run = shipped.first_run
    assert run.status == 0, run.output + run.errors
    assert (run.results["verdict"], run.results["exit_status"]) == ("pass", 0)
    validate(run.results, schema())
    assert run.results["errors"] == []
    assert run.gates
    assert run.failed_gates() == set()


def test_the_base_gets_its_best_prompt_and_does_the_task_half_well(shipped):
    run = shipped.first_run
    found = CHOICE.search(run.output)
    assert found
    assert int(found[1]) > 0
    schema_match = run.metric("tickets.schema_match")
    assert 0.50 <= schema_match["baseline_mean"] <= 0.92


def test_the_candidate_answers_in_the_schema_and_finds_more_fields(shipped):
    run = shipped.first_run
    assert run.metric("tickets.schema_match")["candidate_mean"] >= 0.98
    fields = run.metric("tickets.field_accuracy")
    assert fields["difference"] >= 0.15
    assert fields["p_adjusted"] is not None
    assert fields["n"] == 150


def test_the_answers_without_their_fences_stand_beside_as_a_diagnostic(shipped):
    strict = shipped.first_run.metric("tickets.field_accuracy")
    unfenced = shipped.first_run.metric("tickets.field_accuracy_unfenced")
    assert unfenced["verdict"] is None
    assert unfenced["baseline_mean"] >= strict["baseline_mean"]


def test_the_candidate_needs_at_most_half_of_the_prompt_tokens(shipped):
    usage = shipped.first_run.results["usage"]
    assert usage["tickets"]["prompt_tokens_mean"] <= usage["base"]["prompt_tokens_mean"] / 2


def test_the_general_skills_do_not_regress_and_their_bound_is_told(shipped):
    run = shipped.first_run
    skill = run.metric("general.skill")
    assert skill["verdict"] == "non_inferior"
    assert "lower bound" in skill["reason"]
    assert any(line.split()[:1] == ["general.skill"] for line in run.output.splitlines())
    verdicts = {m["verdict"] for m in run.results["metrics"] if m["metric"].startswith("general.")}
    assert not verdicts & {"regressed", "failed", "undecidable"}


def test_a_second_run_trains_nothing_asks_nothing_and_says_the_same(shipped, project):
    first, second = shipped.first_run, project.run()
    assert second.status == 0
    assert second.trained() == []
    assert set(second.asked().values()) == {0}
    assert second.results["metrics"] == first.results["metrics"]
    assert second.results["cases"] == first.results["cases"]


def test_an_edited_case_is_asked_once_per_model_and_nothing_else(project):
    rows = project.rows("datasets/tickets/test.jsonl")
    rows[7]["messages"][1]["content"] += " Oh, and greetings from Ostrava."
    project.write_rows("datasets/tickets/test.jsonl", rows)
    run = project.run()
    assert run.asked() == {"base": 1, "base (choosing shots)": 0, "tickets": 1}
    assert run.trained() == []


def test_an_edited_gate_asks_nothing_and_changes_the_verdict(project):
    project.configure(
        gates={**project.settings["gates"], "tickets.field_accuracy": {"better_by": 0.9}}
    )
    run = project.run()
    assert set(run.asked().values()) == {0}
    assert run.status == 1
    assert run.failed_gates() == {"tickets.field_accuracy"}


def test_an_edited_check_asks_nothing_and_changes_the_verdict(project):
    schema = json.loads((project.root / "datasets/tickets/schema.json").read_text("utf-8"))
    schema["properties"]["urgency"] = {"const": "high"}
    project.write("datasets/tickets/schema.json", json.dumps(schema))
    run = project.run()
    assert set(run.asked().values()) == {0}
    assert run.status == 1
    assert "tickets.schema_match" in run.failed_gates()


def test_the_plan_asks_nothing_and_counts_what_the_run_will(shipped, empty_project):
    collected = empty_project.run("--collect-only", "-q")
    planned = empty_project.run("--harness-plan")
    assert (collected.status, planned.status) == (0, 0), planned.output
    assert not empty_project.home.exists(), "nothing was trained or asked"
    assert not (empty_project.root / "reports").exists()

    run = shipped.first_run
    counts = {name: int(count) for name, count in PLANNED.findall(planned.output)}
    assert counts == {name: used["requests"] for name, used in run.results["usage"].items()}
    assert f"requests in all: {sum(counts.values())}" in planned.output
    [training] = run.results["training"]
    assert (
        f"candidate tickets: qlora on bundled:pocket, {training['steps']} steps" in planned.output
    )
    assert "tickets: 150 cases; sees a drop of" in planned.output


def test_the_judge_checks_say_what_they_need(shipped):
    run = shipped.first_run
    told = " ".join(run.output.split())
    assert "NOT JUDGED: general.correctness, general.preference: no judge is configured" in told
    assert "tool.harness.judges.NAME = { model =" in told


def test_one_setting_makes_the_judge_checks_run(project):
    with ScriptedJudge(lambda asked: asked.verdict(VERDICTS[asked.kind])) as judge:
        strict = {"model": "openai:strict", "base_url": judge.url}
        project.configure(judges={"strict": strict})
        run = project.run()
    assert run.status == 0, run.output + run.errors
    assert run.metric("general.correctness")["candidate_mean"] == 5
    assert run.metric("general.preference")["n"] == 50
    assert run.asked()["judge strict"] > 50


VERDICTS = {"rubric": 5, "preference": "tie"}
