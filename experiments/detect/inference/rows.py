"""A row of input, checked: what its columns may hold, and what is wrong with one that cannot be used."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo
from pydantic_core import PydanticCustomError


class Strict(BaseModel):
    """A row of input whose values must have their type already."""

    model_config = ConfigDict(strict=True)


def _as_labels(labels: object, info: ValidationInfo) -> tuple[object, ...]:
    if isinstance(labels, int | float) and labels in (0, 1):
        return ((0, len(info.data.get("response", "")), None),) if labels else ()
    marked = [_as_label(label) for label in labels] if isinstance(labels, list) else [None]
    if None in marked:
        raise PydanticCustomError("labels", 'should be 0, 1 or a list of spans, [start, end] or {"start": …, "end": …}')
    return tuple(marked)


def _as_label(label: object) -> tuple[object, ...] | None:
    text = label.get("text") if isinstance(label, dict) else None
    ends = [label.get("start"), label.get("end")] if isinstance(label, dict) else label
    return (*ends, text) if isinstance(ends, list) and len(ends) == 2 and None not in ends else None


Id = Annotated[str, Field(min_length=1), BeforeValidator(lambda value: str(value) if type(value) is int else value)]
Label = tuple[int, int, str | None]  # characters [start, end) of a response, and what is said to stand there
_Labels = Annotated[tuple[Label, ...], BeforeValidator(_as_labels)]


class Own(Strict):
    """A response of one's own data; without `labels`, or with null there, nothing is known of it."""

    id: Id
    prompt: str
    response: str
    labels: _Labels | None = None  # after `response`, whose length a label of 1 needs
    group: Id | None = None
    task: str | None = None
    split: str | None = None


class Response(Strict):
    """A response of RAGTruth."""

    id: Id
    source_id: Id
    model: str
    response: str
    labels: _Labels | None = None
    split: str
    quality: str


class Source(Strict):
    """What a prompt of RAGTruth is made of."""

    source_id: Id
    task_type: str
    prompt: str


def first_fault(error: ValidationError) -> str:
    """Return one line on the fault to mend first."""
    fault = error.errors(include_url=False)[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"]).lstrip(".")
    if fault["type"] == "missing":
        return f"column {place!r} is missing"
    if fault["type"] == "json_invalid":
        return f"not JSON ({fault['ctx']['error']})"
    got = repr(fault["input"])
    said = fault["msg"].replace("Input should", "should")
    return f"{repr(place) if place else 'this'} {said}, got {got if len(got) <= 60 else got[:60] + '…'}"


def misspelt(names: Collection[str], model: type[BaseModel]) -> str:
    """Return one line on a column that is not known and is near to one that the row lacks; empty: there is none."""
    absent = [name for name in model.model_fields if name not in names]
    for name in names:
        if name not in model.model_fields and (near := difflib.get_close_matches(name, absent, n=1)):
            return f"unknown column {name!r}; did you mean {near[0]}?"
    return ""


def label_fault(response: str, label: Label) -> str:
    """Return one line on a label that is not where it says, with the characters where its text is; empty: it is."""
    start, end, text = label
    inside = 0 <= start < end <= len(response)
    if inside and (text is None or response[start:end] == text):
        return ""
    stands = f"marks {_short(response[start:end])}" if inside else "is outside its response or empty"
    if text is None:
        return f"label [{start}, {end}] {stands}; allowed: 0 <= start < end <= {len(response)}"
    return f"label [{start}, {end}] {stands}, and its text is {_short(text)}; {_where(response, start, end, text)}"


def _where(response: str, start: int, end: int, text: str) -> str:
    """The characters at which the text of a label stands, where that can be told."""
    for encoding, width, unit in (("utf-16-le", 2, "UTF-16 code units"), ("utf-8", 1, "bytes of UTF-8")):
        whole = response.encode(encoding)
        if 0 <= start < end and whole[width * start : width * end] == text.encode(encoding):
            first = len(whole[: width * start].decode(encoding))
            return f"the offsets count {unit}, in characters they are [{first}, {first + len(text)}]"
    if text and response.count(text) == 1:
        return f"that stands at [{response.index(text)}, {response.index(text) + len(text)}]"
    times = response.count(text) if text else 0
    return f"that stands {times} times in the response; allowed: its place in characters, end excluded"


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")
