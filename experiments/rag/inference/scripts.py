"""What Unicode tells of a text's letters: which marks a script can do without, and which scripts leave no spaces."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from itertools import pairwise

import regex

# Written without spaces: a run of their letters says nothing of where a word ends.
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\u30fc\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
_PLAIN = regex.compile(r"[\x00-\x7f]*")
_RUN = regex.compile(rf"[[{UNSPACED}\p{{Hangul}}]\p{{M}}]+", regex.V1)
_CLUSTER = regex.compile(r"\X")


def fold_marks(text: str) -> str:
    """A text in compatible form: digits of any script as 0-9, no accents, and no vowel points that may be left out.

    Marks that make another letter of it stay: vowel signs, viramas, nuktas, tones, voicing (combining classes 0, 7-9
    and 84-132 of the Unicode standard); those of Hebrew and Arabic (10-35) and accents (200 and above) go.
    """
    if _PLAIN.fullmatch(text):
        return text
    kept = [_digit(c) for c in unicodedata.normalize("NFKD", text) if _stays(c)]
    return unicodedata.normalize("NFC", "".join(kept))


def _stays(character: str) -> bool:
    at = unicodedata.combining(character)
    return not 10 <= at <= 35 and at < 200 and character != "\u0640" and unicodedata.category(character) != "Cf"


@lru_cache(maxsize=4096)
def _digit(character: str) -> str:
    if character == "\u2212":
        return "-"
    if character in "\u066b\u066c":  # Arabic decimal and thousands separators
        return "." if character == "\u066b" else ","
    return str(unicodedata.decimal(character)) if unicodedata.category(character) == "Nd" else character


def bigrams(word: str) -> list[str]:
    """Pairs of neighbouring letters of a word in a script without spaces, or Korean; any other word as it is.

    As Lucene's CJKAnalyzer indexes them: they need no dictionary, and a Korean noun meets itself behind any particle.
    """
    if not _RUN.fullmatch(word):
        return [word]
    letters = clusters(word)
    return ["".join(pair) for pair in pairwise(letters)] or letters


def clusters(word: str) -> list[str]:
    """The letters of a word, each with its marks."""
    return list(_CLUSTER.findall(word))


# What is written together with a word and is none of it, in languages whose grammar closes the list.
_PARTICLES = frozenset(
    "은 는 이 가 을 를 에 에서 에게 께 께서 한테 의 로 으로 와"
    " 과 랑 이랑 도 만 까지 부터 보다 처럼 이나 나 이며 며 이고 고 이란"
    " 란 이라는 라는 이라고 라고 인 이다 다 입니다 이에요 예요 이야 야 였다 이었다 였습니다 이었습니다".split()
)
_HANGUL = regex.compile(r"\p{Hangul}+")
_ARABIC = regex.compile(r"[وف]?(?:[بكل]?ال|لل|[بكل])?(\p{Arabic}{2,})")
_ARTICLE = regex.compile(r"(?:[وفبك]?ال|لل)(\p{Arabic}{3,})")
_HEBREW = regex.compile(r"[ושמהכלב]{1,3}?(\p{Hebrew}{2,})")


@lru_cache(maxsize=100_000)
def stems(word: str) -> frozenset[str]:
    """A word, and what it may be without the particles (Korean), article and prefixes (Arabic, Hebrew) joined to it."""
    if word.isascii() or len(word) > 64:
        return frozenset({word})
    found = {word}
    if _HANGUL.fullmatch(word):
        found |= {word[:at] for at in range(1, len(word)) if word[at:] in _PARTICLES}
    found |= {match[1] for joined in (_ARABIC, _HEBREW) if (match := joined.fullmatch(word))}
    return frozenset(found | {without_article(word)})


def without_article(word: str) -> str:
    """An Arabic word without its article and what is joined before it, as light stemmers leave it; any other as is."""
    match = _ARTICLE.fullmatch(word)
    return match[1] if match else word
