"""English numbers in words, and digits with a scale behind them: `two hundred and five`, `3.5 billion`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.rag.inference.tokens import Token

_ONE = Decimal(1)
_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen"
).split()
_ORDINAL_UNITS = (
    "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth"
    " fifteenth sixteenth seventeenth eighteenth nineteenth"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_SCALES = {"hundred": 2, "thousand": 3, "lakh": 5, "million": 6, "crore": 7, "billion": 9, "trillion": 12}
_SMALL = {word: (i, False) for i, word in enumerate(_UNITS)} | {
    word: (i, True) for i, word in enumerate(_ORDINAL_UNITS)
}
_SMALL |= {word: (10 * i, False) for i, word in enumerate(_TENS, 2)}
_SMALL |= {word[:-1] + "ieth": (10 * i, True) for i, word in enumerate(_TENS, 2)}
_POWERS = {word: (power, False) for word, power in _SCALES.items()}
_POWERS |= {f"{word}th": (power, True) for word, power in _SCALES.items()} | {"bn": (9, False), "mn": (6, False)}
_SHORT = {"k": (3, False), "m": (6, False), "b": (9, False)}  # behind an amount of money


def combined(tokens: Sequence[Token], number: Callable[[Decimal, bool | None], Token]) -> list[Token]:
    """Tokens with each number in words as one number, made by `number` (value, whether it is an ordinal)."""
    found: list[Token] = []
    at = 0
    while at < len(tokens):
        value, order, end = _longest(tokens, at)
        if end == at:
            found.append(tokens[at])
            at += 1
        elif end == at + 1 and tokens[at].kind == "number":
            found.append(tokens[at])
            at = end
        else:
            found.append(number(value, order))
            at = end
    return found


def _longest(tokens: Sequence[Token], start: int) -> tuple[Decimal, bool | None, int]:
    """The number that begins here, whether it is an ordinal, and where it ends (`start`: there is none)."""
    total, part, last, end, order = Decimal(0), Decimal(0), 99, start, False
    step, digits = 100, False  # what may be added is below: one after twenty is, ten is not
    at = start
    money = start > 0 and tokens[start - 1].unit != ""
    while at < len(tokens) and not order:
        token = tokens[at]
        if end > start and token.text in ("and", "-") and at + 1 < len(tokens):
            joins = token.text == "-" or (step == 100 and (part or total))
            following = _SMALL.get(tokens[at + 1].text)
            if not joins or following is None or following[0] == 0 or following[0] >= step or digits:
                break
            at, token = at + 1, tokens[at + 1]
        power = _POWERS.get(token.text) or (_SHORT.get(token.text) if money and digits else None)
        if token.kind == "number" and end == start and token.value is not None and token.order is None:
            part, step, digits = token.value, 0, True
        elif token.kind == "word" and (small := _SMALL.get(token.text)) is not None:
            value, order = small
            if end > start and (value == 0 or value >= step):
                order = False
                break
            part += value
            step = 10 if value >= 20 else 0
        elif token.kind == "word" and power is not None and power[0] < last and (power[0] > 2 or part < 100):
            exponent, order = power
            if exponent == 2:
                part, step = (part or _ONE) * 100, 100
            else:
                total, part, step, last = total + (part or _ONE) * Decimal(10) ** exponent, Decimal(0), 1000, exponent
        else:
            break
        at += 1
        end = at
        if step == 1000:
            step = 100
    return total + part, True if order else None if digits else False, end
