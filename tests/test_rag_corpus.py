"""A corpus is lemmatised and embedded once, whatever is asked of it, and held in memory that it alone decides."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.rag.inference import corpus, embedding, lemmas, retrieve
from experiments.rag.inference.corpus import Kept
from experiments.rag.inference.data import Dataset, Question
from experiments.rag.inference.lemmas import Lemmas
from experiments.rag.inference.params import RagInfer
from harness.running import cache, code

ROOT = Path(__file__).parent.parent
TEXTS = ["The cats sat.", "", "A dog, and cats", "Äpfel \ud800 dogs", "!"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIGSWEEP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that have been lemmatised."""
    told: list[str] = []
    own = lemmas.content_words
    monkeypatch.setattr(lemmas, "content_words", lambda text: told.append(text) or own(text))
    return told


def files(kind: str) -> list[Path]:
    return sorted((cache.folder() / kind).glob("*"))


def words(found: Lemmas) -> list[list[str]]:
    return [[found.vocabulary[i] for i in ids] for ids in found]


def test_a_sweep_over_how_passages_are_ranked_lemmatises_nothing_again(read: list[str]) -> None:
    passages = {f"p{i}": f"wordb {i} wordc" for i in range(12)}
    dataset = Dataset([Question("q", "wordb 3", (("x",),), frozenset({"p3"}))], passages)
    orders = []
    for k, k1, b in [(1, 1.5, 0.75), (5, 1.5, 0.75), (5, 0.5, 0.75), (5, 0.5, 0.1)]:
        params = RagInfer(k=k, bm25_k1=k1, bm25_b=b)
        orders += [order.take(range(12)) for _, order in retrieve.rank(dataset, params, None, Kept())]
        assert len(read) == 13  # the passages and the question, once
    assert [order[0] for order in orders] == ["p3"] * 4


def test_another_text_is_another_corpus(read: list[str]) -> None:
    Kept().lemmas(TEXTS)
    for others in (TEXTS[:-1], [*TEXTS, ""], TEXTS[::-1], ["".join(TEXTS[:2]), *TEXTS[2:]]):
        read.clear()
        assert words(Kept().lemmas(others)) == words(Lemmas.of(others))
        assert read[: len(others)] == others


@pytest.mark.parametrize("name", ["digest", "libraries"])
def test_other_code_or_libraries_make_the_lemmas_anew(
    name: str, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Kept().lemmas(TEXTS)
    monkeypatch.setattr(code, name, lambda *modules: str(modules))
    Kept().lemmas(TEXTS)
    assert len(read) == 2 * len(TEXTS)


def test_the_libraries_that_count_are_those_that_are_imported_and_what_they_need() -> None:
    assert code.libraries(lemmas.__name__).keys() >= {"nltk", "numpy"}
    assert "torch" not in code.libraries(lemmas.__name__)
    assert code.libraries(embedding.__name__).keys() >= {"sentence-transformers", "transformers", "torch", "numpy"}
    assert "sys" not in code.libraries(lemmas.__name__)


@given(st.lists(st.lists(st.integers(0, 5), max_size=4), max_size=6))
def test_lemmas_come_back_as_they_were_kept(texts: list[list[int]]) -> None:
    told = [" ".join(f"w{'abcdef'[i]}x" for i in text) for text in texts]
    found = Lemmas.of(told)
    again = Lemmas.read(found.arrays(), len(told))
    assert words(again) == words(found) == [[f"w{'abcdef'[i]}x" for i in text] for text in texts]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: content[:200] + bytes([content[200] ^ 255]) + content[201:],
        lambda content: b"no archive",
    ],
    ids=["cut off", "empty", "a bit flipped", "something else"],
)
def test_a_damaged_file_is_made_anew_and_told(damage, read: list[str]) -> None:  # type: ignore[no-untyped-def]
    before = words(Kept().lemmas(TEXTS))
    (file,) = files("lemmas")
    file.write_bytes(damage(file.read_bytes()))
    read.clear()
    kept = Kept()
    assert words(kept.lemmas(TEXTS)) == before
    assert (read, kept.damaged) == (TEXTS, [str(file)])
    kept = Kept()
    kept.lemmas(TEXTS)
    assert (read, kept.damaged) == (TEXTS, [])


