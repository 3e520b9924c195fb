"""Which passages a question gets: ranked by words, by embeddings or by both; then a context of a chosen quality."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments.arrays import Floats
from experiments.rag.inference.data import Dataset, Question
from experiments.rag.inference.params import TIERS, RagInfer
from experiments.rag.inference.text import content_words
from harness.progress import counted, working
from harness.stage import BadInput, one_line

_RRF = 60  # Cormack, Clarke and Buettcher (2009): reciprocal rank fusion sums 1 / (60 + rank)
Embed = Callable[[Sequence[str]], NDArray[np.float32]]


@dataclass(frozen=True)
class Selection:
    """The passages a model is shown, and what they are: `asked` is the tier's share of relevant ones."""

    tier: str
    asked: float | None
    passages: tuple[str, ...]  # ids, in the order shown
    relevant: int

    @property
    def achieved(self) -> float:
        """The share of relevant passages that it really has."""
        return self.relevant / len(self.passages)


@dataclass(frozen=True)
class Ranking:
    """All passages for one question, best first (the earlier in the corpus on a tie), and how good that order is."""

    order: tuple[str, ...]
    recall: float  # share of the relevant passages among the first k
    reciprocal_rank: float  # of the first relevant passage
    matched: bool = True  # whether any passage has a word of the question, where they are ranked by words


def rank(dataset: Dataset, params: RagInfer, embed: Embed | None) -> Iterator[tuple[Question, Ranking]]:
    """Rank every passage by the retriever that `params` name, for one question after the other.

    Whoever takes from a ranking what is needed and lets it go holds one order at a time, not questions x passages.
    """
    names, texts = list(dataset.passages), list(dataset.passages.values())
    if params.k > len(names):
        raise BadInput(f"k = {params.k}: the data hold {len(names)} passages only")
    wanted = [question.text for question in dataset.questions]
    scores: list[Iterator[Floats]] = []
    if params.retriever in {"bm25", "hybrid"}:
        scores.append(bm25(texts, wanted, params.bm25_k1, params.bm25_b))
    if params.retriever in {"dense", "hybrid"}:
        if embed is None:
            raise BadInput(f"retriever = {params.retriever}: needs encoder, a sentence-transformers folder or name")
        scores.append(_cosines(embed(texts), embed(wanted)))
    by_words = params.retriever != "dense"
    for question, *own in zip(dataset.questions, *scores, strict=True):
        orders = [np.argsort(-each, kind="stable") for each in own]
        order = orders[0]
        if len(orders) > 1:
            fused = reciprocal_rank_fusion([each[None] for each in orders])[0]
            order = np.argsort(-fused, kind="stable")
        matched = not by_words or bool(own[0].max() > 0)
        yield question, _ranking(question, [names[i] for i in order], params.k, matched)


def bm25(texts: Sequence[str], queries: Sequence[str], k1: float, b: float) -> Iterator[Floats]:
    """BM25 scores (texts) of one query after the other, over lemmas without function words, as Lucene computes them."""
    import bm25s

    index = bm25s.BM25(k1=k1, b=b)
    index.index([content_words(text) for text in counted(texts, "index", "passages")], show_progress=False)
    for query in counted(queries, "retrieve", "questions"):
        words = content_words(query)
        yield np.asarray(index.get_scores(words) if words else np.zeros(len(texts)), dtype=np.float64)


def _cosines(texts: NDArray[np.float32], queries: NDArray[np.float32]) -> Iterator[Floats]:
    for query in queries:
        yield np.asarray(texts @ query, dtype=np.float64)


def reciprocal_rank_fusion(orders: Sequence[NDArray[np.int64]]) -> Floats:
    """Sum over rankings of 1 / (60 + rank): (queries, texts), from as many orders (queries, texts) of text indices."""
    total = np.zeros(orders[0].shape)
    for order in orders:
        np.put_along_axis(ranks := np.empty_like(total), order, np.arange(1.0, order.shape[1] + 1)[None], axis=1)
        total += 1 / (_RRF + ranks)
    return total


def _ranking(question: Question, order: list[str], k: int, matched: bool) -> Ranking:
    places = [place for place, name in enumerate(order, 1) if name in question.relevant]
    return Ranking(tuple(order), sum(place <= k for place in places) / len(places), 1 / places[0], matched)


def tiers(params: RagInfer) -> list[str]:
    """The tiers asked for, best first."""
    return list(TIERS) if params.tier == "all" else params.tier.split(",")


def select(question: Question, ranking: Ranking, tier: str, params: RagInfer, seed: int) -> Selection:
    """The k passages of a tier: its share of relevant ones as ranked, the rest distractors, in random order.

    A question with too few relevant passages gets more distractors; the share that it achieves says so.  What is drawn
    depends on seed, question and tier alone.
    """
    if tier == "retrieved":
        retrieved = ranking.order[: params.k]
        return Selection(tier, None, retrieved, sum(name in question.relevant for name in retrieved))
    rng = random.Random(hashlib.sha256(f"{seed}/{question.id}/{tier}".encode()).digest())
    wanted = round(TIERS[tier] * params.k + 1e-9)
    relevant = [name for name in ranking.order if name in question.relevant][:wanted]
    others = [name for name in ranking.order if name not in question.relevant]
    missing = params.k - len(relevant)
    distractors = others[:missing] if params.distractors == "hard" else rng.sample(others, min(missing, len(others)))
    chosen = [*relevant, *distractors]
    if not chosen:
        raise BadInput(f"question {question.id}: tier {tier} of k = {params.k} has no passage; a larger k")
    rng.shuffle(chosen)
    return Selection(tier, TIERS[tier], tuple(chosen), len(relevant))


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
