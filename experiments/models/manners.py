"""How a request is put where an endpoint refuses a part of it: under another name, or without."""

from __future__ import annotations

import json
import re
from collections.abc import Set
from itertools import chain, combinations
from typing import Any

_RENAMED = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
_DROPPED = ("temperature", "top_p")  # an answer is to be had without, though it may be another one next time

# What is said of a part that is not taken at all; of one that is only too large other words are said.
_UNWELCOME = re.compile(
    r"unsupported|not support|not (?:allowed|permitted)|unrecogni[sz]ed|deprecated"
    r"|(?:unknown|extra|unexpected|invalid) (?:\w+ ){0,2}(?:parameter|argument|field|input|key|name|inputs|fields)"
    r"|only (?:the )?(?:default|\S+ is (?:supported|allowed))"
)


def put(content: bytes, refused: Set[str]) -> bytes:
    """A request without what is refused; the limit on its tokens goes by its other name."""
    if not refused:
        return content
    asked: dict[str, Any] = json.loads(content)
    anew = {_RENAMED.get(name, name) if name in refused else name: value for name, value in asked.items()
            if not (name in refused and name in _DROPPED)}  # fmt: skip
    return json.dumps(anew, sort_keys=True).encode()


def ways(content: bytes) -> list[set[str]]:
    """Every way in which a request may have had to be put otherwise, in which a reply may have been kept."""
    names = [name for name in (*_RENAMED, *_DROPPED) if name in json.loads(content)]
    return [set(some) for some in chain.from_iterable(combinations(names, size) for size in range(1, len(names) + 1))]


def refused(body: bytes, content: bytes) -> set[str]:
    """The part of a request that a reply refuses by its name, where the request can be put otherwise (else none)."""
    asked = json.loads(content)
    named = [name for name in (*_RENAMED, *_DROPPED) if name in asked]
    text = body.decode(errors="replace").lower()
    instead = [name for name in named if name in _RENAMED and re.search(rf"\b{_RENAMED[name]}\b", text)]
    if not _UNWELCOME.search(text) and not instead:
        return set()
    try:
        error = json.loads(body)["error"]
        if error.get("param") in named:
            return {error["param"]}
    except (ValueError, LookupError, TypeError, AttributeError):
        error = None
    found = [(match.start(), name) for name in named if (match := re.search(rf"\b{name}\b", text))]
    return {min(found)[1]} if found else set(instead[:1])
