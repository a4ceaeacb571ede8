import json
import math
import re
from fractions import Fraction

import pytest

from harness.records import Case, HarnessError, Reply
from harness.scoring import Scorer, first_line

EXPECTED = '{"category": "defect", "name": null}'
SCHEMA = {"type": "object", "required": ["category"]}


class Desk:
    """A scorer with what it recorded."""

    def __init__(self, root, reply, expected=EXPECTED, schemas=None):
        case = Case(
            "tickets", "c", ({"role": "user", "content": "?"},), expected, source="x.jsonl:4"
        )
        self.scores = []
        self.questions = []
        self.score = Scorer(
            "tickets",
            case,
            reply if isinstance(reply, Reply) else Reply(reply),
            root,
            self.scores.append,
            schemas={} if schemas is None else schemas,
            test="test_ticket",
            ask=self.questions.append,
        )

    @property
    def values(self):
        return {score.metric: score.value for score in self.scores}


@pytest.fixture
def desk(tmp_path):
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    return lambda reply=EXPECTED, **more: Desk(tmp_path, reply, **more)


def everything(score):
    score.json_schema("schema.json")
    score.fields()
    score.exact()
    score.contains()
    score.label(["defect", "billing"], field="category")
    score.rouge()
    score.record("brevity", 0.5, explanation="half")


METRICS = [
    "tickets.schema_match",
    "tickets.schema_match_unfenced",
    "tickets.field_accuracy",
    "tickets.field_accuracy_unfenced",
    "tickets.exact_match",
    "tickets.contains",
    "tickets.category_accuracy",
    "tickets.rouge1",
    "tickets.rouge2",
    "tickets.rougeL",
    "tickets.brevity",
]


def test_every_check_records_its_metrics_under_the_suite(desk):
    good = desk()
    everything(good.score)
    assert list(good.values) == METRICS
    assert good.values == {**dict.fromkeys(METRICS, 1.0), "tickets.brevity": 0.5}
    diagnostics = [score.metric for score in good.scores if score.diagnostic]
    assert diagnostics == ["tickets.schema_match_unfenced", "tickets.field_accuracy_unfenced"]
    assert all(len(score.check) == 64 for score in good.scores)


@pytest.mark.parametrize(
    "reply", ["\0\x1b[31m", "{" * 50_000, "[" * 50_000, "9" * 9999, "\ud800", "NaN", "```json"]
)
def test_a_bad_reply_scores_nothing_and_raises_nothing(desk, reply):
    bad = desk(reply)
    everything(bad.score)
    assert list(bad.values) == METRICS
    assert bad.values == {**dict.fromkeys(METRICS, 0.0), "tickets.brevity": 0.5}
    assert all(score.explanation.isprintable() for score in bad.scores)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(""), "the reply is empty"),
        (Reply(" \n"), "the reply is empty"),
        (Reply("", finish_reason="length"), "the reply is empty"),
        (Reply(EXPECTED, finish_reason="content_filter"), "the model refused to answer"),
    ],
)
def test_a_model_that_fails_scores_the_worst_of_every_check(desk, reply, reason):
    bad = desk(reply)
    everything(bad.score)
    bad.score.record("words", 0, higher_is_better=False, high=50, unit="words")
    bad.score.record("length", 0, higher_is_better=False, high=None)
    assert bad.values == {
        **dict.fromkeys(METRICS, 0.0),
        "tickets.words": 50,
        "tickets.length": None,
    }
    assert {score.explanation for score in bad.scores if score.value is not None} == {reason}
    assert bad.scores[-1].unscored == f"{reason}, and the metric's range has no worst"
    assert not any(score.passed for score in bad.scores)
    [labels] = [score.labels for score in bad.scores if score.labels]
    assert labels == ("defect", "(invalid)")


