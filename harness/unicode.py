"""Which texts are equal, and what their words are, in every script.

One rule for all comparisons: two texts are equal where they read the same (`normalised`). What is
looser than that (search for leaks, overlap of words) compares what is left without case, width and
format (`folded`).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regex import Pattern

_TAGS = r"[\U000E0020-\U000E007F]"
_REORDERING = r"\u202d\u202e"
_UNSEEN = (
    rf"(?![\u200c\u200d{_REORDERING}])(?!(?<=\U0001F3F4{_TAGS}*){_TAGS})"
    r"\p{Default_Ignorable_Code_Point}"
)
"""All that shows nothing, but for joiners, what turns text round, and the tags of flags."""

_SHAPED = (
    r"\p{Arabic}\p{Syriac}\p{Mongolian}\p{Nko}\p{Mandaic}\p{Devanagari}\p{Bengali}\p{Gurmukhi}"
    r"\p{Gujarati}\p{Oriya}\p{Tamil}\p{Telugu}\p{Kannada}\p{Malayalam}\p{Sinhala}\p{Khmer}"
    r"\p{Myanmar}\p{Tibetan}\p{Balinese}\p{Javanese}"
)
_PICTURE = r"[\p{Extended_Pictographic}\U0001F3FB-\U0001F3FF]"
_IDLE_JOINER = (
    rf"(?<![{_SHAPED}])(?<!{_PICTURE})[\u200c\u200d]"
    rf"|(?<={_PICTURE})(?:\u200c|\u200d(?!{_PICTURE}))"
    r"|\u200c(?![\u200c\u200d]*[\p{L}\p{M}])"
    r"|(?<=[\u200c\u200d])[\u200c\u200d]"
)

_WITHOUT_SPACES = (
    r"[\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}\p{scx=Bopomofo}\p{Yi}\p{Tibetan}"
    r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Line_Break=SA}]"
)
_WORD = (
    rf"(?=[\p{{L}}\p{{N}}]){_WITHOUT_SPACES}\p{{M}}*"
    rf"|(?=[\p{{L}}\p{{N}}])(?:(?!{_WITHOUT_SPACES})[\p{{L}}\p{{N}}\p{{M}}\u200c\u200d])+"
)
"""A run of letters, digits and marks; one letter with its marks where words know no spaces."""


def normalised(text: str, *, ignore_case: bool = False) -> str:
    """Return the form in which texts that read the same are equal.

    Canonically equivalent characters are one (NFC), every kind of space is a space, a line ends
    with a line feed, and characters that show nothing (zero-width ones, soft hyphens, direction
    marks, variation selectors) are left out. Joiners stay where they show: in scripts that they
    shape and inside emoji. Case (unless `ignore_case`), width and white space stay too.
    """
    text = text.replace("\r\n", "\n")
    if not text.isascii():
        text = unicodedata.normalize("NFC", _compiled(_UNSEEN).sub("", text))
        text = _compiled(r"\p{Zs}").sub(" ", _compiled(_IDLE_JOINER).sub("", text))
    return unicodedata.normalize("NFC", text.casefold()) if ignore_case else text


def same_text(one: str, other: str, *, ignore_case: bool = False) -> bool:
    """Return whether two texts read the same, white space around them aside."""
    forms = [normalised(text, ignore_case=ignore_case).strip() for text in (one, other)]
    return forms[0] == forms[1]


def by_form(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` with their names `normalised`; as they are where two would be one."""
    forms = {normalised(name): value for name, value in values.items()}
    return forms if len(forms) == len(values) else dict(values)


def folded(text: str) -> str:
    """Return `text` without case, width, format characters and further white space (NFKC)."""
    if not text.isascii():
        text = _compiled(r"[\p{Default_Ignorable_Code_Point}\p{Cf}]").sub("", text)
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(text.casefold().split())


def words(text: str) -> list[str]:
    """Return the words of `text`: runs of letters and digits, with their marks.

    In scripts that put no spaces between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese, ...)
    every character is one.
    """
    return _compiled(_WORD).findall(text)


def pieces(text: str) -> list[str]:
    """Return `text` cut into words, white space and single other characters; nothing is lost."""
    return _compiled(rf"{_WORD}|\s+|\X").findall(text)


@cache
def _compiled(pattern: str) -> Pattern[str]:
    import regex

    return regex.compile(pattern)