@pytest.mark.parametrize(
    "arrays",
    [
        {"ids": [0, 9], "ends": [1, 2]},
        {"ids": [0, -1], "ends": [1, 2]},
        {"ids": [0, 0], "ends": [1, 1]},
        {"ids": [0, 0], "ends": [2]},
        {"ids": [0, 0], "ends": [3, 2]},
        {"ids": [0, 0]},
    ],
)
def test_arrays_of_other_texts_are_not_believed(arrays: dict[str, list[int]]) -> None:
    told = {name: np.array(values) for name, values in arrays.items()} | {"vocabulary": np.frombuffer(b"a", np.uint8)}
    with pytest.raises((ValueError, KeyError)):
        Lemmas.read(told, 2)


def test_no_file_of_the_cache_is_unpickled(read: list[str]) -> None:
    Kept().lemmas(TEXTS)
    (file,) = files("lemmas")
    with file.open("wb") as stream:
        np.savez(stream, ids=np.array([print], dtype=object), ends=np.zeros(5), vocabulary=np.zeros(0, np.uint8))
    kept = Kept()
    kept.lemmas(TEXTS)
    assert kept.damaged == [str(file)]


def test_a_cache_that_cannot_be_written_to_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RIGSWEEP_CACHE", str(tmp_path / "file"))
    assert words(Kept().lemmas(TEXTS)) == words(Lemmas.of(TEXTS))


def test_what_was_used_longest_ago_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    Kept().lemmas(["first"])
    (first,) = files("lemmas")
    os.utime(first, (1, 1))
    monkeypatch.setattr(cache, "_MOST_BYTES", first.stat().st_size + 100)
    Kept().lemmas(["second"])
    assert len(files("lemmas")) == 1
    assert first not in files("lemmas")


def test_embeddings_are_made_once_for_an_encoder_and_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus.files, "digest_sentence_encoder", lambda setting, name: f"content of {name}")
    asked: list[Sequence[str]] = []

    def embed(texts: Sequence[str]) -> embedding.Vectors:
        asked.append(texts)
        return np.array([[len(text), 1.0] for text in texts], dtype=np.float32)

    for where, encoder, calls in [
        ("cpu", "a", 1),
        ("cpu", "a", 1),
        ("cuda", "a", 2),
        ("cpu", "b", 3),
        ("cpu", None, 4),
    ]:
        found = Kept(where).embeddings(TEXTS, embed, encoder)
        assert found.dtype == np.float32
        assert found.tolist() == [[len(text), 1.0] for text in TEXTS]
        assert len(asked) == calls


# Each size in a process that is forked once all is imported: what one has needed is not there for the next.
PEAK = """
import os, sys
from experiments.rag.inference import lemmas
from experiments.rag.inference.corpus import Kept
from experiments.rag.inference.data import Dataset, Question
from experiments.rag.inference.infer import _queries
from experiments.rag.inference.params import RagInfer
from harness.measuring import memory

def peak(passages, questions):
    words = ["".join("bcdfghjk"[i // 8**n % 8] for n in range(4)) for i in range(4096)]
    texts = {f"p{i}": " ".join(words[(i * 31 + j * j * 17) % 4096] for j in range(60)) for i in range(passages)}
    asked = []
    for i in range(questions):
        said = " ".join(words[(i + j * 7) % 4096] for j in range(5))
        asked.append(Question(f"q{i}", said, (("x",),), frozenset({f"p{i}", f"p{i + 1}"})))
    os.environ["RIGSWEEP_CACHE"] += f"/{passages}x{questions}"
    memory.reset_peak_rss()
    before = memory.peak_rss()
    queries = _queries(Dataset(asked, texts), RagInfer(), None, Kept(), 0)
    assert len(queries) == 3 * questions
    return memory.peak_rss() - before

peak(300, 200)
for size in sys.argv[1:]:
    if (child := os.fork()) == 0:
        print(peak(*map(int, size.split("x"))), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a part of a process")
def test_what_a_question_holds_does_not_grow_with_the_passages() -> None:
    sizes = [f"{passages}x{questions}" for passages in (2000, 8000) for questions in (10, 210)]
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *sizes],
        cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    few, few_asked, many, many_asked = map(int, done.stdout.split())
    print(few, few_asked, many, many_asked)
    assert (few_asked - few) / 200 < 12_000
    assert (many_asked - many) / 200 < 12_000  # the scores of 8,000 passages alone would be 32,000 to 64,000
    assert (many - few) / 6000 < 4_000