@pytest.mark.parametrize(
    "reply",
    [
        Reply(EXPECTED, finish_reason="length"),
        Reply(EXPECTED, tool_calls=({"function": {}},)),
    ],
)
def test_a_truncated_reply_is_scored_as_it_stands(desk, reply):
    cut = desk(reply)
    cut.score.fields()
    assert cut.values["tickets.field_accuracy"] == 1


def test_a_reply_with_an_error_is_unscored_with_the_reason(desk):
    lost = desk(Reply(error="timed out\x1b[0m\nafter 60 s"))
    everything(lost.score)
    assert list(lost.values) == METRICS
    assert set(lost.values.values()) == {None}
    for score in lost.scores:
        assert score.unscored == "no reply: timed out"
        assert (score.passed, score.labels, dict(score.parts)) == (None, None, {})


@pytest.mark.parametrize(
    ("call", "metrics"),
    [
        (lambda score: score.json_schema(SCHEMA, name="m"), ["m", "m_unfenced"]),
        (lambda score: score.fields(name="m"), ["m", "m_unfenced"]),
        (lambda score: score.exact(name="m"), ["m"]),
        (lambda score: score.contains(name="m"), ["m"]),
        (lambda score: score.label(["defect"], field="category", name="m"), ["m"]),
        (lambda score: score.rouge(name="m"), ["m1", "m2", "mL"]),
    ],
)
def test_name_renames_what_a_check_records_and_frees_the_usual_name(desk, call, metrics):
    named = desk()
    everything(named.score)
    call(named.score)
    assert list(named.values)[len(METRICS) :] == [f"tickets.{metric}" for metric in metrics]


@pytest.mark.parametrize(
    ("call", "metric"),
    [
        (lambda score: score.json_schema(SCHEMA), "schema_match"),
        (lambda score: score.fields(), "field_accuracy"),
        (lambda score: score.exact(), "exact_match"),
        (lambda score: score.contains("x"), "contains"),
        (lambda score: score.label(["defect"], field="category"), "category_accuracy"),
        (lambda score: score.rouge(), "rouge1"),
        (lambda score: score.record("brevity", 1), "brevity"),
        (lambda score: score.exact(name="brevity"), "brevity"),
    ],
)
def test_a_metric_recorded_twice_names_test_and_metric(desk, call, metric):
    twice = desk()
    everything(twice.score)
    with pytest.raises(HarnessError) as refused:
        call(twice.score)
    assert str(refused.value) == (
        f"test_ticket of the suite tickets: the metric tickets.{metric} is recorded twice for one "
        "case; give one of the two calls another name with name="
    )
    assert list(twice.values) == METRICS


@pytest.mark.parametrize("name", ["a b", "tickets.m", "\x1b[31m", "é", "x" * 81])
def test_a_name_that_no_gate_could_name_is_refused(desk, name):
    with pytest.raises(HarnessError, match=r"^test_ticket of the suite tickets: .*cannot name"):
        desk().score.record(name, 1)
    with pytest.raises(HarnessError, match="cannot name a metric"):
        desk().score.exact(name=name)


def test_options_reach_the_checks(desk):
    shouted = desk('{"CATEGORY": "DEFECT", "category": "DEFECT", "name": null}')
    shouted.score.fields(ignore_case=True)
    shouted.score.contains("defect", ignore_case=True)
    shouted.score.label(["defect"], field="category", ignore_case=True)
    assert set(shouted.values.values()) == {1.0}
    assert shouted.scores[-1].labels == ("defect", "defect")
    exact = desk("PARIS", expected="Paris")
    exact.score.exact(ignore_case=True)
    assert exact.values == {"tickets.exact_match": 1}


@pytest.mark.parametrize("check", ["fields", "exact", "contains", "rouge"])
def test_a_check_without_its_reference_names_the_case(desk, check):
    with pytest.raises(HarnessError, match=r"^x\.jsonl:4: the case 'c' has no reference answer"):
        getattr(desk(expected=None).score, check)()


