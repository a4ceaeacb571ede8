"""The base's other skills, against forgetting: labels, extraction, short answers."""

import pytest

pytestmark = pytest.mark.cases("datasets/general/test.jsonl")


@pytest.mark.guard
def test_skill(case, score):
    if "extract" in case.tags:
        score.fields(name="skill")
    elif "label" in case.tags:
        score.exact(name="skill", ignore_case=True)


def test_answer(case, score):
    if "answer" in case.tags:
        score.rouge()
        score.judge("correctness")  # asked where [tool.harness.judges] names a judge
        score.prefer()
