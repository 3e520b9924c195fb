"""Sentence embeddings of passages, questions and answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.progress import working
from harness.stage import BadInput, one_line

Vectors = NDArray[np.float32]
Embed = Callable[[Sequence[str]], Vectors]


def sentence_encoder(name: str, device: str) -> Embed:
    """A sentence-transformers model by folder or name; its embeddings (n, d) have length 1: a product is a cosine."""
    try:
        with working(f"load {name}"):
            from sentence_transformers import SentenceTransformer

            model = SentenceTransformer(name, device=device)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise BadInput(f"encoder = {name}: cannot be loaded: {one_line(error)[:200]}") from error

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        found = model.encode(list(texts), batch_size=64, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(found, dtype=np.float32)

    return embed
