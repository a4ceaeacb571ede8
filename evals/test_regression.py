"""Forty messages that must not break the extraction: gibberish, hostile, tricky."""

import pytest

pytestmark = pytest.mark.cases(
    "datasets/regression.jsonl", few_shot="datasets/tickets/few_shot.jsonl"
)


@pytest.mark.guard
def test_answers_in_the_schema(score):
    score.json_schema("datasets/tickets/schema.json")


def test_copies_and_never_invents(case, reply):
    for field in ("name", "order", "product"):
        value = reply.json()[field]
        assert value is None or value.lower() in case.text.lower(), f"{field}: {value!r}"
