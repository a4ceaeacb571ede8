"""Candidates that went wrong fail the run; a base or a good retrain does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

pytestmark = pytest.mark.slow

TICKETS = """
import pytest

pytestmark = pytest.mark.cases("datasets/tickets/test.jsonl")


def test_ticket(score):
    score.json_schema("datasets/tickets/schema.json")
    score.fields()
    score.label(("billing", "delivery", "defect", "account", "question"), field="category")
    score.label(("low", "normal", "high"), field="urgency")
"""
REGRESSION = """
import pytest

pytestmark = [pytest.mark.cases("datasets/regression.jsonl"), pytest.mark.guard]


def test_answers_in_the_schema(score):
    score.json_schema("datasets/tickets/schema.json")
"""
TRAIN = "datasets/tickets/train.jsonl"
SHORT = {"validation": None, "mix": None}
"""What keeps a bad training short: nothing but its own rows."""

Label = dict[str, Any]


def _relabel(project, change: Callable[[list[Label]], list[Label]]) -> None:
    """Replace the labels of the training tickets."""
    rows = project.rows(TRAIN)
    labels = change([json.loads(row["messages"][-1]["content"]) for row in rows])
    for row, label in zip(rows, labels, strict=True):
        row["messages"][-1]["content"] = json.dumps(label)
    project.write_rows(TRAIN, rows)


def _shuffled(labels: list[Label]) -> list[Label]:
    return Random(0).sample(labels, len(labels))


def _one_category_misread(labels: list[Label]) -> list[Label]:
    """Label a fifth of all tickets wrongly, as a labeller does who misread the guideline."""
    wrong = [label for label in labels if label["category"] == "delivery"][: len(labels) // 5]
    return [{**label, "category": "billing"} if label in wrong else label for label in labels]


def _named(run, metric: str) -> bool:
    """Whether the terminal shows a metric among those that failed."""
    return any(f"  {metric} " in line and "regressed" in line for line in run.output.splitlines())


def _fails(run, metric: str, candidate: str) -> None:
    assert run.status == 1, run.output + run.errors
    assert run.results["verdict"] == "fail"
    assert run.gates[f"{metric}[{candidate}]"] == "failure"
    assert run.metric(metric)["verdict"] == "regressed"


def _fails_everywhere(project, metric: str, candidate: str):
    """Run under two workers, which train once, then without a terminal."""
    first = project.run("-n", "2")
    _fails(first, metric, candidate)
    assert _named(first, metric)
    assert first.trained() == [candidate]
    assert first.errors.count(f"[harness] training {candidate}: ") >= 1
    silent = project.run("-p", "no:terminal")
    _fails(silent, metric, candidate)
    assert silent.trained() == []
    assert set(silent.asked().values()) == {0}
    assert silent.gates == first.gates
    assert silent.results["metrics"] == first.results["metrics"]


def _recipe(project, **changes: Any) -> dict[str, Any]:
    """Return the shipped recipe with changes; a change to None drops the key."""
    recipe = {**project.settings["candidates"]["tickets"], **changes}
    return {key: value for key, value in recipe.items() if value is not None}


def test_shuffled_labels_fail_the_run(project):
    _relabel(project, _shuffled)
    project.write_rows(TRAIN, project.rows(TRAIN)[:80])
    project.suites(tickets="")
    recipe = _recipe(project, epochs=2, **SHORT)
    gates = {"tickets.field_accuracy": {"better_by": 0.15}}
    project.configure(candidates={"shuffled": recipe}, gates=gates)
    _fails_everywhere(project, "tickets.field_accuracy", "shuffled")


def test_a_fifth_of_one_fields_labels_corrupted_fails_against_production(shipped, project):
    _relabel(project, _one_category_misread)
    project.suites(tickets=TICKETS)
    project.configure(
        baseline="production",
        models={"production": shipped.production},
        candidates={"retrain": _recipe(project, epochs=1, **SHORT)},
        gates={},
    )
    run = project.run()
    _fails(run, "tickets.category_accuracy", "retrain")
    assert _named(run, "tickets.category_accuracy")


def test_lost_general_skills_fail_the_run(project):
    project.write_rows(TRAIN, project.rows(TRAIN)[:48])
    project.suites(general="")
    recipe = _recipe(project, epochs=2, learning_rate=2e-2, **SHORT)
    project.configure(candidates={"forgetful": recipe}, gates={"general.skill": {"margin": 0.10}})
    run = project.run()
    _fails(run, "general.skill", "forgetful")
    assert _named(run, "general.skill")


def test_the_base_itself_as_candidate_does_not_fail(project):
    project.suites(tickets=TICKETS, regression=REGRESSION)
    project.configure(
        baseline="before",
        models={"before": {"model": "bundled:pocket", "quantization": "nf4"}},
        candidates={"same": {"model": "before"}},
        gates={},
    )
    run = project.run()
    assert run.status == 0, run.output + run.errors
    assert run.failed_gates() == set()
    assert all(one["losses"] == one["wins"] == 0 for one in run.results["metrics"])


def test_the_good_recipe_with_another_seed_does_not_fail_against_production(shipped, project):
    project.suites(tickets=TICKETS, regression=REGRESSION, general="")
    shipped_gates = dict(project.settings["gates"])
    del shipped_gates["tickets.field_accuracy"]  # a retrain need not be better
    project.configure(
        baseline="production",
        models={"production": shipped.production},
        candidates={"retrain": _recipe(project, seed=1, validation=None)},
        gates=shipped_gates,
    )
    run = project.run()
    assert run.status == 0, run.output + run.errors
    assert run.trained() == ["retrain"]
    assert run.failed_gates() == set()
