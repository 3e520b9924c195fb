"""Retrieval as it is written down first: scores of questions x passages, sorted whole, and lists of all names."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.arrays import Floats
from experiments.rag.inference.data import Dataset, Question
from experiments.rag.inference.params import TIERS, RagInfer
from experiments.rag.inference.retrieve import Selection
from experiments.rag.inference.text import content_words


def bm25(texts: Sequence[str], queries: Sequence[str], params: RagInfer) -> Floats:
    """BM25 scores (queries, texts), of texts that are lemmatised each time."""
    import bm25s

    index = bm25s.BM25(k1=params.bm25_k1, b=params.bm25_b)
    index.index([content_words(text) for text in texts], show_progress=False)
    return np.array([index.get_scores(content_words(query)) for query in queries], dtype=np.float64)


def orders(dataset: Dataset, scores: Sequence[Floats]) -> dict[str, tuple[str, ...]]:
    """All passages by question, best first, from the scores (questions, passages) of one retriever or of several."""
    names = list(dataset.passages)
    sorted_by = [np.argsort(-np.asarray(each, dtype=np.float64), axis=1, kind="stable") for each in scores]
    order = sorted_by[0]
    if len(sorted_by) > 1:
        total = np.zeros(order.shape)
        for each in sorted_by:
            ranks = np.empty(order.shape)
            np.put_along_axis(ranks, each, np.arange(1.0, order.shape[1] + 1)[None], axis=1)
            total += 1 / (60 + ranks)
        order = np.argsort(-total, axis=1, kind="stable")
    asked = (question.id for question in dataset.questions)
    return {name: tuple(names[i] for i in row) for name, row in zip(asked, order, strict=True)}


def quality(question: Question, order: Sequence[str], k: int) -> Mapping[str, float]:
    """Recall among the first k and the reciprocal rank of the first relevant passage."""
    places = [place for place, name in enumerate(order, 1) if name in question.relevant]
    return {"recall": sum(place <= k for place in places) / len(places), "reciprocal_rank": 1 / places[0]}


def select(question: Question, order: Sequence[str], tier: str, params: RagInfer, seed: int) -> Selection:
    """The k passages of a tier, drawn from lists of all that are relevant and of all that are not."""
    if tier == "retrieved":
        first = tuple(order[: params.k])
        return Selection(tier, None, first, sum(name in question.relevant for name in first))
    rng = random.Random(hashlib.sha256(f"{seed}/{question.id}/{tier}".encode()).digest())
    relevant = [name for name in order if name in question.relevant][: round(TIERS[tier] * params.k + 1e-9)]
    others = [name for name in order if name not in question.relevant]
    missing = params.k - len(relevant)
    drawn = others[:missing] if params.distractors == "hard" else rng.sample(others, min(missing, len(others)))
    chosen = [*relevant, *drawn]
    rng.shuffle(chosen)
    return Selection(tier, TIERS[tier], tuple(chosen), len(relevant))
