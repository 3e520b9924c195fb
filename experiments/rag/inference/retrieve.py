"""Which passages a question gets: ranked by words, by embeddings or by both; then a context of a chosen quality."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from experiments.arrays import Ints
from experiments.rag.inference import ranks
from experiments.rag.inference.corpus import Kept
from experiments.rag.inference.data import Dataset, Question
from experiments.rag.inference.embedding import Embed, Vectors
from experiments.rag.inference.lemmas import Lemmas
from experiments.rag.inference.params import TIERS, RagInfer
from experiments.rag.inference.ranks import Keys
from harness.progress import counted
from harness.stage import BadInput


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
    """How good the order of all passages for a question is."""

    recall: float  # share of the relevant passages among the first k
    reciprocal_rank: float  # of the first relevant passage
    matched: bool = True  # whether any passage has a word of the question, where they are ranked by words


@dataclass(frozen=True)
class Order:
    """All passages for one question, best first (the earlier in the corpus on a tie), as far as it is asked for.

    Held for one question at a time: it is as long as the corpus.
    """

    names: Sequence[str]
    keyed: Keys
    relevant: Ints  # places of the relevant passages, counted from 0, rising
    matched: bool  # as Ranking has it

    def take(self, places: Iterable[int]) -> list[str]:
        """The passages at some places of the order."""
        return [self.names[i] for i in ranks.at(self.keyed, np.fromiter(places, dtype=np.int64))]

    def irrelevant(self, places: Iterable[int]) -> list[str]:
        """The passages at some places of the order of those that are not relevant."""
        wanted = np.fromiter(places, dtype=np.int64)
        before = np.searchsorted(self.relevant - np.arange(len(self.relevant)), wanted, side="right")
        return self.take(wanted + before)

    def ranking(self, k: int) -> Ranking:
        """How good it is."""
        recall = int((self.relevant < k).sum()) / len(self.relevant)
        return Ranking(recall, 1 / int(self.relevant[0] + 1), self.matched)


def rank(dataset: Dataset, params: RagInfer, embed: Embed | None, kept: Kept) -> Iterator[tuple[Question, Order]]:
    """Rank every passage by the retriever that `params` name, for one question after the other.

    What the passages' texts alone decide is `kept`, whatever `k`, `bm25_k1` and `bm25_b` are.
    Whoever takes from an order what is needed and lets it go holds one at a time, not questions x passages.
    """
    names, texts = list(dataset.passages), list(dataset.passages.values())
    if params.k > len(names):
        raise BadInput(f"k = {params.k}: the data hold {len(names)} passages only")
    wanted = [question.text for question in dataset.questions]
    scores: list[Iterator[Vectors]] = []
    if params.retriever in {"bm25", "hybrid"}:
        scores.append(bm25(kept.lemmas(texts), kept.lemmas(wanted), params.bm25_k1, params.bm25_b))
    if params.retriever in {"dense", "hybrid"}:
        if embed is None:
            raise BadInput(f"retriever = {params.retriever}: needs encoder, a sentence-transformers folder or name")
        scores.append(_cosines(kept.embeddings(texts, embed, params.encoder), embed(wanted)))
    place = {name: i for i, name in enumerate(names)}
    for question, *own in zip(dataset.questions, *scores, strict=True):
        keyed = [ranks.keys(each) for each in own]
        order = ranks.fused(keyed) if len(keyed) > 1 else keyed[0]
        relevant = np.array([place[name] for name in question.relevant], dtype=np.int64)
        matched = params.retriever == "dense" or bool(own[0].max() > 0)
        yield question, Order(names, order, np.sort(ranks.places(order, relevant)), matched)


def bm25(passages: Lemmas, queries: Lemmas, k1: float, b: float) -> Iterator[Vectors]:
    """BM25 scores (passages,) of one query after the other, over lemmas, as Lucene computes them."""
    import bm25s

    index = bm25s.BM25(k1=k1, b=b)
    if passages.vocabulary:
        index.index(SimpleNamespace(ids=passages, vocab=passages.numbered()), show_progress=False)
    for ids in counted(queries, "retrieve", "questions"):
        words = [queries.vocabulary[i] for i in ids]
        scores = index.get_scores(words) if words and passages.vocabulary else np.zeros(len(passages))
        yield np.asarray(scores, dtype=np.float32)


def _cosines(texts: Vectors, queries: Vectors) -> Iterator[Vectors]:
    for vectors in (texts, queries):
        if not np.isfinite(vectors).all():
            raise BadInput("retriever: the encoder's embeddings are not finite, so that nothing can be ranked by them")
    for query in queries:
        yield texts @ query


def tiers(params: RagInfer) -> list[str]:
    """The tiers asked for, best first."""
    return list(TIERS) if params.tier == "all" else params.tier.split(",")


def select(question: Question, order: Order, tier: str, params: RagInfer, seed: int) -> Selection:
    """The k passages of a tier: its share of relevant ones as ranked, the rest distractors, in random order.

    A question with too few relevant passages gets more distractors; the share that it achieves says so.  What is drawn
    depends on seed, question and tier alone.
    """
    if tier == "retrieved":
        retrieved = order.take(range(params.k))
        return Selection(tier, None, tuple(retrieved), sum(name in question.relevant for name in retrieved))
    rng = random.Random(hashlib.sha256(f"{seed}/{question.id}/{tier}".encode()).digest())
    wanted = round(TIERS[tier] * params.k + 1e-9)
    relevant = order.take(order.relevant[:wanted])
    others = range(len(order.names) - len(order.relevant))
    missing = min(params.k - len(relevant), len(others))
    chosen = [
        *relevant,
        *order.irrelevant(others[:missing] if params.distractors == "hard" else rng.sample(others, missing)),
    ]
    if not chosen:
        raise BadInput(f"question {question.id}: tier {tier} of k = {params.k} has no passage; a larger k")
    rng.shuffle(chosen)
    return Selection(tier, TIERS[tier], tuple(chosen), len(relevant))
