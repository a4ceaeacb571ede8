"""The shipped suite with a candidate that a service trains beside one that is trained here."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from serving import serving

pytestmark = pytest.mark.slow

MODEL = "gpt-4o-mini-2024-07-18"


def span(training: dict[str, Any]) -> tuple[datetime, datetime]:
    """When a training began and when it was over."""
    begin = datetime.fromisoformat(training["started"])
    return begin, begin + timedelta(seconds=training["seconds"])


def test_a_hosted_and_a_local_candidate_train_at_once_and_are_ranked_in_one_report(
    empty_project: Any, tmp_path: Path
) -> None:
    project = empty_project
    project.suites(tickets="")
    for name, count in (("train", 24), ("test", 12), ("validation", 4)):
        path = f"datasets/tickets/{name}.jsonl"
        project.write_rows(path, project.rows(path)[:count])
    data = {"train": "datasets/tickets/train.jsonl", "epochs": 1}
    validation = "datasets/tickets/validation.jsonl"
    with serving(tmp_path / "service", f"{MODEL}=bundled:pocket") as url:
        project.configure(
            base="served",
            models={"served": {"model": f"openai:{MODEL}", "base_url": url}},
            candidates={
                "hosted": {"trainer": "openai", "validation": validation, **data},
                "local": {"trainer": "lora", "base": "bundled:pocket", **data},
            },
            prices={f"openai:{MODEL}": {"input": 1.0, "output": 1.0, "training": 3.0}},
            gates={},
        )
        run = project.run("--harness-max-cost", "5")
    assert run.status in (0, 1), run.stdout + run.stderr
    trainings = {one["candidate"]: one for one in run.results["training"]}
    hosted, local = span(trainings["hosted"]), span(trainings["local"])
    assert max(hosted[0], local[0]) < min(hosted[1], local[1])
    assert {model["role"] for model in run.results["models"]} == {"baseline", "candidate"}
    ranked = {place["candidate"] for place in run.results["ranking"]}
    assert ranked == {"hosted", "local"}
    assert trainings["hosted"]["train_loss"] < 3
    described = project.home / "candidates" / trainings["hosted"]["fingerprint"] / "candidate.json"
    made = json.loads(described.read_text("utf-8"))
    assert made["estimated_tokens"] == pytest.approx(made["trained_tokens"], rel=0.02)
