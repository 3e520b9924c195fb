"""The similarity detector: how near an answer's sentences come to its passages for a sentence encoder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from experiments.rag.inference.embedding import Embed
from experiments.rag.inference.reading import Answer, Read, Readings, Setup
from experiments.rag.inference.text import sentences


def load(setup: Setup) -> Read | None:
    """Read by the sentence encoder, where the settings name one."""
    return partial(read, setup.embed) if setup.embed else None


def read(embed: Embed, answers: Sequence[Answer]) -> list[Readings]:
    """Cosine of each sentence to its nearest passage: minimum and mean over the sentences of an answer."""
    texts = list(dict.fromkeys(text for answer in answers for text in (*sentences(answer.text), *answer.passages)))
    if not texts:
        return []
    vectors = dict(zip(texts, embed(texts), strict=True))
    rows: list[Readings] = []
    for answer in answers:
        best = [
            max(float(vectors[sentence] @ vectors[passage]) for passage in answer.passages)
            for sentence in sentences(answer.text)
        ]
        rows.append({"similarity_min": min(best), "similarity_mean": sum(best) / len(best)})
    return rows