def test_a_schema_file_is_read_once_for_all_cases(desk, tmp_path):
    schemas = {}
    desk(schemas=schemas).score.json_schema("schema.json")
    (tmp_path / "schema.json").unlink()
    second = desk(schemas=schemas)
    second.score.json_schema(tmp_path / "schema.json")
    assert second.values["tickets.schema_match"] == 1
    with pytest.raises(HarnessError, match=r"^schema\.json: there is no such schema"):
        desk(schemas={}).score.json_schema("schema.json")


def test_a_recorded_value_carries_its_range_unit_and_direction(desk):
    made = desk()
    made.score.record(
        "words",
        Fraction(25, 2),
        explanation="first\nsecond",
        higher_is_better=False,
        low=0,
        high=None,
        unit="words",
    )
    made.score.record("polite", True)
    words, polite = made.scores
    assert (words.value, words.low, words.high, words.unit) == (12.5, 0, None, "words")
    assert (words.higher_is_better, words.explanation, words.passed) == (False, "first", None)
    assert (polite.value, polite.passed) == (1.0, True)
    assert words.check != polite.check


@pytest.mark.parametrize(
    ("value", "limits"),
    [
        (1.01, {}),
        (-0.01, {}),
        (math.nan, {}),
        (math.inf, {"high": None}),
        (-math.inf, {"low": None}),
        (10**400, {"high": None}),
        (None, {}),
        ("much", {}),
        (6, {"low": 1, "high": 5}),
    ],
)
def test_a_value_out_of_its_range_is_refused(desk, value, limits):
    with pytest.raises(HarnessError, match=r"^test_ticket of .* no finite number from .* low= and"):
        desk().score.record("brevity", value, **limits)


# ---------------------------------------------------------------------- explanations


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("", ""),
        ("\n\n", ""),
        ("a\tb\u2028c", "a b"),
        ("\x1b]0;title\x07seen", "seen"),
        ("\x1b]8;;http://example.org\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b31mred\x1b(B", "red"),
        ("a\x1b[", "a"),
        ("\u202eabc", "abc"),
        ("x" * 999, "x" * 300),
    ],
)
def test_the_first_line_is_fit_for_a_terminal(message, line):
    assert first_line(message) == line


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda s: s.judge("charm"), "give rubric= five sentences"),
        (lambda s: s.judge("charm", rubric=["a", "b"]), "give rubric= five sentences"),
        (lambda s: s.judge("charm", rubric="abcde"), "give rubric= five sentences"),
        (lambda s: s.judge([]), "give at least one criterion"),
        (lambda s: s.judge(["a", "a"]), "each once"),
        (lambda s: s.judge(["a"], rubric=["a"]), "a list of criteria has no rubric"),
        (lambda s: s.judge("format", at_least=6), "at_least=6 is no number from 1 to 5"),
        (lambda s: s.judge(["a"], at_least=4), "at_least=4 is no number from 0 to 1"),
        (lambda s: s.judge("format", judges="a"), "judges='a' is no list of names"),
        (lambda s: s.judge("so charming", rubric=list("abcde")), "cannot name a metric"),
        (lambda s: [s.judge("format"), s.judge("format")], "is recorded twice"),
        (lambda s: [s.exact(name="format"), s.judge("format")], "is recorded twice"),
    ],
)
def test_a_wrong_question_to_judges_is_refused(desk, ask, said):
    with pytest.raises(HarnessError, match=re.escape(said)):
        ask(desk().score)


def test_a_question_waits_for_its_judges(desk):
    made = desk()
    made.score.judge("correctness", judges=["strict"])
    made.score.judge(["It is kind.", "It is short."], name="manners", at_least=0.5)
    made.score.prefer("the shorter one", name="shorter")
    assert made.scores == []
    kinds = [(one.metric, one.kind, one.at_least, one.judges) for one in made.questions]
    assert kinds == [
        ("tickets.correctness", "rubric", 4, ("strict",)),
        ("tickets.manners", "criteria", 0.5, ()),
        ("tickets.shorter", "preference", 0, ()),
    ]
