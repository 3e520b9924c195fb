"""What a detector reads from answers, and what it has to read them with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.models.endpoint import Tally
    from experiments.models.language import LanguageModel
    from experiments.rag.inference.embedding import Embed
    from experiments.rag.inference.params import RagInfer

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
    """What there is to read with; `model` is the one that answers, where it does so in this process.

    A reader tells in `decided`, by setting, what it has made of one that left the choice to the model.
    """

    params: RagInfer
    device: str
    embed: Embed | None
    tally: Tally
    model: LanguageModel | None
    decided: dict[str, str] = field(default_factory=dict)

    @property
    def alone(self) -> bool:
        """Whether no model that answers works in this process as well."""
        return self.model is None


@dataclass(frozen=True)
class Asks:
    """A way to read by requests that may be paid for: it is called for what the data hold, and for nothing else."""

    read: Read

    def __call__(self, answers: Sequence[Answer]) -> Sequence[Readings]:
        """Read answers."""
        return self.read(answers)


MADE_UP = Answer("Where does Ann live?", "Ann lives in Rome.", ("Ann lives in Rome. Rome is old.",))


def warm_up(readers: Iterable[Read]) -> None:
    """Read a made-up answer, so that imports and first calls are behind a reader when it is timed; nothing is kept.

    One that sends requests reads nothing: it imports what it needs.
    """
    for read in readers:
        read([] if isinstance(read, Asks) else [MADE_UP])


Read = Callable[[Sequence[Answer]], Sequence[Readings]]
# None: under these settings there is nothing to read with; a text: there should be, and why it cannot be read with.
Load = Callable[[Setup], Read | str | None]
