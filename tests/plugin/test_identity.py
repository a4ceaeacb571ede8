"""What a case, a model, a prompt and a verdict are, whatever they are called and in which order."""

from __future__ import annotations

import random

ODD_IDS = [
    "plain-1",
    "with spaces 2",
    "snow ☃ and ünïcode 3",
    "a/b\\c::d[4]",
    "x" * 200,
    "5.",
    "[6]",
    "-7",
    "8 same beginning, " + "y" * 60 + "a",
    "8 same beginning, " + "y" * 60 + "b",
]


def test_odd_ids_make_items_that_can_be_chosen_and_keep_their_name(project):
    project.rows(
        "data/demo.jsonl", [project.row(f"is it {n}", id_) for n, id_ in enumerate(ODD_IDS)]
    )
    project.settings(base="half", cand="right")
    listed = project.run("--collect-only", "-q")
    items = [line for line in listed.lines if line.startswith("evals/")]
    assert len(set(items)) == 2 * len(ODD_IDS)
    assert all(item.isascii() and len(item) < 130 and " " not in item for item in items)
    assert "evals/test_demo.py::test_exact[plain-1-base]" in items

    run = project.run()
    assert run.status == 0
    assert {case["id"] for case in run.results["cases"]} == set(ODD_IDS)
    hashed = next(item for item in items if "~" in item and "-cand]" in item)
    one = project.run(hashed, "--junit-xml=junit.xml")
    assert one.status == 6, "one item is a part of the suites"
    assert len(one.results["cases"]) == 1


def test_the_order_of_rows_carries_no_meaning(project):
    rows = project.questions(24)
    project.settings(base="half", cand="quarter", other="other_half")
    seen = []
    for seed in range(2):
        random.Random(seed).shuffle(rows)
        project.rows("data/demo.jsonl", rows)
        run = project.run()
        seen.append((run.status, run.results["metrics"], run.results["cases"]))
    assert seen[0] == seen[1]


def test_a_prompt_is_part_of_a_model_and_needs_no_training(project):
    project.pyproject(
        """
[tool.harness]
base = "python:stub_models:by_prompt"

[tool.harness.models.system]
model = "python:stub_models:by_prompt"
system = "Always answer yes."

[tool.harness.models.template]
model = "python:stub_models:by_prompt"
template = "Please answer yes: {{ text }}"

[tool.harness.candidates.instructed]
model = "system"

[tool.harness.candidates.templated]
model = "template"
"""
    )
    run = project.run()
    assert run.status == 0
    assert run.verdicts == {
        "demo.exact_match[instructed]": "improved",
        "demo.exact_match[templated]": "improved",
    }
    asked = {messages[-1]["content"] for _, messages in project.conversations()}
    assert {"is it 7", "Please answer yes: is it 7"} <= asked
    assert [model["role"] for model in run.results["models"]] == ["baseline", *["candidate"] * 2]
    assert run.results["training"] == []


def test_examples_stand_before_the_baselines_prompt_only(project):
    project.rows(
        "data/few.jsonl", [project.row("for 91"), project.row("for 92"), project.row("for 93")]
    )
    project.rows("data/validation.jsonl", [project.row("try 5"), project.row("try 6")])
    head = 'import pytest\n\npytestmark = pytest.mark.cases("data/demo.jsonl", {})\n\n'
    test = "def test_exact(score):\n    score.exact()\n"
    few = 'few_shot="data/few.jsonl"'
    project.write("evals/test_demo.py", head.format(f"{few}, shots=1") + test)
    project.settings(base="by_shots", cand="right")
    fixed = project.run()
    assert fixed.status == 0
    assert fixed.metric("demo.exact_match")["baseline_mean"] == 1, "one example serves it best"
    turns = {name: len(messages) for name, messages in project.conversations()}
    assert turns == {"by_shots": 3, "right": 1}

    choice = f'{few}, shots=[0, 1, 3], validation="data/validation.jsonl"'
    project.write("evals/test_demo.py", head.format(choice) + test)
    chosen = project.run()
    assert chosen.status == 0
    assert "demo: base is prompted with 1 examples, its best" in " ".join(chosen.text.split())
    assert chosen.results["metrics"] == fixed.results["metrics"]
    assert {model["name"] for model in chosen.results["models"]} == {"base", "cand"}


def test_a_test_can_talk_in_several_turns_through_the_cache(project):
    project.write(
        "evals/test_demo.py",
        """
import pytest

pytestmark = pytest.mark.cases("data/demo.jsonl")


def test_insists(case, model):
    first = model.ask(case.text)
    again = [*case.messages, {"role": "assistant", "content": first.text}]
    second = model.ask([*again, {"role": "user", "content": "really? 1"}])
    assert model.name in ("base", "cand")
    assert second.text == "yes"
""",
    )
    project.settings(base="half", cand="right")
    run = project.run()
    assert run.status == 0
    assert run.metric("demo.insists")["baseline_mean"] == 1
    assert len(project.calls()) == 2 * 24 * 2, "the first turn is the case itself: asked once"
    project.forget_calls()
    assert project.run().status == 0
    assert project.calls() == []


RULES = """
[tool.harness.gates]
"demo.exact_match" = { at_least = 0.4 }
exact_match = { at_least = 0.9 }
demo = { at_most = 0.1 }
"""


def test_the_most_specific_rule_wins_and_a_guard_allows_no_regression(project):
    checks = (
        "import pytest\n\npytestmark = pytest.mark.cases('data/demo.jsonl')\n\n"
        "def test_exact(score):\n    score.exact()\n    score.contains()\n\n"
        "@pytest.mark.guard\ndef test_guarded(reply):\n    assert reply.text == 'yes'\n"
    )
    project.write("evals/test_demo.py", checks)
    project.write("evals/test_other.py", checks)
    project.rows("data/demo.jsonl", project.questions(6))
    project.settings(RULES, base="half", cand="other_half")
    run = project.run()
    assert run.status == 1
    rules = {m["metric"]: (m["rule"], m["verdict"]) for m in run.results["metrics"]}
    assert rules == {
        "demo.exact_match": ("at_least = 0.4", "passed"),
        "demo.contains": ("at_most = 0.1", "failed"),
        "demo.guarded": ("at_most = 0.1", "failed"),
        "other.exact_match": ("at_least = 0.9", "failed"),
        "other.contains": ("must not regress", "smoke"),
        "other.guarded": ("max_regressions = 0", "failed"),
    }
