"""What a detector reads from answers, and what it has to read them with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.models.endpoint import Tally
    from experiments.rag.inference.params import RagInfer
    from experiments.rag.inference.retrieve import Embed

# What a detector has read from an answer, its columns beginning with the detector's name; or why it could not.
# A column that is missing (NaN) beside others has its reason in `error_` and its name; `…_cut` counts what was cut.
Readings = dict[str, Any] | str


@dataclass(frozen=True)
class Answer:
    """An answer that says something, with the passages that were there to answer from."""

    question: str
    text: str
    passages: tuple[str, ...]


@dataclass(frozen=True)
class Setup:
    """What there is to read with; `alone` where no model that answers works in this process as well."""

    params: RagInfer
    device: str
    embed: Embed | None
    tally: Tally
    alone: bool


Read = Callable[[Sequence[Answer]], Sequence[Readings]]
Load = Callable[[Setup], Read | None]  # None: there is nothing to read with under these settings
