"""Real questions of bank customers through `pytest evals/`, as `make bench` does at full size."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BUILDER = Path(__file__).parents[2] / "benchmarks" / "banking77_project.py"
INTENTS, TRAIN, VALIDATION, TEST = 3, 80, 8, 40
RECIPE = {"epochs": 5}
GATES = {"field_accuracy": {"at_least": 0.5}, "intent_accuracy": {"better_by": 0.1}}


def _builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location(BUILDER.stem, BUILDER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[BUILDER.stem] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


banking77 = _builder()
pytestmark = pytest.mark.skipif(
    not banking77.DATA.is_dir(), reason=f"the real data is not in {banking77.DATA}"
)


@pytest.fixture(scope="module")
def sample() -> Any:
    return banking77.draw(INTENTS, TRAIN, VALIDATION, TEST)


@pytest.fixture(scope="module")
def project(sample: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    project = banking77.Project(tmp_path_factory.mktemp("banking"), sample)
    project.write(RECIPE, GATES)
    return project


@dataclass(frozen=True)
class Ran:
    """What a run left behind, before another run replaces it."""

    status: int
    output: str
    results: dict[str, Any]
    page: str


@pytest.fixture(scope="module")
def first(project: Any) -> Ran:
    done: subprocess.CompletedProcess[str] = project.pytest()
    assert done.returncode in (0, 1), done.stdout
    return Ran(done.returncode, done.stdout, project.results(), project.report())


def _metric(results: Any, name: str) -> Any:
    return {metric["metric"]: metric for metric in results["metrics"]}[f"intents.{name}"]


def _labels(page: str) -> str:
    return page.partition('<section id="labels">')[2].partition("</section>")[0]


def test_the_same_seed_draws_the_same_questions(sample: Any) -> None:
    assert banking77.draw(INTENTS, TRAIN, VALIDATION, TEST) == sample
    assert banking77.draw(INTENTS, TRAIN, VALIDATION, TEST, seed=1) != sample
    assert [len(part) for part in (sample.train, sample.validation, sample.test)] == [
        TRAIN,
        VALIDATION,
        TEST,
    ]


def test_no_question_stands_in_two_parts() -> None:
    sample = banking77.draw(77, 20_000, 0)
    texts = [{q.text.casefold() for q in part} for part in (sample.train, sample.test)]
    assert len(sample.test) == 3_080
    assert not texts[0] & texts[1]


def test_a_test_question_among_the_training_rows_is_refused(sample: Any, tmp_path: Path) -> None:
    project = banking77.Project(tmp_path, sample)
    project.write(RECIPE, GATES)
    leaked = (tmp_path / "data" / "test.jsonl").read_text().splitlines()[6]
    with (tmp_path / "data" / "train.jsonl").open("a") as file:
        file.write(leaked + "\n")
    done = project.pytest()
    assert done.returncode == 4
    assert f"data/train.jsonl:{TRAIN + 1}" in done.stdout
    assert sample.test[6].id in done.stdout
    assert not list((tmp_path / ".harness").glob("candidates/*"))


@pytest.mark.slow
def test_a_candidate_learns_intents_from_real_questions(first: Ran) -> None:
    accuracy = _metric(first.results, "intent_accuracy")
    assert [made["cached"] for made in first.results["training"]] == [False]
    assert accuracy["n"] == TEST
    assert accuracy["difference"] > 0.1
    assert accuracy["candidate_mean"] >= 0.5


@pytest.mark.slow
def test_the_exit_status_follows_the_verdicts(first: Ran) -> None:
    verdicts = {metric["metric"]: metric["verdict"] for metric in first.results["metrics"]}
    assert verdicts == {
        "intents.field_accuracy": "passed",
        "intents.field_accuracy_unfenced": None,
        "intents.intent_accuracy": "improved",
        "intents.intent_macro_f1": "improved",
    }
    assert (first.results["verdict"], first.results["exit_status"]) == ("pass", 0)
    assert first.status == 0


@pytest.mark.slow
def test_the_base_answers_with_its_best_number_of_examples(first: Ran) -> None:
    asked = {name: usage["requests"] for name, usage in first.results["usage"].items()}
    assert asked == {"prompted": TEST, "banking": TEST, "prompted (choosing shots)": 4 * VALIDATION}
    assert "intents: prompted is prompted with" in first.output


@pytest.mark.slow
def test_the_report_shows_which_intents_are_confused(sample: Any, first: Ran) -> None:
    section = _labels(first.page)
    for model in first.results["models"]:
        assert f'<span class="soft">{model["name"]}</span>' in section
    for intent in sample.intents:
        assert section.count(f'<th scope="row">{intent}</th>') == len(first.results["models"])


@pytest.mark.slow
def test_another_gate_changes_the_verdict_and_trains_and_asks_nothing(
    project: Any, first: Ran
) -> None:
    project.configure(RECIPE, {"field_accuracy": {"at_most": 0.1}})
    done = project.pytest()
    again = project.results()
    assert again["run_id"] != first.results["run_id"]
    assert done.returncode == 1
    assert _metric(again, "field_accuracy")["verdict"] == "failed"
    assert "FAILED gates::intents.field_accuracy[banking]" in done.stdout
    assert [made["cached"] for made in again["training"]] == [True]
    assert all(usage["cached"] == usage["requests"] for usage in again["usage"].values())
