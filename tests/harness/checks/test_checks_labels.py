import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
)

from harness.checks.labels import accuracy, confusion, label, macro_f1, per_class
from harness.records import INVALID_LABEL, Case, HarnessError, Reply

LABELS = ["billing", "delivery", "Defect"]


def case(expected):
    return Case("s", "c", ({"role": "user", "content": "?"},), expected, source="x.jsonl:4")


def check(expected, reply, labels=LABELS, **settings):
    return label(case(expected), Reply(reply), labels, **settings)


@pytest.mark.parametrize(
    ("reply", "predicted"),
    [
        ("billing", "billing"),
        (" billing\n", "billing"),
        ("delivery", "delivery"),
        ("Billing", INVALID_LABEL),
        ("billing.", INVALID_LABEL),
        ("It is billing", INVALID_LABEL),
        ("", INVALID_LABEL),
        (INVALID_LABEL, INVALID_LABEL),
        ("\0" * 9, INVALID_LABEL),
    ],
)
def test_the_stripped_reply_is_the_label_or_invalid(reply, predicted):
    score = check("billing", reply)
    assert score.metric == "accuracy"
    assert score.labels == ("billing", predicted)
    assert score.value == float(predicted == "billing") == float(score.passed)
    assert bool(score.explanation) == (not score.passed)
    assert score.explanation.isprintable()


def test_case_folds_on_request_to_the_label_as_listed():
    assert check("DEFECT", " dEfect", ignore_case=True).labels == ("Defect", "Defect")


def test_labels_and_their_field_are_found_in_any_normal_form():
    composed, seen = "Rückgabe", "Ru\u0308ckgabe\u200b"
    assert check(seen, composed, ["Rückgabe", "x"]).labels == (composed, composed)
    found = check(
        json.dumps({"größe": composed}),
        json.dumps({"gro\u0308ße": seen}),
        [composed, "x"],
        field="größe",
    )
    assert found.value == 1
    with pytest.raises(HarnessError, match="distinct"):
        check("a", "a", [composed, seen])


def as_json(value):
    return json.dumps({"category": value, "other": 1})


@pytest.mark.parametrize(
    ("reply", "predicted"),
    [
        (as_json("billing"), "billing"),
        (as_json(" delivery "), "delivery"),
        (as_json("bill"), INVALID_LABEL),
        (as_json(None), INVALID_LABEL),
        (as_json(["billing"]), INVALID_LABEL),
        ("billing", INVALID_LABEL),
        ('["billing"]', INVALID_LABEL),
        ('{"Category": "billing"}', INVALID_LABEL),
        ('{"category": "delivery", "category": "billing"}', INVALID_LABEL),
        (f"```json\n{as_json('billing')}\n```", INVALID_LABEL),
        ('{"category":' * 5000, INVALID_LABEL),
    ],
)
def test_a_label_is_read_from_a_field_of_strict_json(reply, predicted):
    score = check(as_json("billing"), reply, field="category")
    assert score.metric == "category_accuracy"
    assert score.labels == ("billing", predicted)
    assert score.value == float(predicted == "billing")
    assert bool(score.explanation) == (not score.passed)


@pytest.mark.parametrize(
    ("expected", "field", "problem"),
    [
        (None, None, "has no reference answer"),
        ("refund", None, "expects 'refund', which is none of the labels billing, delivery, Defect"),
        ("billing", "category", "has no label: no JSON"),
        ('{"a": "billing"}', "category", "has no label: the field category is missing"),
        ('{"category": null}', "category", "has no label: category is None"),
        ("[]", "category", "has no label: no JSON object"),
    ],
)
def test_a_reference_that_is_no_label_names_the_case(expected, field, problem):
    with pytest.raises(HarnessError, match=rf"^x\.jsonl:4: .*{problem}"):
        check(expected, "billing", field=field)


@pytest.mark.parametrize(
    "labels", [[], ["a", "a "], ["a", ""], "ab", ["a", 1], ["a", INVALID_LABEL]], ids=str
)
def test_labels_that_are_no_distinct_texts_are_refused(labels):
    with pytest.raises(HarnessError, match=r"^x\.jsonl:4: the check label takes "):
        check("a", "a", labels)


def test_labels_that_differ_by_case_alone_cannot_be_folded():
    assert check("a", "A", ["a", "A"]).labels == ("a", "A")
    with pytest.raises(HarnessError, match="distinct"):
        check("a", "A", ["a", "A"], ignore_case=True)


def test_settings_change_the_digest_and_the_order_of_labels_does_not():
    plain = check("billing", "x").check
    assert check("delivery", "y", LABELS[::-1], name="other").check == plain
    assert check("billing", "x", [*LABELS, "more"]).check != plain
    assert check("billing", "x", ignore_case=True).check != plain
    assert check(as_json("billing"), "x", field="category").check != plain


PAIRS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from(["a", "b", "c", "e", INVALID_LABEL])),
    min_size=1,
)


@settings(deadline=None, max_examples=50)
@given(PAIRS)
def test_the_figures_of_a_series_are_those_of_scikit_learn(pairs):
    truth, answers = [list(column) for column in zip(*pairs, strict=True)]
    classes = sorted({*truth, *answers} - {INVALID_LABEL})
    expected = f1_score(truth, answers, labels=classes, average="macro", zero_division=0)
    assert macro_f1(pairs) == pytest.approx(expected)
    assert accuracy(pairs) == pytest.approx(accuracy_score(truth, answers))
    theirs = precision_recall_fscore_support(truth, answers, labels=classes, zero_division=0)
    for ours, (precision, recall, f1, support) in zip(
        per_class(pairs), zip(*theirs, strict=True), strict=True
    ):
        assert (ours.precision, ours.recall, ours.f1) == pytest.approx((precision, recall, f1))
        assert ours.support == support
    assert [score.label for score in per_class(pairs)] == classes


@settings(deadline=None, max_examples=50)
@given(PAIRS)
def test_the_confusion_is_that_of_scikit_learn(pairs):
    truth, answers = [list(column) for column in zip(*pairs, strict=True)]
    found = ["a", "b", "c", "d", "e", INVALID_LABEL]
    table = confusion_matrix(truth, answers, labels=found)
    theirs = {
        (a, b): int(table[i][j])
        for i, a in enumerate(found)
        for j, b in enumerate(found)
        if table[i][j]
    }
    assert confusion(pairs) == theirs


def test_an_invalid_reply_costs_recall_and_is_no_class():
    pairs = [("a", "a"), ("a", INVALID_LABEL), ("b", "b")]
    assert macro_f1(pairs) == pytest.approx((2 / 3 + 1) / 2)
    assert macro_f1([("a", INVALID_LABEL)]) == 0
    assert [score.label for score in per_class(pairs)] == ["a", "b"]


def test_a_series_without_cases_has_no_figures():
    for figure in (accuracy, macro_f1):
        with pytest.raises(ValueError, match="at least one"):
            figure([])
    assert per_class([]) == ()
    assert confusion([]) == {}
