"""Whether an answer states what is accepted, and when that says little about whether it is right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

from experiments.rag.inference.denial import denied
from experiments.rag.inference.scripts import stems, without_article
from experiments.rag.inference.tokens import Token, meets, read

_ARTICLES = frozenset({"a", "an", "the"})
_YES = frozenset("yes yeah yep yup oui si ja sim はい 是 네 예 да हाँ نعم evet tak".split())
_NO = frozenset("no nope nah non nein nao nee いいえ 否 不 아니요 아니오 нет नहीं لا hayir nie".split())
_SUBJECTS = frozenset("it this that he she they we i you there these those the both neither not".split())
_MEASURED = frozenset("long high tall wide deep old away thick heavy large big ago".split())


def correct(answer: str, accepted: Sequence[Sequence[str]], question: str = "") -> bool:
    """Whether an answer states each part of what was asked in one of the ways accepted for it.

    A coarser way is met by a finer statement (1990 by 12 May 1990), never the reverse; what is denied is not stated,
    unless the question asks for what is not so, or the way is a denial itself.
    """
    plain = _read(answer)
    told = plain if _denies(question) else _asserted(answer)
    return all(any(_states(answer, plain if _denies(way) else told, way) for way in ways) for ways in accepted)


def denies_accepted(answer: str, accepted: Sequence[Sequence[str]], question: str = "") -> bool:
    """Whether an answer would be right but for a denial, how far which reaches cannot always be told."""
    if correct(answer, accepted, question):
        return False
    plain = _read(answer)
    return all(any(_states(answer, plain, way) for way in ways) for ways in accepted)


def _states(answer: str, told: tuple[Token, ...], way: str) -> bool:
    part = _read(way)
    if (asked := _polarity_word(part)) is not None:
        return polarity(answer) == asked
    kept = tuple(token for token in part if token.text not in _ARTICLES)
    if kept:  # of articles alone where it is blood type A
        told = tuple(token for token in told if token.text not in _ARTICLES)
    cased = any(c.isupper() for c in answer if c.isalpha()) and not answer.isupper()
    return _contains(told, kept or part, cased)


def _contains(told: Sequence[Token], part: Sequence[Token], cased: bool) -> bool:
    """Whether `part` stands in `told` in one piece; what only names the measure may be left out at its end."""
    if _found(told, part, cased) is not None:
        return True
    if len(part) > 2 and part[-1].text in _MEASURED and part[-2].unit and part[-3].kind == "number":
        at = _found(told, part[:-1], cased)
        return at is not None and not (at < len(told) and told[at].text in _MEASURED)
    return False


def _found(told: Sequence[Token], part: Sequence[Token], cased: bool) -> int | None:
    """Where the first occurrence of `part` ends, None without one."""
    size = len(part)
    for at in range(len(told) - size + 1) if size else ():
        if all(_meets(told[at + i], part[i], cased) for i in range(size)):
            return at + size
    return None


def _meets(said: Token, asked: Token, cased: bool) -> bool:
    if meets(said, asked, cased):
        return True
    if said.denied or said.kind != "word" or asked.kind != "word" or said.text.isascii():
        return False
    return not {asked.text, without_article(asked.text)}.isdisjoint(stems(said.text))


def polarity(answer: str) -> bool | None:
    """Whether an answer says yes, by its first word or by `the answer is yes`; None where it does not say."""
    tokens = [token for token in read(answer) if token.text not in {'"', "'", "*", "(", "-"}]
    words = [token.text for token in tokens if token.kind != "stop"]
    if "".join(words) in _YES | _NO:
        return "".join(words) in _YES
    if len(words) > 2 and words[1:2] in (["and"], ["or"]):
        return None  # yes and no
    for first in (1, 2, 3):  # in a script without spaces a word is some tokens
        head, after = "".join(token.text for token in tokens[:first]), tokens[first] if len(tokens) > first else None
        if head in _YES | _NO and after is not None:
            ends = after.kind == "stop" or after.text in _SUBJECTS
            if after.text == "." and tokens[first + 1 : first + 2] and tokens[first + 1].kind == "number":
                return None  # No. 5
            return head in _YES if ends else None
    line = [token.text for token in _first_line(tokens) if token.kind != "stop"]
    for at in range(len(line[:5]) - 1):
        if line[at] in {"is", "answer"} and line[at + 1] in _YES | _NO and len(line) == at + 2:
            return line[at + 1] in _YES
    return None


def _first_line(tokens: Sequence[Token]) -> Sequence[Token]:
    ends = (at for at, token in enumerate(tokens) if token.text == "\n")
    return tokens[: next(ends, len(tokens))]


def _polarity_word(part: Sequence[Token]) -> bool | None:
    text = "".join(token.text for token in part)
    return True if text in _YES else False if text in _NO else None


def ambiguous(question: str, accepted: Sequence[Sequence[str]]) -> str:
    """Why a label by accepted answers says little here ("": it does not): what is weakest of all parts.

    `yes or no`: one word decides, and a sentence may say it otherwise.  `in the question`: naming it is no answer yet.
    `very short`: a letter or digit or two, which stand in many an answer.
    """
    ways = [way for part in accepted for way in part]
    if any(_polarity_word(_read(way)) is not None for way in ways):
        return "yes or no"
    asked = _read(question)
    if any(_contains(asked, tuple(t for t in _read(way) if t.text not in _ARTICLES), cased=True) for way in ways):
        return "in the question"
    return "very short" if any(sum(map(str.isalnum, way)) <= _shortest(way) for way in ways) else ""


def _shortest(way: str) -> int:
    return 2 if way.isascii() else 1  # one sign of Chinese writing is a word


@lru_cache(maxsize=512)
def _read(text: str) -> tuple[Token, ...]:
    return tuple(token for token in read(text) if token.kind != "stop")


@lru_cache(maxsize=512)
def _asserted(text: str) -> tuple[Token, ...]:
    return tuple(_marked(text))


def _marked(text: str) -> Iterator[Token]:
    tokens = read(text)
    for token, no in zip(tokens, denied(tokens), strict=True):
        if token.kind != "stop":
            yield token._replace(denied=True) if no else token


@lru_cache(maxsize=512)
def _denies(text: str) -> bool:
    return any(denied(read(text)))
