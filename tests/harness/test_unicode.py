# ruff: noqa: RUF001
"""Which texts are equal and what their words are, in the scripts that people write."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.unicode import folded, normalised, pieces, same_text, words

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
ENGLAND, SCOTLAND = (
    "\U0001f3f4" + "".join(chr(0xE0000 + ord(c)) for c in tag) + "\U000e007f"
    for tag in ("gbeng", "gbsct")
)
ODD = "\u200b\u200c\u200d\ufe0f\u0301\u00ad\u202e\u00a0\u0628\u0915\u094de \r\n"
TEXTS = st.text(st.characters() | st.sampled_from(ODD + FAMILY + ENGLAND))


def decomposed(text):
    return unicodedata.normalize("NFD", text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Päckchen für Zürich", decomposed("Päckchen für Zürich")),
        ("한국어", decomposed("한국어")),
        ("が", decomposed("が")),
        ("\u212b", "Å"),
        ("zero\u200bwidth", "zerowidth"),
        ("\ufeffmark", "mark"),
        ("soft\u00adhyphen", "softhyphen"),
        ("\u200f\u05e9\u05dc\u05d5\u05dd", "\u05e9\u05dc\u05d5\u05dd"),
        ("\u2068name\u2069", "name"),
        ("10\u00a0000\u202f€", "10 000 €"),
        ("a\r\nb", "a\nb"),
        ("❤\ufe0f", "❤"),
        ("latin\u200d\u200cletters", "latinletters"),
        ("yes" + ENGLAND[1:], "yes"),
        ("\ufeff \u200b yes\u00a0", "yes"),
    ],
    ids=ascii,
)
def test_texts_that_read_the_same_are_equal(one, other):
    assert same_text(one, other)
    assert same_text(other.upper(), one.lower(), ignore_case=True)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("é", "e"),
        ("m²", "m2"),
        ("ﬁ", "fi"),
        ("ＡＢ", "AB"),
        ("a b", "a  b"),
        ("a b", "ab"),
        ("A", "\u0391"),
        ("می\u200cخواهم", "میخواهم"),
        ("\u0915\u094d\u200d\u0937", "\u0915\u094d\u0937"),
        (FAMILY, FAMILY.replace("\u200d", "")),
        (ENGLAND, SCOTLAND),
        ("\u202eabc", "abc"),
    ],
    ids=ascii,
)
def test_texts_that_read_otherwise_are_not(one, other):
    assert not same_text(one, other)


@settings(deadline=None, max_examples=200)
@given(TEXTS)
def test_the_form_of_a_text_has_that_form_in_every_normal_form(text):
    form = normalised(text)
    assert normalised(form) == form == normalised(decomposed(text))
    assert folded(folded(text)) == folded(text) == folded(decomposed(text))
    assert "".join(pieces(text)) == text


@settings(deadline=None, max_examples=50)
@given(st.text(st.characters(max_codepoint=127, exclude_characters="\r")))
def test_ascii_is_its_own_form(text):
    assert normalised(text) == text
    assert folded(text) == " ".join(text.lower().split())


def test_nothing_but_the_text_itself_is_left_of_a_folded_text():
    odd = "  ＷＨＥＲＥ\u00a0is\u200b my\r\n" + decomposed("Päckchen") + "\u2060?\ufeff"
    assert folded(odd) == "where is my päckchen?"
    assert folded("می\u200cخواهم") == "میخواهم"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a's 12,5 x_y", "a s 12 5 x y"),
        ("naïve Zürich", "naïve Zürich"),
        (decomposed("naïve"), decomposed("naïve")),
        ("您的货物，iPhone 15手机", "您 的 货 物 iPhone 15 手 机"),
        ("カタカナーひらがな々", "カ タ カ ナ ー ひ ら が な 々"),
        ("한국어 문장", "한국어 문장"),
        ("हिन्दी में", "हिन्दी में"),
        ("สวัสดี", "ส วั ส ดี"),
        ("Привет, мир!", "Привет мир"),
        ("١٢٣ سلام", "١٢٣ سلام"),
        ("!? 👍 …", ""),
    ],
)
def test_words_are_letters_and_digits_of_any_script(text, found):
    assert words(text) == found.split()
