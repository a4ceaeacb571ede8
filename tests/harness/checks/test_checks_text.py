# ruff: noqa: RUF001
import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from harness.checks import text
from harness.records import Case, HarnessError, Reply

HOSTILE = ["", "\0", "\x1b[31mred\x1b[0m", "\ud800", "\u202egnp", "a" * 100_000, "```" * 5000]


def case(expected):
    return Case("s", "c", ({"role": "user", "content": "?"},), expected, source="x.jsonl:4")


@pytest.mark.parametrize(
    ("expected", "reply", "plain", "folded"),
    [
        ("Paris", "Paris", 1, 1),
        (" Paris\n", "\tParis ", 1, 1),
        ("Paris", "paris", 0, 1),
        ("Straße", "STRASSE", 0, 1),
        ("Paris", "Paris.", 0, 0),
        ("Paris", "", 0, 0),
        ("a b", "a  b", 0, 0),
    ],
)
def test_exact_match_with_and_without_case(expected, reply, plain, folded):
    for ignore_case, value in ((False, plain), (True, folded)):
        score = text.exact(case(expected), Reply(reply), ignore_case=ignore_case)
        assert (score.metric, score.value, score.passed) == ("exact_match", value, bool(value))


@pytest.mark.parametrize(
    ("needle", "reply", "plain", "folded"),
    [
        (None, "It is Paris, I think", 1, 1),
        (None, "it is paris", 0, 1),
        ("refund", "No Refund", 0, 1),
        ("refund", "no refund", 1, 1),
        (" refund", "refund", 0, 0),
    ],
)
def test_contains_with_and_without_case(needle, reply, plain, folded):
    for ignore_case, value in ((False, plain), (True, folded)):
        score = text.contains(case("Paris\n"), Reply(reply), needle, ignore_case=ignore_case)
        assert (score.metric, score.value, score.passed) == ("contains", value, bool(value))


def test_contains_with_a_needle_needs_no_reference():
    assert text.contains(case(None), Reply("abc"), "b").value == 1


@pytest.mark.parametrize("unseen", ["\u200b", "\u00ad\ufeff", "\ufe0f"])
def test_what_shows_nothing_is_not_looked_for(unseen):
    for expected, needle in ((unseen, None), ("Paris", unseen)):
        with pytest.raises(HarnessError, match=r"^x\.jsonl:4: .*empty text"):
            text.contains(case(expected), Reply("London"), needle)


@pytest.mark.parametrize("needle", [["a", "b"], 5, b"a"])
def test_a_needle_that_is_no_text_is_refused(needle):
    with pytest.raises(HarnessError, match=r"^x\.jsonl:4: .* one text, not "):
        text.contains(case("a"), Reply("a"), needle)


def test_an_empty_needle_is_refused():
    with pytest.raises(HarnessError, match=r"^x\.jsonl:4: .*empty text"):
        text.contains(case("a"), Reply("a"), "")


@pytest.mark.parametrize("check", [text.exact, text.contains, text.rouge])
@pytest.mark.parametrize("expected", [None, " \n"])
def test_a_check_without_its_reference_names_the_case(check, expected):
    with pytest.raises(HarnessError, match=r"^x\.jsonl:4: the case 'c' has no reference answer"):
        check(case(expected), Reply("a"))


VOCABULARY = ["the", "cat", "cats", "runs", "running", "runner", "12", "a's"]
WORDS = st.lists(st.sampled_from(VOCABULARY))


@settings(deadline=None, max_examples=50)
@given(WORDS.filter(any), WORDS)
def test_rouge_is_that_of_rouge_score_with_stemming(expected, got):
    theirs = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    wanted = theirs.score(" ".join(expected), " ".join(got))
    scores = text.rouge(case(" ".join(expected)), Reply(" ".join(got)))
    assert {s.metric: s.value for s in scores} == {k: v.fmeasure for k, v in wanted.items()}
    assert text.rouge_l(" ".join(expected), " ".join(got)) == wanted["rougeL"].fmeasure


