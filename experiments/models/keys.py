"""The API key of an endpoint: read from the environment, sent in one header, and cut out of whatever is said."""

from __future__ import annotations

import json
import os

from harness.stage import BadInput, one_line

_KEYS = ("RIGSWEEP_API_KEY", "OPENAI_API_KEY")


def api_key() -> str:
    """The key of the environment; endpoints at home need none.  BadInput where no header can hold it."""
    for name in _KEYS:
        if key := os.environ.get(name, "").strip():
            if not (key.isascii() and key.isprintable()):
                raise BadInput(f"{name}: holds characters that a header cannot; printable ASCII is allowed")
            return key
    return "none"


def masked(text: str) -> str:
    """A text without any key, written as it is, escaped, or as it stands in JSON."""
    found = [os.environ.get(name, "") for name in _KEYS]
    found += [key.strip() for key in found]
    forms = {form for key in found for form in (key, repr(key)[1:-1], json.dumps(key)[1:-1])}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, "***") if len(form) > 4 else text
    return text


def told(error: BaseException | str) -> str:
    """An error or a text on one line, bounded and without a key."""
    text = one_line(error) or type(error).__name__
    return masked(text)[:300]
