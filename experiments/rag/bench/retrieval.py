"""What retrieval costs, and how that grows over passages and questions, beside the full matrix."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd

from experiments.rag.bench import full_matrix
from experiments.rag.inference import retrieve
from experiments.rag.inference.corpus import Kept
from experiments.rag.inference.data import Dataset, Question
from experiments.rag.inference.params import RagInfer
from harness.measuring import memory
from harness.progress import working

_SIZES = ((1000, 100), (10_000, 100), (10_000, 1000), (100_000, 100), (100_000, 1000))
_MOST = 10**7  # scores in the full matrix at most: it takes some 30 bytes for each
_WORDS, _IN_PASSAGE, _IN_QUESTION, _RELEVANT = 20_000, 60, 8, 10
_PARAMS = RagInfer.model_validate({})
_TIERS = retrieve.tiers(_PARAMS)
_OTHERS = RagInfer.model_validate({"bm25_k1": 1.2})
_MB = 2**20


def bench(device: str, repeats: int, quick: bool) -> pd.DataFrame:
    """A row for each size and work, lemmas in the cache folder: median seconds of baseline and ours, and their ratio.

    Each is measured in turn and warm; `peak_mb` are MiB beyond what was held before.
    """
    del device
    rows = []
    sizes = _SIZES[: 1 if quick else None]
    with working("bench", len(sizes), "sizes") as advance:
        for passages, questions in sizes:
            dataset = made_up(passages, questions)
            with tempfile.TemporaryDirectory() as scratch, patch.dict(os.environ, RIGSWEEP_CACHE=scratch):
                works = [contexts] if questions > sizes[0][1] else [contexts, another_k1]
                rows += [{"passages": passages, "questions": questions, **work(dataset, repeats)} for work in works]
            advance(1, f"{passages} x {questions}")
    return pd.DataFrame(rows)


def made_up(passages: int, questions: int) -> Dataset:
    """Passages of 60 words of which few are frequent, and questions of 8 words of a passage, with 10 relevant ones."""
    rng = np.random.default_rng(0)
    words = ["".join(random.Random(i).choices("bcdfghjklmnprtvw", k=7)) for i in range(_WORDS)]
    drawn = (rng.random((passages, _IN_PASSAGE)) ** 4 * _WORDS).astype(int)
    texts = {f"p{i}": " ".join(words[word] for word in row) for i, row in enumerate(drawn.tolist())}
    asked = []
    for i in range(questions):
        relevant = [f"p{each}" for each in rng.integers(passages, size=_RELEVANT)]
        said = " ".join(texts[relevant[0]].split()[:_IN_QUESTION])
        asked.append(Question(f"q{i}", said, (), frozenset(relevant)))
    return Dataset(asked, texts)


def contexts(dataset: Dataset, repeats: int) -> dict[str, Any]:
    """What all questions are shown at each tier, and how good retrieval is."""
    texts, asked = list(dataset.passages.values()), [question.text for question in dataset.questions]

    def ours() -> list[Any]:
        found: list[Any] = []
        for question, order in retrieve.rank(dataset, _PARAMS, None, Kept()):
            found.append((order.ranking(_PARAMS.k).recall, order.ranking(_PARAMS.k).reciprocal_rank))
            found += [retrieve.select(question, order, tier, _PARAMS, 0) for tier in _TIERS]
        return found

    def matrix() -> list[Any]:
        kept = Kept()
        by_question = retrieve.bm25(kept.lemmas(texts), kept.lemmas(asked), _PARAMS.bm25_k1, _PARAMS.bm25_b)
        orders = full_matrix.orders(dataset, [np.array(list(by_question), dtype=np.float64)])
        found: list[Any] = []
        for question in dataset.questions:
            order = orders[question.id]
            found.append(tuple(full_matrix.quality(question, order, _PARAMS.k).values()))
            found += [full_matrix.select(question, order, tier, _PARAMS, 0) for tier in _TIERS]
        return found

    fits = len(texts) * len(asked) <= _MOST
    row = _in_turn("contexts of three tiers", "full matrix", matrix if fits else None, ours, repeats)
    assert not fits or ours() == matrix(), "the full matrix chooses other passages"
    return row


def another_k1(dataset: Dataset, repeats: int) -> dict[str, Any]:
    """The order for one question with another k1, by a corpus that is lemmatised anew, or kept."""
    one = Dataset(dataset.questions[:1], dataset.passages)

    def kept() -> object:
        return next(retrieve.rank(one, _OTHERS, None, Kept()))

    def anew() -> object:
        with tempfile.TemporaryDirectory() as scratch, patch.dict(os.environ, RIGSWEEP_CACHE=scratch):
            return kept()

    return _in_turn("another k1", "lemmatised anew", anew, kept, repeats)


def _in_turn(
    case: str, baseline: str, simple: Callable[[], object] | None, ours: Callable[[], object], repeats: int
) -> dict[str, Any]:
    """The row of a case; the baseline is left out where it would not fit."""
    ours()
    pairs = [(_seen(simple) if simple else (np.nan, np.nan), _seen(ours)) for _ in range(repeats)]
    simple_seen, seen = zip(*pairs, strict=True)
    figures = {
        "baseline_seconds": median(seconds for seconds, _ in simple_seen),
        "seconds": median(seconds for seconds, _ in seen),
        "baseline_peak_mb": max(peak for _, peak in simple_seen),
        "peak_mb": max(peak for _, peak in seen),
    }
    ratio = figures["baseline_seconds"] / figures["seconds"]
    return {"case": case, "baseline": baseline if simple else "none: too large", **figures, "ratio": ratio}


def _seen(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds that work takes, and MiB at its peak beyond what was held before."""
    memory.reset_peak_rss()
    before, start = memory.peak_rss(), time.perf_counter()
    work()
    return time.perf_counter() - start, (memory.peak_rss() - before) / _MB
