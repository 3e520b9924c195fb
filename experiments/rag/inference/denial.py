"""What a text denies: `X, not Y`, `Y rather than X`, `X is not so`; by words that deny, and how far they reach."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.rag.inference.tokens import Token

# Each denies what follows it, up to the end of its clause.  A tuple is words in a row.
_DENIES = frozenset(
    tuple(words.split())
    for words in (
        "not", "cannot", "never", "neither", "nor", "no longer", "rather than", "instead of", "as opposed to", "unlike",
        "contrary to", "n ' est pas", "n ' etait pas", "non pas", "plutot que", "au lieu de", "nicht", "kein", "keine",
        "statt", "no es", "no era", "no fue", "no esta", "en lugar de", "en vez de", "sino que no", "non e", "nao e",
        "nao era", "не", "не в", "不 是", "并 非", "並 非", "而 非", "不 在", "नहीं बल्कि",
        "ليس", "ليست", "وليس", "وليست", "לא", "ไ ม่ ใ ช่",
        "khong phai", "bukan", "degil",
    )
)  # fmt: skip
# Each denies what precedes it, back to the clause's begin.
_DENIED = frozenset(
    tuple(words.split())
    for words in (
        "で は な く",
        "で は な い",
        "じ ゃ な く",
        "で は あ り ま せ ん",
        "아니라",
        "아닙니다",
        "아니다",
        "नहीं",
        "degil",
    )
)
_ASSERTS = frozenset("only just merely simply solely until till before necessarily".split())  # `not only X` says X
_AUXILIARY = frozenset("is are was were did does do has have had will would can could".split())
_ENDS = frozenset(
    "but because since although though whereas while when after if until unless except however sondern aber mais sino"
    " pero ma mas weil но \u0430 而".split()  # \u0430: Russian for but
)
_MARKS = frozenset(".,;:!?()[]\u2014\u2013\u3002\uff0c\u3001\uff1b\uff01\uff1f\u060c\u0964\u061b\u061f\n")
_LONGEST = max(len(words) for words in _DENIES | _DENIED)
_FIRST = frozenset(words[0] for words in _DENIES | _DENIED) | {"'"}
_RELATIVE = frozenset({"who", "which", "that", "whose", "whom"})
_TELLING = _FIRST | _MARKS | _ENDS | _AUXILIARY


def denied(tokens: Sequence[Token]) -> list[bool]:
    """Of each token, whether it is said not to be so; linear in their number."""
    texts = [token.text for token in tokens]
    found = [False] * len(texts)
    begin, reach, relative = 0, False, False
    at, pronoun = 0, -1  # where the last relative pronoun stands
    while at < len(texts):
        pronoun = at if texts[at] in _RELATIVE else pronoun
        if texts[at] not in _TELLING:
            found[at] = reach
            at += 1
            continue
        size = _denial(texts, at)
        if not size and (texts[at] in _MARKS or texts[at] in _ENDS):
            begin, reach = at + 1, False
            at += 1
            continue
        if reach and relative and texts[at] in _AUXILIARY:
            begin, reach = at, False  # who was not drafted | is Kurt Warner
        if size:
            following = texts[at + size] if at + size < len(texts) else ""
            reach, relative = following not in _ASSERTS, pronoun >= begin
            if reach and _has_subject(texts, begin, at):
                found[begin:at] = [True] * (at - begin)
                begin = at
            at += size
            continue
        if any(tuple(texts[at : at + n]) in _DENIED for n in range(1, _LONGEST + 1)):
            found[begin:at] = [True] * (at - begin)
            begin = at
        found[at] = reach
        at += 1
    return found


def _denial(texts: Sequence[str], at: int) -> int:
    """How many tokens here deny what follows; 0: none."""
    if texts[at] == "'" and texts[at + 1 : at + 2] == ["t"] and at and texts[at - 1].endswith("n"):
        return 2
    return next((n for n in range(_LONGEST, 0, -1) if tuple(texts[at : at + n]) in _DENIES), 0)


def _has_subject(texts: Sequence[str], begin: int, at: int) -> bool:
    """Whether a denial has what it says nothing of before it: a clause `X is not`, but for its auxiliary."""
    if texts[at] == "'":
        verb = texts[at - 1][:-1]  # the n of isn't
        return at - 1 > begin and (verb in _AUXILIARY or verb in {"ca", "wo"})
    return texts[at] in {"not", "never"} and at - 1 > begin and texts[at - 1] in _AUXILIARY
