"""Text as passages are searched and held against answers: cut into sentences and words, lemmatised."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

import regex

from experiments.rag.inference.scripts import UNSPACED, bigrams, fold_marks, without_article
from experiments.sentences import sentence_ranges

_KEPT = 2_000  # texts whose words are kept: passages may be long, and a corpus has no end
_ARTICLES = frozenset({"a", "an", "the"})
_UNITS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split()
_UNITS += "seventeen eighteen nineteen".split()
_NUMBERS = {word: i for i, word in enumerate(_UNITS)}
_NUMBERS |= {word: 10 * i for i, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)}
_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth".split()
_NUMBERS |= {word: i for i, word in enumerate(_ORDINALS, 1)}
_MONTHS = "january february march april may june july august september october november december".split()
_MONTH = "(" + "|".join(f"{name}|{name[:3]}" for name in _MONTHS) + ")"
_DAY = r"(\d{1,2})(?:st|nd|rd|th)?"
_DAY_FIRST = re.compile(rf"\b{_DAY} (?:of )?{_MONTH}\.?,? (\d{{4}})\b")
_MONTH_FIRST = re.compile(rf"\b{_MONTH}\.? {_DAY},? (\d{{4}})\b")
_ISO = re.compile(r"\b(\d{4})-(\d{2})-(\d{2})\b")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")
_MINUS = r"(?<![^\s(])-(?=\d)"  # before a number, and between nothing: 1990-2000 holds none
# A run of a script without spaces is a word of its own, whatever it stands beside.
_RUN = rf"[[{UNSPACED}]\p{{M}}]+"
_LETTERS = rf"[\p{{L}}\p{{N}}--[{UNSPACED}]][[\p{{L}}\p{{N}}\p{{M}}]--[{UNSPACED}]]*"
_WORD = regex.compile(rf"(?:{_MINUS})?\d+\.\d+|{_RUN}|(?:{_MINUS})?{_LETTERS}", regex.V1)
_NAME = re.compile(rf"(?:{_MINUS})?[^\W_]+(?:[.,]\d+)*")
_STOP = frozenset(
    "a an the and or but of in on at to for from by with as is are was were be been being do does did has have had"
    " it its this that these those he she they his her their not no so than then there which who whom what when"
    " where".split()
)


@lru_cache(maxsize=_KEPT)
def normalise(text: str) -> tuple[str, ...]:
    """`words` without articles, unless there is nothing else."""
    every = words(text)
    return tuple(word for word in every if word not in _ARTICLES) or every


@lru_cache(maxsize=_KEPT)
def words(text: str) -> tuple[str, ...]:
    """Words of a text without case, accents and punctuation; dates and numbers in one form."""
    plain = fold_marks(fold_marks(text).casefold())
    plain = _DAY_FIRST.sub(lambda m: _date(m[3], m[2], m[1]), plain)
    plain = _MONTH_FIRST.sub(lambda m: _date(m[3], m[1], m[2]), plain)
    plain = _ISO.sub(lambda m: f"date{m[1]}{m[2]}{m[3]}", plain)
    found = [re.sub(r"^(\d+)(?:st|nd|rd|th)$", r"\1", word) for word in _WORD.findall(_THOUSANDS.sub("", plain))]
    return tuple(_numbers(found) if plain.isascii() else chain(*map(bigrams, _numbers(found))))


def _date(year: str, month: str, day: str) -> str:
    number = next(i for i, name in enumerate(_MONTHS, 1) if name.startswith(month[:3]))
    return f"date{year}{number:02d}{int(day):02d}"


def _numbers(plain: Sequence[str]) -> list[str]:
    """Numbers up to 99 in digits: `forty two` is 42, `3.50` is 3.5, `3.0` is 3."""
    numbers: list[str] = []
    tens = False
    for word in plain:
        value = _NUMBERS.get(word)
        if value is None:
            numbers.append(re.sub(r"(\.\d*?)0+$", r"\1", word).rstrip("."))
        elif tens and 0 < value < 10:
            numbers[-1] = str(int(numbers[-1]) + value)
        else:
            numbers.append(str(value))
        tens = value is not None and value >= 20
    return numbers


def sentences(text: str) -> list[str]:
    """The sentences of a text, in any script, that hold a word; one without an end is a sentence too."""
    return [part for start, end in sentence_ranges(text) if words(part := text[start:end].strip())]


def content_words(text: str) -> list[str]:
    """The lemmas of a text that carry meaning; all of them where it has only function words."""
    found = normalise(text)
    return [lemma(word) for word in found if word not in _STOP] or [lemma(word) for word in found]


def entities(text: str) -> list[str]:
    """Names and numbers of a text, normalised: capitalised words, but for function words, and words with digits."""
    found = [word for word in _NAME.findall(text) if word[0].isupper() or re.search(r"\d", word)]
    return [word for each in found for word in normalise(each) if word not in _STOP]


@lru_cache(maxsize=100_000)
def lemma(word: str) -> str:
    """A word without its English inflection, by suffix alone (Porter's stemmer, as NLTK has it)."""
    return str(_stemmer().stem(without_article(word)))


@lru_cache(maxsize=1)
def _stemmer() -> Any:
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()
