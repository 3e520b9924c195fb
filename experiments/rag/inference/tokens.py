"""A text as values that can be compared: words, numbers, dates; each read the same however it is spelt."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple

import regex

from experiments.rag.inference import months, numerals
from experiments.rag.inference.scripts import UNSPACED, clusters, fold_marks

_LONGEST = 24  # digits of what is read as a number; anything longer is compared as it is written
_DIGITS = (
    r"(?<grouped>\d{1,3}(?:,\d{2})*(?:,\d{3})+(?:\.\d+)?(?!\d|,\d))"  # 1,000.5, and 12,00,000
    r"|(?<dotted>\d{1,3}(?:\.\d{3}){2,}(?:,\d+)?(?!\d))"  # 1.000.000,5
    r"|(?<spaced>\d{1,3}(?: \d{3}){2,}(?!\d))"
    r"|(?<comma>\d+,\d{1,2})(?=\s?(?:%|km|kg|cm|mm|m|g|\p{Sc}|million|billion|prozent|percent)(?!\w))"
    r"|(?<plain>\d++(?:\.\d++)?+)"
)
_SIGN = r"(?<![^\s(\p{Sc}])[-+]"  # before a number, and between nothing: 1990-2000 holds none
_UNITS = r"km|kg|cm|mm|ml|mph|kph|lb|lbs|ft|hz|khz|mhz|ghz|kb|mb|gb|tb|kw|mw|gw|am|pm|bn|mn|min|hrs?|yrs?|[kmglvw]"
_TOKEN = regex.compile(
    rf"(?<date>{months.DATE})"
    r"|(?<clock>(?<![\d:])\d{1,2}:\d\d(?::\d\d)?(?!\d))"
    r"|(?<ratio>(?<![\d/])\d{1,4}[/\u2044]\d{1,4}(?![\d/]))"
    rf"|(?<number>(?<![\p{{L}}\d_])(?:{_SIGN})?(?:{_DIGITS})(?:(?<ordinal>(?i:st|nd|rd|th))(?!\w)"
    rf"|(?![\p{{L}}_--[{UNSPACED}\p{{Hangul}}]])|(?=(?i:{_UNITS})(?!\w))))"
    r"|(?<dots>(?<![\p{L}\d.])(?:\p{L}\.\s?){2,8}(?:\p{L}(?![\p{L}\d.]))?|(?<![\p{L}\d.])\p{Lu}\p{Ll}\.\p{Lu}\.?(?!\w))"
    rf"|(?<katakana>[\p{{Katakana}}\u30fc]+)|(?<run>[[{UNSPACED}]\p{{M}}]+)"
    rf"|(?<word>[\p{{L}}\p{{N}}--[{UNSPACED}]][[\p{{L}}\p{{N}}\p{{M}}]--[{UNSPACED}]]*"
    r"(?:(?:\+\+|[+#\u266f\u266d])(?!\w)|(?<=(?<!\w)(?:[A-F]|AB|O))-(?![\w-]))?)"
    r"|(?<symbol>[\p{Sc}%\u2030&\u00b0])|(?<stop>\n|[^\s\p{L}\p{N}])",
    regex.V1,
)
# Symbols stand for a word; currencies are named by Unicode (EURO SIGN).
_NAMED = {"%": "percent", "\u2030": "permille", "&": "and", "\u00b0": "degree"}
_UNIT_NAMES = {
    name: short
    for short, names in {
        "percent": "pct prozent percentage", "km": "kilometer kilometre", "m": "meter metre",
        "cm": "centimeter centimetre", "mm": "millimeter millimetre", "kg": "kilogram kilogramme kilo",
        "g": "gram gramme", "mile": "mi", "foot": "ft feet", "inch": "inches", "pound": "lb gbp", "dollar": "usd",
        "euro": "eur", "yen": "jpy", "rupee": "inr", "degree": "deg", "hour": "hr h", "minute": "min",
        "second": "sec", "year": "yr", "liter": "litre l", "celsius": "c", "fahrenheit": "f", "century": "centuries",
        "kb": "kilobyte", "mb": "megabyte", "gb": "gigabyte", "tb": "terabyte", "hz": "hertz",
    }.items()
    for name in (short, *names.split())
}  # fmt: skip
_CODES = frozenset("usd eur gbp jpy inr chf aud cad cny".split())  # of currencies, which may stand before an amount
_GROUPED = regex.compile(r"(?<=\d)[\u00a0\u202f\u2009'\u2019](?=\d{3}(?!\d))")
_FRACTION = regex.compile(r"(?<=\d)(?=[\u00bc-\u00be\u2150-\u215e])")  # 2\u00bd is not 21/2
_MINUS = regex.compile(r"(?<![\p{L}\p{N}\s])\s*\b(?i:minus|negative) (?=\d)|(?<=[\p{L}] )(?i:minus|negative) (?=\d)")
_ROMAN = regex.compile(r"(?=[IVX]{2})X{0,3}(?:IX|IV|V?I{0,3})")
_LETTERS = regex.compile(r"\p{L}+")
_FUNCTION = frozenset("us who it am me we or in is as so at an no do on he".split())  # acronyms too, in capitals


class Token(NamedTuple):
    """A word (`text`, folded), a number (`value`) or a date (year, month, day; None: not said), or a mark between."""

    kind: str  # word, number, date, stop
    text: str
    value: Decimal | None = None
    date: tuple[int | None, int | None, int | None] | None = None
    caps: bool = False  # written as an acronym is
    unit: str = ""  # the name of what is counted, when it follows a number
    order: bool | None = None  # True: an ordinal; False: a cardinal in words; None: digits, which may be either
    dotted: bool = False  # capitals with a dot each
    denied: bool = False  # said not to be so


@lru_cache(maxsize=512)  # texts may be long
def read(text: str) -> tuple[Token, ...]:
    """The tokens of a text, in order; time and memory are linear in its length."""
    joined = _MINUS.sub("-", _GROUPED.sub("", _FRACTION.sub(" ", text)))
    plain = fold_marks(joined).replace("\u2019", "'")
    found: list[Token] = []
    for match in _TOKEN.finditer(plain):
        found += _token(match, found)
    return tuple(_with_units(_amounts(_spoken_dates(numerals.combined(found, _number)))))


def _token(match: regex.Match[str], before: Sequence[Token]) -> Iterator[Token]:
    text = match[0]
    if match["date"] is not None:
        if date := months.date(match):
            yield Token("date", text.casefold(), date=date)
        else:
            yield Token("word", text.casefold())
    elif match["number"] is not None:
        yield _digits(match)
    elif match["clock"] is not None and regex.fullmatch(r"\d{1,2}:00", text):
        yield _number(Decimal(text.partition(":")[0]), None)  # 10:00 pm is 10 pm
    elif match["dots"] is not None:
        letters = _LETTERS.findall(text)
        yield Token("word", "".join(letters).casefold(), caps=text.isupper(), dotted=text.isupper())
    elif match["ratio"] is not None:
        over, under = map(Decimal, regex.split("[/\u2044]", text))
        yield Token("word", text.replace("\u2044", "/"), over / under if under else None)
    elif match["run"] is not None:
        yield from (Token("word", each) for each in clusters(text))
    elif match["word"] is not None:
        folded = text.casefold().replace("\u266f", "#")
        roman = _roman(text) if _is_roman(text, match.string[: match.start()], before) else None
        caps = text.isupper() and len(text) > 1
        yield Token("word", folded, roman, caps=caps, unit=folded if caps and folded in _CODES else "")
    elif match["symbol"] is not None:
        yield Token("word", _symbol(text), unit=_symbol(text) if unicodedata.category(text) == "Sc" else "")
    else:
        yield Token("stop" if match["stop"] is not None else "word", text.casefold())


def _number(value: Decimal, order: bool | None) -> Token:
    return Token("number", str(value), value, order=order)


def _digits(match: regex.Match[str]) -> Token:
    text = match[0]
    if len(text) > _LONGEST:
        return Token("word", text)
    written = match["plain"] or match["comma"] or match["grouped"] or match["dotted"] or match["spaced"]
    if match["comma"] or match["dotted"]:
        written = written.replace(".", "").replace(",", ".")
    value = Decimal(written.replace(",", "").replace(" ", ""))
    return Token("number", text, -value if text[0] == "-" else value, order=True if match["ordinal"] else None)


def _is_roman(text: str, ahead: str, before: Sequence[Token]) -> bool:
    """Whether letters count something that is named before them; `I` only where it is surely no pronoun."""
    if not before or before[-1].kind != "word":
        return False
    if text in {"I", "V", "X"}:
        named = ahead.split()[-1][:1].isupper()
        return named and (
            text != "I" or (len(before) > 1 and before[-2].kind == "word" and ahead.split()[-2][:1].isupper())
        )
    return _ROMAN.fullmatch(text) is not None


def _roman(text: str) -> Decimal | None:
    values = [{"I": 1, "V": 5, "X": 10}[c] for c in text]
    pairs = zip(values, [*values[1:], 0], strict=True)
    return Decimal(sum(-each if each < following else each for each, following in pairs))


def _symbol(text: str) -> str:
    return _NAMED.get(text) or unicodedata.name(text, text).removesuffix(" SIGN").split()[-1].casefold()


def _spoken_dates(tokens: Sequence[Token]) -> Iterator[Token]:
    """`the Fourth of July 1776` and `July fourth` as dates."""
    at = 0
    while at < len(tokens):
        end = at + (3 if at + 2 < len(tokens) and tokens[at + 1].text == "of" else 2)
        pair = (tokens[at], tokens[end - 1]) if end <= len(tokens) else (tokens[at], tokens[at])
        day, month = pair if pair[0].order else pair[::-1]
        name = months.number(month.text)
        if name and day.order and day.value is not None and 1 <= day.value <= 31:
            year = tokens[end].value if end < len(tokens) and tokens[end].kind == "number" else None
            known = int(year) if year is not None and 1000 <= year < 3000 else None
            yield Token("date", "", date=(known, name, int(day.value)))
            at = end + (known is not None)
        else:
            yield tokens[at]
            at += 1


def _amounts(tokens: Iterable[Token]) -> list[Token]:
    """The sign of a currency behind its amount, as it is spoken: `$5 million` is 5000000 dollar."""
    found = list(tokens)
    for at in range(len(found) - 1):
        first, second = found[at], found[at + 1]
        if first.unit and second.kind == "number" and not (at and found[at - 1].kind == "number"):
            found[at], found[at + 1] = second, first
    return found


def _with_units(tokens: Sequence[Token]) -> Iterator[Token]:
    """Name what is counted: `5 km` is 5 kilometres, `5%` 5 per cent."""
    counted = False
    skip = False
    for at, token in enumerate(tokens):
        if skip:
            skip = False
            continue
        if counted and token.text == "per" and at + 1 < len(tokens) and tokens[at + 1].text == "cent":
            skip = True
            token = token._replace(text="percent")
        if counted and token.kind == "word":
            name = token.text[:-1] if len(token.text) > 2 and token.text.endswith("s") else token.text
            token = token._replace(unit=_UNIT_NAMES.get(token.text) or _UNIT_NAMES.get(name, name))
        yield token
        if token.kind != "stop" or token.text != "-":
            counted = token.kind == "number" or (counted and token.unit == "degree")


def meets(said: Token, asked: Token, cased: bool = True) -> bool:
    """Whether what is said entails what is asked: the same, or finer, as a day is finer than its year."""
    if said.denied or said.kind == "stop":
        return False
    if asked.kind == "date" or said.kind == "date":
        return _same_date(said, asked)
    if asked.value is not None and said.value is not None:
        return asked.value == said.value and not {asked.order, said.order} >= {True, False}
    if "number" in (asked.kind, said.kind):
        return False
    if cased and asked.caps and not said.caps and (asked.dotted or asked.text in _FUNCTION):
        return False
    return said.text == asked.text or (said.unit != "" and said.unit == asked.unit)


def _same_date(said: Token, asked: Token) -> bool:
    if said.date is None:
        return False  # a year, or a word, is no date
    if asked.date is None:
        year = asked.value if asked.kind == "number" and asked.order is None else None
        if year is not None:
            return said.date[0] is not None and year == said.date[0]
        return asked.kind == "word" and months.number(asked.text) is not None and months.number(
            asked.text
        ) == said.date[1]  # fmt: skip
    if None in asked.date[1:] and asked.text[:1].isdigit() and "/" in asked.text:  # order of day and month not known
        return said.text == asked.text
    return all(part is None or part == other for part, other in zip(asked.date, said.date, strict=True))
