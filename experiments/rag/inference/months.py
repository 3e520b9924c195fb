"""Dates in text: which ways of writing one are read, and as what year, month and day."""

from __future__ import annotations

from collections.abc import Mapping

import regex

# English, German, French, Spanish, Italian, Portuguese, without accents; sure only beside a day or a year.
_NAMES = {
    name: number
    for names in (
        "january february march april may june july august september october november december",
        "jan feb mar apr may jun jul aug sep oct nov dec",
        "januar februar marz april mai juni juli august september oktober november dezember",
        "janvier fevrier mars avril mai juin juillet aout septembre octobre novembre decembre",
        "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
        "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre",
        "janeiro fevereiro marco abril maio junho julho agosto setembro outubro novembro dezembro",
    )
    for number, name in enumerate(names.split(), 1)
} | {"sept": 9}
_MONTH = "|".join(sorted(_NAMES, key=len, reverse=True))
_NTH = r"(?i:st|nd|rd|th|er|\.|\N{MASCULINE ORDINAL INDICATOR})?"
_OF = r"(?i:(?:of|de|del) )?"
_YEAR = r"\d{4}(?![\p{L}\d])"
DATE = (
    r"(?<![\w.])(?:(?<iso_y>\d{4})(?<sep>[-/.])(?<iso_m>\d{1,2})(?P=sep)(?<iso_d>\d{1,2})(?![\w])"
    r"|(?<num_a>\d{1,2})(?<mark>[/.-])(?<num_b>\d{1,2})(?P=mark)(?<num_y>\d{4})(?!\w)"
    rf"|(?<d1>\d{{1,2}}){_NTH} ?{_OF}(?i:(?<m1>{_MONTH}))(?!\w)(?:\.?,? {_OF}(?<y1>{_YEAR}))?"
    rf"|(?i:(?<m2>{_MONTH}))(?!\w)\.? (?:the )?(?<d2>\d{{1,2}})(?i:st|nd|rd|th)?(?![\w:.,]*\d)(?! ?[%\p{{Sc}}])"
    rf"(?:,? (?<y2>{_YEAR}))?"
    rf"|(?i:(?<m2y>{_MONTH}))\.? (?<d2y>\d{{1,2}})(?i:st|nd|rd|th)?, ?(?<y2y>{_YEAR})"
    rf"|(?i:(?<m3>{_MONTH}))(?!\w)\.?,? {_OF}(?<y3>{_YEAR}))"
    "|(?<!\\d)(?<east_y>\\d{4}) ?[\u5e74\ub144](?: ?(?<east_m>\\d{1,2}) ?[\u6708\uc6d4]"
    "(?: ?(?<east_d>\\d{1,2}) ?[\u65e5\uc77c\u53f7])?)?"
    "|(?<!\\d)(?<east_m2>\\d{1,2}) ?[\u6708\uc6d4] ?(?<east_d2>\\d{1,2}) ?[\u65e5\uc77c\u53f7]"
)
_PARTS = (
    ("iso_y", "iso_m", "iso_d"), ("y1", "m1", "d1"), ("y2", "m2", "d2"), ("y2y", "m2y", "d2y"), ("y3", "m3", None),
    ("east_y", "east_m", "east_d"), (None, "east_m2", "east_d2"),
)  # fmt: skip
Date = tuple[int | None, int | None, int | None]


def number(name: str) -> int | None:
    """The month of a name, 1 to 12; None where it is none."""
    return _NAMES.get(name)


def date(match: regex.Match[str]) -> Date | None:
    """Year, month and day of a match of DATE (None: not said); None where there is no such day."""
    if match["num_y"]:
        first, second, year = int(match["num_a"]), int(match["num_b"]), int(match["num_y"])
        if first > 12 or match["mark"] == ".":
            return _valid((year, second, first))
        if second > 12 or first == second:
            return _valid((year, first, second))
        return (year, None, None)  # day and month in either order
    said: Mapping[str, str | None] = match.groupdict()
    for names in _PARTS:
        parts = [said[name] if name else None for name in names]
        if any(part is not None for part in parts):
            said_year, month, day = parts
            named = None if month is None else int(month) if month.isdecimal() else _NAMES[month.casefold()]
            return _valid((int(said_year) if said_year else None, named, int(day) if day else None))
    return None


def _valid(found: Date) -> Date | None:
    _, month, day = found
    valid = (month is None or 1 <= month <= 12) and (day is None or 1 <= day <= 31)
    return found if valid else None
