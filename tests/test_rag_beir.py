"""A folder of BEIR is read as its authors mean it, and tells how good retrieval is where no answer is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments.rag import RAG
from experiments.rag.inference import data
from harness.running import hardware, run
from harness.running.settings import resolve
from harness.stage import BadInput
from tests import tiny

CORPUS = [
    {"_id": "d1", "title": "Rome", "text": "The capital of Italy.", "metadata": {"url": "x"}},
    {"_id": "d2", "text": "The capital of France."},
    {"_id": "d3", "title": "Bern", "text": ""},
    {"_id": "d4", "title": None, "text": "Nothing."},
]
QUERIES = [
    {"_id": "q1", "text": "What is Rome?", "metadata": {}},
    {"_id": "q2", "text": "Which capital?"},
    {"_id": "q3", "text": "Nobody judged this."},
]
TEST = ["q1\td1\t2", "q1\td2\t0", "q2\td2\t1", "q2\td3\t1", "q2\td4\t-1"]
HEAD = "query-id\tcorpus-id\tscore"


def folder(place: Path, corpus: Any = CORPUS, queries: Any = QUERIES, **splits: list[str]) -> Path:
    tiny.write_jsonl(place / "corpus.jsonl", corpus)
    tiny.write_jsonl(place / "queries.jsonl", queries)
    (place / "qrels").mkdir()
    for name, lines in (splits or {"test": [HEAD, *TEST]}).items():
        (place / "qrels" / f"{name}.tsv").write_text("".join(f"{line}\n" for line in lines))
    return place


def execute(dataset: Path, **settings: Any) -> run.Result:
    given = {name: str(value) for name, value in {"dataset": dataset, "folds": 2, "cache": "off", **settings}.items()}
    return run.execute(resolve(RAG, given, hardware.load_profiles()))


def test_passages_bear_their_titles_and_scores_above_0_are_relevant(tmp_path: Path) -> None:
    found = data.read(str(folder(tmp_path)))
    texts = {"d1": "Rome The capital of Italy.", "d2": "The capital of France.", "d3": "Bern", "d4": "Nothing."}
    assert found.passages == texts
    assert {each.id: each.relevant for each in found.questions} == {"q1": {"d1"}, "q2": {"d2", "d3"}}
    assert [each.text for each in found.questions] == ["What is Rome?", "Which capital?"]
    assert found.told == ("1 queries have no relevant passage in qrels/test.tsv, and are left out",)
    assert not found.answerable


def test_judgements_are_read_with_and_without_a_head(tmp_path: Path) -> None:
    for name, lines in (("a", TEST), ("b", [HEAD, *TEST]), ("c", [f"{line}\r" for line in [HEAD, *TEST, ""]])):
        (tmp_path / name).mkdir()
        assert len(data.read(str(folder(tmp_path / name, test=lines))).questions) == 2


def test_the_test_split_is_taken_and_the_others_told(tmp_path: Path) -> None:
    found = data.read(str(folder(tmp_path, test=["q1\td1\t1"], train=["q2\td2\t1"], dev=["q3\td2\t1"])))
    assert [each.id for each in found.questions] == ["q1"]
    assert found.told[-1] == "qrels/test.tsv is read, and not dev.tsv, train.tsv"


def test_the_only_split_is_taken(tmp_path: Path) -> None:
    found = data.read(str(folder(tmp_path, dev=["q2\td2\t1"])))
    assert [each.id for each in found.questions] == ["q2"]


def test_passages_that_say_nothing_are_left_out_and_told(tmp_path: Path) -> None:
    blank = [*CORPUS, {"_id": "d5", "title": " ", "text": ""}]
    found = data.read(str(folder(tmp_path, blank, test=["q1\td1\t1", "q1\td5\t1", "q2\td5\t1"])))
    assert "d5" not in found.passages
    assert {each.id: each.relevant for each in found.questions} == {"q1": {"d1"}}
    assert found.told[1:] == (
        "1 passages have neither title nor text, and are left out",
        "2 judgements are of such a passage, and are left out",
    )


@pytest.mark.parametrize(
    ("metadata", "accepted"),
    [
        ({"answer": "Italy's capital"}, (("Italy's capital",),)),
        ({"answers": ["a city", "a capital"]}, (("a city", "a capital"),)),
        ({"answers": []}, ()),
        ({"source": 1}, ()),
        (None, ()),
        ("said", ()),
    ],
)
def test_answers_of_the_metadata_are_accepted(tmp_path: Path, metadata: Any, accepted: Any) -> None:
    asked = data.read(str(folder(tmp_path, queries=[QUERIES[0] | {"metadata": metadata}], test=TEST[:1]))).questions
    assert asked[0].accepted == accepted


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"corpus": [*CORPUS, CORPUS[0]]}, "corpus.jsonl, line 5: passage id 'd1' stands there twice"),
        ({"corpus": [{"_id": 1, "text": "x"}]}, "corpus.jsonl, line 1: _id: input should be a valid string"),
        ({"corpus": [{"text": "x"}]}, "corpus.jsonl, line 1: _id: field required"),
        ({"corpus": [["d1"]]}, "corpus.jsonl, line 1"),
        ({"queries": [*QUERIES, QUERIES[1]]}, "queries.jsonl, line 4: query id 'q2' stands there twice"),
        ({"queries": [{"_id": "q1", "text": ""}]}, "queries.jsonl, line 1: text"),
        ({"queries": [QUERIES[0] | {"metadata": {"answers": [1969]}}]}, "queries.jsonl, line 1: metadata.answers"),
        (
            {"queries": [QUERIES[0] | {"metadata": {"answer": "?!"}}], "test": TEST[:1]},
            r"line 1: metadata.answers: '\?!' holds no word",
        ),
        ({"test": [HEAD, "q1\td9\t1"]}, "test.tsv, line 2: passage 'd9' is not in corpus.jsonl"),
        ({"test": ["q9\td1\t1"]}, "test.tsv, line 1: query 'q9' is not in queries.jsonl"),
        ({"test": [HEAD, "q1 d1 1"]}, "test.tsv, line 2: 1 fields between tabs, not query-id, corpus-id, score"),
        ({"test": ["q1\t0\td1\t1"]}, "test.tsv, line 1: 4 fields between tabs"),
        ({"test": [HEAD, "q1\td1\thigh"]}, "test.tsv, line 2: score 'high' is no whole number"),
        ({"test": [HEAD, HEAD]}, "test.tsv, line 2: score 'score' is no whole number"),
        ({"test": [HEAD]}, "holds no question"),
        ({"dev": TEST, "train": TEST}, "qrels holds dev.tsv, train.tsv, of which none is test.tsv"),
    ],
)
def test_a_fault_is_named_by_file_and_line(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said) as fault:
        data.read(str(folder(tmp_path, **changed)))
    assert "\n" not in str(fault.value)


def test_what_is_missing_or_packed_is_named(tmp_path: Path) -> None:
    folder(tmp_path)
    for name in ("queries.jsonl", "corpus.jsonl"):
        (tmp_path / name).rename(tmp_path / f"{name}.gz")
        with pytest.raises(BadInput, match=f"{name}.gz is packed, and is read unpacked only"):
            data.read(str(tmp_path))
    (tmp_path / "queries.jsonl.gz").rename(tmp_path / "queries.jsonl")
    (tmp_path / "corpus.jsonl.gz").unlink()
    for read in (data.read, data.digest):
        with pytest.raises(BadInput, match=r"no such file or folder: corpus.jsonl; allowed"):
            read(str(tmp_path))


def test_no_line_may_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.rag.inference.lines._LONGEST", 200)
    long = [*CORPUS, {"_id": "d9", "text": "x" * 300}]
    with pytest.raises(BadInput, match=r"corpus.jsonl, line 5: longer than"):
        data.read(str(folder(tmp_path, long)))


def test_nesting_without_an_end_is_a_fault_of_its_line(tmp_path: Path) -> None:
    place = folder(tmp_path)
    (place / "corpus.jsonl").write_text("[" * 200_000)
    with pytest.raises(BadInput, match=r"corpus.jsonl, line 1: not JSON"):
        data.read(str(place))


def test_the_digest_is_of_all_that_is_read_and_of_nothing_else(tmp_path: Path) -> None:
    place = folder(tmp_path, test=TEST, train=TEST)
    before = data.digest(str(place))
    (place / "qrels" / "train.tsv").write_text("q1\td2\t1\n")
    (place / "README.md").write_text("x")
    assert data.digest(str(place)) == before
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"):
        with (place / name).open("a") as stream:
            stream.write("\n")
        assert data.digest(str(place)) != before
        before = data.digest(str(place))


def test_retrieval_is_measured_without_a_model_where_no_answer_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*arguments: Any, **named: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("experiments.models.language.load", loaded)
    monkeypatch.setattr("experiments.models.cross_encoder.load", loaded)
    found = execute(folder(tmp_path), k=1)
    metrics, frame = found.report.metrics, found.records.frame
    assert set(frame["verdict"]) == {"unlabelled"}
    assert set(frame["label"]) == {-1}
    assert (metrics["recall_at_k"], metrics["mrr"]) == (0.75, 1.0)
    assert metrics["achieved/high"] == 1.0
    for name in ("auc", "auc_in_tier", "prevalence", "abstained", "answers_empty"):
        assert "no answer has a label: the data hold no accepted answers" in found.report.undefined[name]
    codes = {finding.code: finding for finding in found.audit.findings}
    assert {"answers_unlabelled", "data_left_out"} <= codes.keys()
    assert not {"nli_knows_no_english", "builtin_knows_no_english"} & codes.keys()
    with pytest.raises(BadInput, match=r"answered_by = model: .* holds no accepted answers"):
        execute(tmp_path, k=1, answered_by="model")


def test_nobody_is_asked_where_retrieval_alone_is_wanted(tmp_path: Path) -> None:
    asked = [each | {"metadata": {"answer": "a capital"}} for each in QUERIES]
    place = folder(tmp_path, queries=asked)
    found = execute(place, k=1, answered_by="nobody")
    assert set(found.records.frame["verdict"]) == {"unlabelled"}
    assert found.digests.keys() == {"data", "config"}
    tiny.write_jsonl(tmp_path / "given.jsonl", [
        {"knowledge": "k a", "question": "q", "right_answer": "a", "hallucinated_answer": "b"}
    ])  # fmt: skip
    with pytest.raises(BadInput, match=r"answered_by = nobody: .* holds no passages of its own"):
        execute(tmp_path / "given.jsonl", answered_by="nobody")


def test_questions_without_an_accepted_answer_are_answered_and_not_judged(tmp_path: Path) -> None:
    asked = [QUERIES[0] | {"metadata": {"answer": "a capital"}}, QUERIES[1]]
    found = execute(folder(tmp_path, queries=asked), k=1, tier="retrieved", max_new_tokens=16)
    verdicts = found.records.frame.set_index("group")["verdict"]
    assert verdicts["q2"] == "unlabelled"
    assert verdicts["q1"] != "unlabelled"
    (said,) = [finding for finding in found.audit.findings if finding.code == "answers_unlabelled"]
    assert "50.0% of the answers have no label" in said.message
