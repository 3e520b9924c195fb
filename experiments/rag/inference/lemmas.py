"""Texts as the lemmas that they are compared by, as plain arrays."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.arrays import Ints
from experiments.rag.inference.text import content_words
from harness.progress import counted

_LINE = "\n"  # between the words of a vocabulary, which hold none


@dataclass(frozen=True)
class Lemmas:
    """The lemmas of texts as numbers in a vocabulary: those of all texts behind each other, and where each text ends.

    A sequence of lists, each made when it is asked for.
    """

    ids: NDArray[np.int32]
    ends: Ints
    vocabulary: list[str]

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, i: int) -> list[int]:
        """The lemmas of a text, by number."""
        found: list[int] = self.ids[(self.ends[i - 1] if i else 0) : self.ends[i]].tolist()
        return found

    def __iter__(self) -> Iterator[list[int]]:
        return (self[i] for i in range(len(self)))

    def numbered(self) -> dict[str, int]:
        """Every lemma's number."""
        return {word: i for i, word in enumerate(self.vocabulary)}

    @classmethod
    def of(cls, texts: Sequence[str]) -> Lemmas:
        """Lemmatise texts."""
        ids, ends, vocabulary = array("i"), array("q"), dict[str, int]()
        for text in counted(texts, "lemmatise", "texts"):
            ids.extend(vocabulary.setdefault(word, len(vocabulary)) for word in content_words(text))
            ends.append(len(ids))
        return cls(np.array(ids, dtype=np.int32), np.array(ends, dtype=np.int64), list(vocabulary))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """As plain arrays."""
        words = _LINE.join(self.vocabulary).encode("utf-8", "surrogatepass")
        return {"ids": self.ids, "ends": self.ends, "vocabulary": np.frombuffer(words, dtype=np.uint8)}

    @classmethod
    def read(cls, arrays: Mapping[str, NDArray[Any]], texts: int) -> Lemmas:
        """Of plain arrays; ValueError or KeyError where they are not those of so many texts."""
        ids, ends = np.asarray(arrays["ids"], dtype=np.int32), np.asarray(arrays["ends"], dtype=np.int64)
        words = arrays["vocabulary"].tobytes().decode("utf-8", "surrogatepass")
        vocabulary = words.split(_LINE) if words else []
        rising = len(ends) == texts and bool((np.diff(ends, prepend=0) >= 0).all())
        if (
            not rising
            or len(ids) != (ends[-1] if texts else 0)
            or ids.min(initial=0) < 0
            or ids.max(initial=-1) >= len(vocabulary)
        ):
            raise ValueError("these arrays are no lemmas of these texts")
        return cls(ids, ends, vocabulary)
