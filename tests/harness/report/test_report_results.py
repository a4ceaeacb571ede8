from __future__ import annotations

import json
import math
from dataclasses import replace

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.records import (
    Candidate,
    Comparison,
    Decision,
    LossPoint,
    Run,
    Usage,
)
from harness.report import results


def check(document: object) -> None:
    validator = jsonschema.Draft202012Validator(results.schema())
    validator.validate(document)


def test_the_published_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(results.schema())


def test_results_follow_the_published_schema(run: Run) -> None:
    check(json.loads(results.text(run)))


def test_the_schema_refuses_an_unknown_key_and_a_missing_one(run: Run) -> None:
    document = results.as_results(run)
    with pytest.raises(jsonschema.ValidationError):
        check({**document, "extra": 1})
    del document["metrics"][0]["p"]
    with pytest.raises(jsonschema.ValidationError):
        check(document)


def test_a_run_without_anything_follows_the_schema(run: Run) -> None:
    empty = replace(
        run, arms=(), verdicts=(), usage={}, training=(), cases=(), labels=(), comparisons=()
    )
    check(json.loads(results.text(empty)))


def test_order_of_evidence_does_not_change_a_byte(run: Run) -> None:
    turned = replace(
        run,
        verdicts=run.verdicts[::-1],
        cases=run.cases[::-1],
        usage=dict(reversed(run.usage.items())),
        comparisons=run.comparisons[::-1],
        environment=dict(reversed(run.environment.items())),
    )
    assert results.text(turned) == results.text(run)


def test_keys_stand_in_the_published_order(run: Run) -> None:
    document = results.as_results(run)
    assert list(document) == list(results.schema()["properties"])
    metric = results.schema()["$defs"]["metric"]["properties"]
    assert list(document["metrics"][0]) == list(metric)


def test_metrics_are_sorted_and_a_diagnostic_has_no_rule_and_no_verdict(run: Run) -> None:
    metrics = results.as_results(run)["metrics"]
    names = [entry["metric"] for entry in metrics]
    assert names == sorted(names)
    entries = {entry["metric"]: entry for entry in metrics}
    unfenced = entries["tickets.schema_match_unfenced"]
    assert (unfenced["rule"], unfenced["verdict"], unfenced["reason"]) == (None, None, None)
    assert entries["tickets.schema_match"]["rule"] == "at_least = 0.98"
    assert len(metrics) == 5


def test_hostile_replies_survive_unchanged(run: Run) -> None:
    text = results.text(run)
    assert text.isascii()
    replies = [case["replies"]["tickets"] for case in json.loads(text)["cases"]]
    assert {reply for case in run.cases for reply in case.replies.values()} >= set(replies)


def test_a_diverged_training_has_no_loss_instead_of_nan(run: Run) -> None:
    made = replace(run.training[0], losses=(LossPoint(1, 0.1, train=math.nan),), seconds=math.inf)
    document = json.loads(results.text(replace(run, training=(made,))))
    check(document)
    assert document["training"][0]["train_loss"] is None


def test_losses_are_the_last_of_training_and_the_lowest_of_validation(run: Run) -> None:
    points = ((3.0, None), (None, 0.4), (1.0, None), (None, 0.6), (0.5, None))
    losses = tuple(LossPoint(s, s, train=t, validation=v) for s, (t, v) in enumerate(points))
    made: Candidate = replace(run.training[0], losses=losses)
    entry = results.as_results(replace(run, training=(made,)))["training"][0]
    assert (entry["train_loss"], entry["validation_loss"]) == (0.5, 0.4)


@settings(deadline=None)
@given(st.text(), st.one_of(st.none(), st.floats()), st.integers(0, 10**9))
def test_any_text_and_number_makes_valid_json(text: str, number: float | None, count: int) -> None:
    compared = Comparison(
        f"a.{text}",
        "m",
        None,
        n=count,
        missing=0,
        unscored=0,
        candidate_mean=number,
        interval=(number, 1.0) if number is not None else None,
    )
    run = Run(
        run_id="x",
        started="",
        finished="",
        decision=Decision.PASS,
        exit_status=0,
        arms=(),
        verdicts=(),
        usage={text: Usage(requests=count, cost_usd=number)},
        training=(),
        cases=(),
        errors=(text,),
        environment={text: {"x": [number, text, object]}},
        comparisons=(compared,),
    )
    check(json.loads(results.text(run)))
