"""Which passages a question gets: ranked by words, by embeddings or by both; then a context of a chosen quality."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments.arrays import Ints
from experiments.rag.inference import ranks
from experiments.rag.inference.data import Dataset, Question
from experiments.rag.inference.params import TIERS, RagInfer
from experiments.rag.inference.ranks import Keys
from experiments.rag.inference.text import content_words
from harness.progress import counted, working
from harness.stage import BadInput, one_line

Scores = NDArray[np.float32]
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
    matched: bool = True  # whether any passage has a word of the question, where they are ranked by words

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


def rank(dataset: Dataset, params: RagInfer, embed: Embed | None) -> Iterator[tuple[Question, Order]]:
    """Rank every passage by the retriever that `params` name, for one question after the other.

    Whoever takes from an order what is needed and lets it go holds one at a time, not questions x passages.
    """
    names, texts = list(dataset.passages), list(dataset.passages.values())
    if params.k > len(names):
        raise BadInput(f"k = {params.k}: the data hold {len(names)} passages only")
    wanted = [question.text for question in dataset.questions]
    scores: list[Iterator[Scores]] = []
    if params.retriever in {"bm25", "hybrid"}:
        scores.append(bm25(texts, wanted, params.bm25_k1, params.bm25_b))
    if params.retriever in {"dense", "hybrid"}:
        if embed is None:
            raise BadInput(f"retriever = {params.retriever}: needs encoder, a sentence-transformers folder or name")
        scores.append(_cosines(embed(texts), embed(wanted)))
    place = {name: i for i, name in enumerate(names)}
    for question, *own in zip(dataset.questions, *scores, strict=True):
        keyed = [ranks.keys(each) for each in own]
        order = ranks.fused(keyed) if len(keyed) > 1 else keyed[0]
        relevant = np.array([place[name] for name in question.relevant], dtype=np.int64)
        matched = params.retriever == "dense" or bool(own[0].max() > 0)
        yield question, Order(names, order, np.sort(ranks.places(order, relevant)), matched)


def bm25(texts: Sequence[str], queries: Sequence[str], k1: float, b: float) -> Iterator[Scores]:
    """BM25 scores (texts) of one query after the other, over lemmas without function words, as Lucene computes them."""
    import bm25s

    index = bm25s.BM25(k1=k1, b=b)
    index.index([content_words(text) for text in counted(texts, "index", "passages")], show_progress=False)
    for query in counted(queries, "retrieve", "questions"):
        words = content_words(query)
        yield np.asarray(index.get_scores(words) if words else np.zeros(len(texts)), dtype=np.float32)


def _cosines(texts: Scores, queries: Scores) -> Iterator[Scores]:
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
