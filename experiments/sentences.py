"""Where the sentences of a text stand, in any script, by Unicode's marks and by what is known of abbreviations."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from sentencex import segment

_LINE = re.compile(r"[^\n\r\x85\u2028\u2029]+")
_BLANK = re.compile(r"\s")  # a blank of several bytes behind an initial makes the library panic
_WINDOW = 4096  # characters of a line that are looked at together: the library's time is quadratic in some scripts
# Thai and Lao have no marks but blanks, and a blank after a sign of repetition or abbreviation is none; those of Khmer
# and Tibetan are not among the library's.
_UNMARKED = re.compile(
    r"(?<=[\u0e01-\u0eff])(?<![\u0e2f\u0e46\u0ec6])\s+(?=[\u0e01-\u0eff])|(?<=[\u17d4\u17d5\u0f0d\u0f0e])\s*"
)
_REFERENCE = r"\[\d[\d, \u2013-]*\]"
# What the library takes for one sentence however many it encloses.
_ENCLOSING = re.compile(
    rf"({_REFERENCE})|[\"\u201c-\u201f\u00ab\u00bb\u2039\u203a()\uff08\uff09\[\]{{}}\u3008-\u3011]"
    r"|(?<!\w)['\u2018\u2019]|['\u2018\u2019](?!\w)"
)
_MARKER = re.compile(
    r"[(\[]?(?:\d{1,3}(?:\.\d{1,3})*|[^\W\d_]|x{0,3}(?:ix|iv|v?i{0,3}))[.):\]\u3001\uff0e]+"  # 1. (b) iv)
    r"|(?:[^\W\d_]+\s?\d{1,3}|Q|A)\s?:"  # Step 2:
    r"|[^\w\s]+(?:\s+[^\w\s]+)*",  # bullets, rules
    re.IGNORECASE,
)


def sentence_ranges(text: str) -> list[tuple[int, int]]:
    """Character ranges [start, end) of the sentences of `text`, in order; outside them it is blank.

    A line's end is a sentence's, but what only marks the item of a list, or holds no letter, is part of what follows
    it, or at the end of what precedes it.
    """
    ranges: list[tuple[int, int]] = []
    marker: int | None = None
    end = 0
    for start, end in _pieces(text):
        begun = start if marker is None else marker
        if _MARKER.fullmatch(text[start:end].strip()):
            marker = begun
        else:
            marker = None
            ranges.append((begun, end))
    if marker is not None:
        ranges[-1:] = [(ranges[-1][0] if ranges else marker, end)]
    return ranges


def _pieces(text: str) -> Iterator[tuple[int, int]]:
    """What stands between two boundaries and is not blank; the blanks that a line begins with belong to it."""
    for line in _LINE.finditer(text):
        start = 0
        for end in _boundaries(line[0]):
            piece = line[0][start:end]
            if piece.strip():
                blanks = len(piece) - len(piece.lstrip()) if start else 0
                yield line.start() + start + blanks, line.start() + start + len(piece.rstrip())
                start = end


def _boundaries(line: str) -> list[int]:
    """Where the sentences of a line end, the blanks after them included."""
    plain = _ENCLOSING.sub(lambda mark: mark[1] or " ", line)
    inside = {at for at in _ends(plain) if at < len(line) and not line[at].islower() and not _closed(line[:at])}
    unmarked = {match.end() for match in _UNMARKED.finditer(line)}
    return sorted({_before_opening(line, at) for at in inside.union(_ends(line), unmarked)} | {len(line)})


def _ends(line: str) -> Iterator[int]:
    """Where the library has sentences end."""
    line = _BLANK.sub(" ", line)
    at, window = 0, _WINDOW
    while at < len(line):
        parts = segment("en", line[at : at + window])
        if at + window < len(line):
            if len(parts) == 1:
                window *= 2
                continue
            parts.pop()  # it may go on
        for part in parts:
            at += len(part)
            yield at
        window = _WINDOW


def _closed(before: str) -> bool:
    """Whether a text ends with a closing mark, without a blank: what goes on at once belongs to the same sentence."""
    return unicodedata.category(before[-1]) in ("Pe", "Pf") or before[-1] in "\"'"


def _before_opening(line: str, at: int) -> int:
    """The boundary, but before the marks that open what follows it, and behind what it refers to."""
    if at < len(line) and not line[at - 1].isspace() and (reference := re.compile(_REFERENCE).match(line, at)):
        return reference.end()
    start = at
    while start and at < len(line) and _opens(line, start - 1):
        start -= 1
    return start


def _opens(line: str, at: int) -> bool:
    straight = line[at] in "\"'" and (at == 0 or line[at - 1].isspace())
    return straight or unicodedata.category(line[at]) in ("Ps", "Pi")