def test_rouge_by_hand():
    one, two, longest = text.rouge(case("the cats sat down"), Reply("the cat sat"))
    assert one.value == pytest.approx(2 * 1 * 0.75 / 1.75)
    assert two.value == pytest.approx(2 * 1 * (2 / 3) / (5 / 3))
    assert longest.value == pytest.approx(2 * 1 * 0.75 / 1.75)
    assert one.explanation == "precision 1.00, recall 0.75"


SCRIPTS = [
    "東京",
    "您的货物已经寄出",
    "Où est-il ?",
    "Γειά σου Κόσμε",
    "Это ё",
    "สวัสดีครับ",
    "नमस्ते दुनिया",
    "안녕하세요 세계",
    "مرحبا",
    "ნახვამდის",
    "👍",
    "…",
    "?!",
    "½",
]


@pytest.mark.parametrize("written", SCRIPTS)
def test_equal_texts_have_every_rouge_in_every_script(written):
    for same in (written, unicodedata.normalize("NFD", written), f"\u200b{written}\ufeff"):
        assert [s.value for s in text.rouge(case(written), Reply(same))] == [1, 1, 1]
        assert text.rouge_l(written, same) == 1
    assert text.rouge_l(written, "other") == 0
    assert 0 < text.rouge_l(written, f"{written} other") < 1


def test_rouge_of_scripts_without_spaces_by_hand():
    one, two, longest = text.rouge(case("退款已寄出"), Reply("退货已寄到"))
    assert one.value == longest.value == pytest.approx(3 / 5)
    assert two.value == pytest.approx(1 / 4)
    assert text.rouge_l("crème brûlée", "creme brûlée") == pytest.approx(1 / 2)


@settings(deadline=None, max_examples=100)
@given(st.text(st.characters(max_codepoint=127)), st.text(st.characters(max_codepoint=127)))
def test_rouge_of_ascii_is_that_of_rouge_score(expected, got):
    if not re.search("[a-zA-Z0-9]", expected):
        return
    wanted = RougeScorer(["rougeL"], use_stemmer=True).score(expected, got)["rougeL"]
    assert text.rouge_l(expected, got) == wanted.fmeasure


def test_a_reference_that_shows_nothing_is_unscored():
    scores = text.rouge(case("\u200b"), Reply("a"))
    assert [score.value for score in scores] == [None] * 3
    assert all("shows nothing" in score.unscored for score in scores)
    assert text.rouge_l("\u200b", "a") == 0


def test_exact_and_contains_compare_what_texts_read_as():
    composed = "Zürich\u00a0West"
    seen = "Zu\u0308rich\u200b West"
    assert text.exact(case(composed), Reply(f"\ufeff {seen}\n")).value == 1
    assert text.contains(case(composed), Reply(f"in {seen}!")).value == 1
    assert text.exact(case("ΐ"), Reply("\u03aa\u0301"), ignore_case=True).value == 1
    assert text.contains(case(None), Reply("cafe\u0301"), "cafe").value == 0


@pytest.mark.parametrize("reply", HOSTILE)
def test_hostile_replies_are_scored_and_explained_in_one_printable_line(reply):
    scores = [
        text.exact(case("x y"), Reply(reply)),
        text.contains(case("x y"), Reply(reply)),
        *text.rouge(case("x y"), Reply(reply)),
    ]
    for score in scores:
        assert score.value == 0
        assert score.explanation.isprintable()
        assert len(score.explanation) < 300


def test_settings_and_nothing_else_change_a_check_digest():
    digests = {
        text.exact(case("a"), Reply("a")).check,
        text.exact(case("a"), Reply("a"), ignore_case=True).check,
        text.contains(case("a"), Reply("a")).check,
        text.contains(case("a"), Reply("a"), "a").check,
        text.contains(case("a"), Reply("a"), ignore_case=True).check,
        *(score.check for score in text.rouge(case("a"), Reply("a"))),
    }
    assert len(digests) == 8
    assert text.exact(case("b"), Reply("c"), name="n").check in digests
