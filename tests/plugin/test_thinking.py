"""Models that think before they answer, in whole runs."""

from __future__ import annotations

from typing import Any

from scripted_judge import Asked, ScriptedJudge

THINKERS = """

def thinker(messages):
    return _said("thinker", messages, "<think>\\nIs it? I would say so.\\n</think>\\n\\nyes")


def half_thinker(messages):
    return {"text": "<think>Let me see", "finish_reason": "length"}
"""
SETTINGS = """
[tool.harness]
base = "python:stub_models:right"
[tool.harness.models.kept]
model = "python:stub_models:thinker"
thinking = "keep"
[tool.harness.candidates.thinks]
model = "python:stub_models:thinker"
[tool.harness.candidates.kept]
model = "kept"
[tool.harness.candidates.half]
model = "python:stub_models:half_thinker"
"""


def test_thinking_is_stripped_unless_it_is_kept_and_both_are_told(project: Any) -> None:
    project.write("stub_models.py", (project.root / "stub_models.py").read_text() + THINKERS)
    project.pyproject(SETTINGS)
    outcome = project.run("evals/")
    means = {m["candidate"]: m["candidate_mean"] for m in outcome.results["metrics"]}
    assert means == {"thinks": 1.0, "kept": 0.0, "half": 0.0}
    usage = outcome.results["usage"]
    assert [usage[name]["thinking"] for name in ("base", "thinks", "kept", "half")] == [
        0,
        24,
        24,
        24,
    ]
    first = outcome.results["cases"][0]
    assert first["replies"]["thinks"] == "yes"
    assert [name for name, _ in project.calls()].count("thinker") == 24
    notes = " ".join(outcome.text.split())
    assert "thinks: 24 of 24 replies hold thinking; it is not part of the answers" in notes
    assert "kept: 24 of 24 replies hold thinking; where it stands in the text it is scored" in notes
    assert any("half: 24 of 24 replies (100%)" in alarm for alarm in outcome.results["alarms"])
    assert (
        "max_tokens cut it off while the model was still thinking"
        in (project.root / "reports/latest/index.html").read_text()
    )


def test_a_recording_of_a_model_that_thinks_takes_only_the_setting(project: Any) -> None:
    project.pyproject(
        '[tool.harness]\nbase = "r"\n[tool.harness.models.r]\nmodel = "replay:r.jsonl"\n'
        'thinking = "off"\n'
    )
    outcome = project.run("evals/")
    assert outcome.status == 4
    assert 'has no chat template that thinking = "off" could switch' in outcome.errors[0]


def test_a_recording_is_scored_as_its_model_was(project: Any) -> None:
    project.write("stub_models.py", (project.root / "stub_models.py").read_text() + THINKERS)
    project.write(
        "evals/test_demo.py",
        "import pytest\npytestmark = pytest.mark.cases('data/demo.jsonl')\n"
        "def test_it(score):\n    score.contains('<think>')\n",
    )
    kept = '[tool.harness.models.kept]\nmodel = "python:stub_models:thinker"\nthinking = "keep"\n'
    candidate = '[tool.harness.candidates.new]\nmodel = "kept"\n'
    project.pyproject(f'[tool.harness]\nbase = "kept"\n{kept}{candidate}')
    assert project.run("evals/").metric("demo.contains")["baseline_mean"] == 1.0
    saved = (("a.jsonl", "baseline", "save"), ("b.jsonl", "record", "kept", "data/demo.jsonl"))
    for file, *words in saved:
        status, said = project.harness(*words, *(["--out"] if "record" in words else []), file)
        assert status == 0, said
        for more, mean in (("", 1.0), ('thinking = "strip"\n', 0.0)):
            old = f'[tool.harness.models.old]\nmodel = "replay:{file}"\n{more}'
            head = '[tool.harness]\nbase = "kept"\nbaseline = "old"\n'
            project.pyproject(f"{head}{old}{kept}{candidate}")
            assert project.run("evals/").metric("demo.contains")["baseline_mean"] == mean


def test_judges_see_no_thinking_and_may_think_themselves(project: Any) -> None:
    seen = set[str]()

    def think(asked: Asked) -> str:
        seen.add(asked.texts["answer"])
        return f"<think>\nIs it {asked.verdict(1)}?\n</think>\n\n{asked.verdict(5)}"

    project.write("stub_models.py", (project.root / "stub_models.py").read_text() + THINKERS)
    project.write(
        "evals/test_demo.py",
        "import pytest\npytestmark = pytest.mark.cases('data/demo.jsonl')\n"
        "def test_it(score):\n    score.judge('correctness')\n",
    )
    with ScriptedJudge(think) as judge:
        project.settings(judge.table(), base="thinker")
        outcome = project.run("evals/")
    assert seen == {"yes"}
    assert {case["scores"]["base"]["demo.correctness"] for case in outcome.results["cases"]} == {5}
