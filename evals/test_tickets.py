"""Customer messages -> one JSON object of five fields (datasets/tickets/GUIDELINE.md)."""

import pytest

pytestmark = pytest.mark.cases(
    "datasets/tickets/test.jsonl",
    few_shot="datasets/tickets/few_shot.jsonl",
    shots=(0, 1, 3, 5),
    validation="datasets/tickets/validation.jsonl",
)


def test_ticket(score):
    score.json_schema("datasets/tickets/schema.json")
    score.fields()
    score.label(["billing", "delivery", "defect", "account", "question"], field="category")
    score.label(["low", "normal", "high"], field="urgency")
