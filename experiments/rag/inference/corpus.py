"""What texts come to before anything is asked of them, their lemmas and embeddings: made once, kept by content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.models import files
from experiments.rag.inference import embedding, lemmas
from experiments.rag.inference.embedding import Embed, Vectors
from experiments.rag.inference.lemmas import Lemmas
from harness.running import cache


@dataclass(frozen=True)
class Kept:
    """Lemmas and embeddings in the cache folder; `where` is what computes embeddings, `damaged` are files made anew."""

    where: str = "cpu"
    damaged: list[str] = field(default_factory=list)

    def lemmas(self, texts: Sequence[str]) -> Lemmas:
        """The lemmas of texts, made once."""
        return cache.arrays(
            "lemmas",
            _digest(texts),
            [lemmas.__name__],
            lambda: Lemmas.of(texts).arrays(),
            lambda arrays: Lemmas.read(arrays, len(texts)),
            self.damaged,
        )

    def embeddings(self, texts: Sequence[str], embed: Embed, encoder: str | None) -> Vectors:
        """The embeddings of texts by an encoder, made once; anew each time by one that has no name."""
        if encoder is None:
            return embed(texts)

        def read(arrays: Mapping[str, NDArray[Any]]) -> Vectors:
            vectors = np.asarray(arrays["vectors"], dtype=np.float32)
            if vectors.ndim != 2 or len(vectors) != len(texts):
                raise ValueError("these arrays are no embeddings of these texts")
            return vectors

        content = f"{_digest(texts)} {files.digest_sentence_encoder('encoder', encoder)} {self.where}"
        made_by = [embedding.__name__]
        return cache.arrays("embeddings", content, made_by, lambda: {"vectors": embed(texts)}, read, self.damaged)


def _digest(texts: Sequence[str]) -> str:
    total = hashlib.sha256()
    for text in texts:
        content = text.encode("utf-8", "surrogatepass")
        total.update(len(content).to_bytes(8, "big") + content)
    return total.hexdigest()
