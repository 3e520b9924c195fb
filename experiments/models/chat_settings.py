"""What settings may say to chat templates; nothing here loads a model or what one needs."""

from __future__ import annotations

import json
from datetime import date
from typing import Annotated

from pydantic import AfterValidator

# What Llama 3's templates write where they have no clock.
TEMPLATE_DATE = "2024-07-26"


def _iso_date(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise ValueError(f"a date such as {TEMPLATE_DATE}") from None


def _json_object(text: str) -> str:
    """The object in the one form that equal ones share, so that they share a cache key."""
    try:
        options = json.loads(text)
    except ValueError:
        options = None
    if not isinstance(options, dict):
        raise ValueError('a JSON object such as {"enable_thinking": false}')
    return json.dumps(options, sort_keys=True)


IsoDate = Annotated[str, AfterValidator(_iso_date)]
JsonObject = Annotated[str, AfterValidator(_json_object)]
