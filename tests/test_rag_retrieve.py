"""How passages are ranked, and that a context is of the quality that its tier asks for, or says that it is not."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.rag.bench import full_matrix
from experiments.rag.bench import retrieval as bench
from experiments.rag.inference import data, ranks, retrieve
from experiments.rag.inference.corpus import Kept
from experiments.rag.inference.data import Dataset, Question
from experiments.rag.inference.embedding import Embed
from experiments.rag.inference.lemmas import Lemmas
from experiments.rag.inference.params import RagInfer
from harness.stage import BadInput

WORDS = [f"word{letter}" for letter in "bcdfg"]
TEXTS = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=8), min_size=2, max_size=6)


def build(relevant: int, others: int) -> tuple[Question, Dataset]:
    passages = {f"r{i}": f"wordb wordc {i}" for i in range(relevant)} | {f"x{i}": f"wordd {i}" for i in range(others)}
    question = Question("q", "wordb", (("wordb",),), frozenset(f"r{i}" for i in range(relevant)))
    return question, Dataset([question], passages)


def rank(dataset: Dataset, params: RagInfer, embed: Embed | None) -> dict[str, retrieve.Order]:
    return {question.id: order for question, order in retrieve.rank(dataset, params, embed, Kept())}


def all_of(order: retrieve.Order) -> tuple[str, ...]:
    return tuple(order.take(range(len(order.names))))


@settings(deadline=None)
@given(TEXTS, st.lists(st.sampled_from(WORDS), min_size=1, max_size=3, unique=True), st.floats(0.1, 3), st.floats(0, 1))
def test_bm25_is_lucenes(texts: list[list[str]], query: list[str], k1: float, b: float) -> None:
    passages = Lemmas.of([" ".join(text) for text in texts])
    (found,) = retrieve.bm25(passages, Lemmas.of([" ".join(query)]), k1, b)
    mean = sum(map(len, texts)) / len(texts)
    for text, score in zip(texts, found, strict=True):
        counts, expected = Counter(text), 0.0
        for word in query:
            df = sum(word in other for other in texts)
            idf = math.log(1 + (len(texts) - df + 0.5) / (df + 0.5))
            expected += idf * counts[word] / (counts[word] + k1 * (1 - b + b * len(text) / mean))
        assert score == pytest.approx(expected, rel=1e-5, abs=1e-6)


@given(st.permutations(range(6)), st.permutations(range(6)))
def test_reciprocal_ranks_are_summed(first: list[int], second: list[int]) -> None:
    keyed = [ranks.keys(-np.argsort(order).astype(np.float32)) for order in (first, second)]
    found = ranks.reciprocal_ranks(keyed)
    for text in range(6):
        expected = sum(1 / (60 + order.index(text) + 1) for order in (first, second))
        assert found[text] == pytest.approx(expected)


def test_recall_and_reciprocal_rank_are_against_the_relevant_passages() -> None:
    passages = {"a": "wordc", "b": "wordb", "c": "wordb wordd", "d": "wordd"}
    question = Question("q", "wordb", (("x",),), frozenset({"c", "d"}))
    order = rank(Dataset([question], passages), RagInfer(k=2), None)["q"]
    assert all_of(order) == ("b", "c", "a", "d")  # what ties stays in the order of the corpus
    ranking = order.ranking(2)
    assert (ranking.recall, ranking.reciprocal_rank) == (0.5, 0.5)


def test_dense_ranks_by_cosine_and_hybrid_by_both() -> None:
    passages = {"a": "wordb", "b": "wordc", "c": "wordd"}
    question = Question("q", "wordb", (("x",),), frozenset({"b"}))
    vectors = {"wordb": [1.0, 0.0], "wordc": [0.9, 0.1], "wordd": [0.0, 1.0]}

    def embed(texts):  # type: ignore[no-untyped-def]
        found = np.array([[0.0, 1.0] if texts == ["wordb"] else vectors[text] for text in texts], dtype=np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    dataset = Dataset([question], passages)
    dense = rank(dataset, RagInfer(k=1, retriever="dense"), embed)["q"]
    assert all_of(dense) == ("c", "b", "a")
    hybrid = rank(dataset, RagInfer(k=1, retriever="hybrid"), embed)["q"]
    assert all_of(hybrid) == ("a", "c", "b")  # 1/61 + 1/63 beats 2/62, and what ties stays in order
    with pytest.raises(BadInput, match="retriever = dense: needs encoder"):
        rank(dataset, RagInfer(k=1, retriever="dense"), None)


@pytest.mark.parametrize(("tier", "relevant"), [("high", 8), ("medium", 5), ("low", 2)])
@pytest.mark.parametrize("distractors", ["random", "hard"])
def test_a_tier_has_its_share_of_relevant_passages(tier: str, relevant: int, distractors: str) -> None:
    question, dataset = build(12, 40)
    params = RagInfer(distractors=distractors)
    ranking = rank(dataset, params, None)["q"]
    found = retrieve.select(question, ranking, tier, params, seed=0)
    assert len(set(found.passages)) == 10
    assert sum(name.startswith("r") for name in found.passages) == found.relevant == relevant
    assert found.achieved == found.asked == relevant / 10
    if distractors == "hard":
        highest = [name for name in all_of(ranking) if name.startswith("x")][: 10 - relevant]
        assert set(highest) <= set(found.passages)


def test_a_question_with_too_few_relevant_passages_says_what_was_achieved() -> None:
    question, dataset = build(3, 40)
    found = retrieve.select(question, rank(dataset, RagInfer(), None)["q"], "high", RagInfer(), seed=0)
    assert (found.asked, found.achieved, len(found.passages)) == (0.8, 0.3, 10)


def test_what_is_drawn_depends_on_seed_question_and_tier_alone() -> None:
    dataset = data.builtin(6)
    params = RagInfer()
    rankings = rank(dataset, params, None)
    alone = Dataset(dataset.questions[3:4], dataset.passages)
    question = alone.questions[0]
    found = retrieve.select(question, rankings[question.id], "low", params, seed=5)
    assert retrieve.select(question, rank(alone, params, None)[question.id], "low", params, seed=5) == found
    others = [retrieve.select(question, rankings[question.id], "low", params, seed=6)]
    others += [retrieve.select(replace(question, id="q"), rankings[question.id], "low", params, seed=5)]
    assert all(other.passages != found.passages for other in others)


def test_the_passages_retrieved_are_taken_as_they_are() -> None:
    question, dataset = build(2, 40)
    ranking = rank(dataset, RagInfer(), None)["q"]
    found = retrieve.select(question, ranking, "retrieved", RagInfer(), seed=0)
    assert found.passages == all_of(ranking)[:10]
    assert (found.asked, found.achieved) == (None, 0.2)


def test_more_passages_than_there_are_cannot_be_asked_for() -> None:
    _, dataset = build(2, 3)
    with pytest.raises(BadInput, match="k = 6: the data hold 5 passages only"):
        rank(dataset, RagInfer(k=6), None)


def test_an_empty_context_is_refused() -> None:
    question, dataset = build(4, 0)
    ranking = rank(dataset, RagInfer(k=1), None)["q"]
    with pytest.raises(BadInput, match="question q: tier low of k = 1 has no passage"):
        retrieve.select(question, ranking, "low", RagInfer(k=1), seed=0)


def test_the_built_in_world_tells_every_fact_eight_times_and_asks_what_can_be_answered() -> None:
    dataset = data.builtin()
    assert (len(dataset.questions), len(dataset.passages)) == (300, 5760)
    told = Counter(fact + "." for text in dataset.passages.values() for fact in text.removesuffix(".").split(". "))
    assert set(told.values()) == {8}
    for question in dataset.questions:
        for name in question.relevant:
            assert any(way in dataset.passages[name] for (way,) in question.accepted)


def test_the_built_in_world_is_the_same_in_every_process() -> None:
    assert data.digest("builtin")[:16] == "e88308fb2a4201b9"


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("medium,high", "high,medium"),
        ("low, high,low", "high,low"),
        ("low", "low"),
        ("low,medium,high", "all"),
        ("retrieved", "retrieved"),
    ],
)
def test_equal_lists_of_tiers_are_one_setting(asked: str, meant: str) -> None:
    assert RagInfer(tier=asked).canonical() == RagInfer(tier=meant).canonical()
    assert RagInfer(tier=asked).tier == meant


@pytest.mark.parametrize("asked", ["", "high,", "all,low", "retrieved,high", "High", "none"])
def test_a_list_of_other_tiers_is_refused(asked: str) -> None:
    with pytest.raises(ValueError, match="all, retrieved, or some of high, medium, low with commas between them"):
        RagInfer(tier=asked)


def test_tiers_are_asked_for_best_first() -> None:
    assert retrieve.tiers(RagInfer(tier="low,high")) == ["high", "low"]
    assert retrieve.tiers(RagInfer()) == ["high", "medium", "low"]


def test_a_tier_does_not_depend_on_the_others_asked_for() -> None:
    dataset = data.builtin(6)

    def shown(tier: str) -> dict[str, retrieve.Selection]:
        params = RagInfer(tier=tier)
        ranked = rank(dataset, params, None)
        return {
            f"{question.id}/{each}": retrieve.select(question, ranked[question.id], each, params, seed=3)
            for question in dataset.questions
            for each in retrieve.tiers(params)
        }

    every, some = shown("all"), shown("low,high")
    assert len(some) == 12
    assert some == {name: every[name] for name in some}


def test_orders_come_one_after_the_other() -> None:
    question, dataset = build(2, 40)
    several = Dataset([replace(question, id=str(i)) for i in range(3)], dataset.passages)
    ranked = retrieve.rank(several, RagInfer(), None, Kept())
    first, order = next(ranked)
    assert (first.id, len(order.names)) == ("0", 42)
    assert [each.id for each, _ in ranked] == ["1", "2"]


NUMBERS = st.one_of(st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5]), st.floats(width=32, allow_nan=False))


@given(st.lists(NUMBERS, min_size=1, max_size=30), st.data())
def test_places_are_those_of_a_stable_sort_of_everything(scores: list[float], drawn: st.DataObject) -> None:
    given_scores = np.array(scores, dtype=np.float32)
    whole = np.argsort(-given_scores.astype(np.float64), kind="stable")
    keyed = ranks.keys(given_scores)
    some = np.array(drawn.draw(st.lists(st.integers(0, len(scores) - 1))), dtype=np.int64)
    assert ranks.at(keyed, some).tolist() == whole[some].tolist()
    assert ranks.places(keyed, whole[some]).tolist() == some.tolist()


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.sampled_from(WORDS), max_size=4), min_size=2, max_size=24),
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=3),
    st.sampled_from(["bm25", "dense", "hybrid"]),
    st.sampled_from(["random", "hard"]),
    st.integers(1, 24),
    st.data(),
)
def test_contexts_are_those_of_the_full_matrix(
    texts: list[list[str]], query: list[str], retriever: str, distractors: str, k: int, drawn: st.DataObject
) -> None:
    passages = {f"p{i}": " ".join(text) or "worth" for i, text in enumerate(texts)}
    relevant = drawn.draw(st.lists(st.sampled_from(list(passages)), min_size=1, unique=True))
    question = Question("q", " ".join(query), (("x",),), frozenset(relevant))
    other = Question("r", "wordb", (("x",),), frozenset(passages))
    dataset = Dataset([question, other], passages)
    params = RagInfer(retriever=retriever, distractors=distractors, k=min(k, len(passages)))

    def embed(told):  # type: ignore[no-untyped-def]
        return np.array([[len(text) % 3, len(text) % 2] for text in told], dtype=np.float32)

    asked = [each.text for each in dataset.questions]
    by_words = full_matrix.bm25(list(passages.values()), asked, params)
    by_vectors = embed(asked) @ embed(passages.values()).T
    scores = {"bm25": [by_words], "dense": [by_vectors], "hybrid": [by_words, by_vectors]}[retriever]
    expected, found = full_matrix.orders(dataset, scores), rank(dataset, params, embed)
    for each in dataset.questions:
        order = found[each.id]
        assert all_of(order) == expected[each.id]
        quality = full_matrix.quality(each, expected[each.id], params.k)
        met = retriever == "dense" or bool(by_words[asked.index(each.text)].max() > 0)
        assert vars(order.ranking(params.k)) == quality | {"matched": met}
        for tier in ("high", "medium", "low", "retrieved"):
            chosen = full_matrix.select(each, expected[each.id], tier, params, seed=7)
            if chosen.passages:
                assert retrieve.select(each, order, tier, params, seed=7) == chosen


def test_embeddings_that_are_not_finite_rank_nothing() -> None:
    _, dataset = build(2, 3)
    with pytest.raises(BadInput, match="the encoder's embeddings are not finite"):
        rank(dataset, RagInfer(k=1, retriever="dense"), lambda texts: np.full((len(texts), 2), np.nan, np.float32))


def test_the_benchmark_sets_equal_contexts_beside_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIGSWEEP_CACHE", str(tmp_path))
    monkeypatch.setattr(bench, "_SIZES", ((60, 4), (80, 8)))
    monkeypatch.setattr(bench, "_MOST", 60 * 4)
    table = bench.bench("cpu", 1, quick=False).set_index(["passages", "case"])
    assert list(table["baseline"]) == ["full matrix", "lemmatised anew", "none: too large"]
    row = table.loc[60, "contexts of three tiers"]
    assert row["ratio"] == pytest.approx(row["baseline_seconds"] / row["seconds"])
    assert math.isnan(table.loc[80, "contexts of three tiers"]["ratio"])
    assert not list(tmp_path.iterdir())  # it measures in a cache folder of its own
