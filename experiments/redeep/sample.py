"""A response as ReDeEP is given it: no model is needed to have one."""

from __future__ import annotations

from dataclasses import dataclass

Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Sample:
    """One response to one prompt; `spans` are its hallucinated characters [start, end), sorted and distinct.

    A label of 1 for the response as a whole is one span over all of it, and None says that nothing is known.  Folds
    must keep a `group` together.
    """

    id: str
    prompt: str
    response: str
    spans: Spans | None
    group: str
    task: str | None = None
    split: str | None = None
    generator: str | None = None
