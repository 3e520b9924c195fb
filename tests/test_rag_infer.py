"""The expensive half of `rag`: records do not depend on how they were computed, and nothing paid for is lost."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments.models import cross_encoder, endpoint, generate, language
from experiments.rag import RAG
from experiments.rag.inference import data, judge, nli, similarity
from experiments.rag.inference.generate import Local, Prompt, plain
from experiments.rag.inference.params import RagInfer
from experiments.rag.inference.reading import Answer
from harness import __main__ as command_line
from harness.progress import Work
from harness.running import hardware, run
from harness.running.settings import resolve
from harness.stage import BadInput
from tests import tiny
from tests.loopback import Endpoint, completion, serve
from tests.loopback import judge as as_judge

QUESTIONS = 8


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIGSWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(endpoint, "_PAUSE", 0.01)


@pytest.fixture
def server() -> Iterator[Endpoint]:
    with serve(Endpoint()) as running:
        yield running


def execute(**settings: Any) -> run.Result:
    given = {name: str(value) for name, value in {"limit": QUESTIONS, "folds": 2, **settings}.items()}
    return run.execute(resolve(RAG, given, hardware.load_profiles()))


@pytest.fixture(scope="module")
def reference() -> pd.DataFrame:
    """The records of the built-in data with every setting as it comes."""
    return execute(cache="off").records.frame


# ---- what the built-in example is ----


def test_the_built_in_records_have_a_row_for_each_question_and_tier(reference: pd.DataFrame) -> None:
    assert len(reference) == 3 * QUESTIONS
    assert reference.groupby("tier")["achieved"].unique().map(list).to_dict() == {
        "high": [0.8],
        "medium": [0.5],
        "low": [0.2],
    }
    assert set(reference["verdict"]) == {"faithful", "hallucinated"}
    assert (
        reference.loc[reference["tier"] == "low", "label"].mean()
        > reference.loc[reference["tier"] == "high", "label"].mean()
    )


def test_the_built_in_cross_encoder_knows_its_world() -> None:
    told = ("Mira plays flute. Mira keeps goats.", "Bado drinks tea. Zulin visits Kelso.")
    model = cross_encoder.load("builtin", "cpu")
    found = nli.read(
        model, 8, [Answer("", text, told) for text in ("Mira keeps goats.", "Mira keeps dogs.", "Bado plays harp.")]
    )
    entailed = [row["nli_min"] for row in found if isinstance(row, dict)]
    assert entailed[0] > 0.9
    assert max(entailed[1:]) < 0.1


# ---- records do not depend on how they were computed ----


def test_pairs_in_buckets_are_judged_as_one_at_a_time() -> None:
    model = cross_encoder.load("builtin", "cpu")
    dataset = data.builtin(10)
    premises = list(dataset.passages.values())[:40]
    pairs = [(" ".join(premises[: 1 + i % 5]), dataset.questions[i % 10].accepted[0][0]) for i in range(40)]
    ids, segments, _ = model.encode(pairs)
    one = [model.entails([ids[i]], [segments[i]])[0] for i in range(len(ids))]
    for size in (7, 40):
        for chosen in model.batches(ids, size):
            found = model.entails([ids[i] for i in chosen], [segments[i] for i in chosen])
            np.testing.assert_allclose(found, [one[i] for i in chosen], atol=1e-5)


def test_a_pair_is_cut_in_its_premise_alone() -> None:
    model = replace(cross_encoder.load("builtin", "cpu"), window=30)
    long, short = "Mira plays flute. " * 20, "Mira plays flute."
    ids, _, cut = model.encode([(long, short), (short, short)])
    own = model.tokenizer(short, short)["input_ids"]
    assert len(ids[0]) == 30
    hypothesis = own[own.index(model.tokenizer.eos_token_id) :]  # whole, between its marks
    assert ids[0][-len(hypothesis) :] == hypothesis
    assert (ids[1], cut) == (own, {(long, short)})
    with pytest.raises(BadInput, match="a sentence is longer than its window of 30 tokens"):
        model.encode([(short, long)])


def test_a_model_without_entailment_is_no_cross_encoder(tmp_path: Path) -> None:
    folder = tiny.save_llama(tmp_path / "llama")
    with pytest.raises(BadInput, match=r"nli = .*it is no classifier"):
        cross_encoder.load(str(folder), "cpu")


def test_answers_of_a_batch_are_those_given_alone() -> None:
    model = language.load("builtin", "fp32", "cpu")
    generate.prepare(model)
    dataset = data.builtin(6)
    texts = list(dataset.passages.values())
    prompts = [
        model.tokenizer(plain(Prompt(question.text, texts[i : 2 * i + 1])))["input_ids"]
        for i, question in enumerate(dataset.questions)
    ]
    together, tokens, padding = generate.answer(model, prompts, 40)
    alone = [generate.answer(model, [prompt], 40) for prompt in prompts]
    assert together == [said[0] for said, _, _ in alone]
    assert tokens == sum(useful for _, useful, _ in alone)  # neither padding before a prompt nor after an answer counts
    assert padding > sum(max(map(len, prompts)) - len(prompt) for prompt in prompts)
    assert [padded for _, _, padded in alone] == [0] * len(prompts)


def test_an_answer_that_meets_its_limit_is_cut_and_has_no_label(reference: pd.DataFrame) -> None:
    whole = reference.set_index("item")
    assert set(whole["finish_reason"]) == {"stop"}
    found = execute(max_new_tokens=15)
    frame = found.records.frame.set_index("item")
    cut = frame["verdict"] == "cut"
    assert 0 < cut.sum() < len(frame)
    assert (cut == (frame["finish_reason"] == "length")).all()
    assert set(frame.loc[cut, "label"]) == {-1}
    assert frame.loc[cut, ["lexical_tokens_min", "nli_min", "string_rouge"]].isna().all(axis=None)
    pd.testing.assert_series_equal(frame.loc[~cut, "answer"], whole.loc[~cut, "answer"])
    assert found.report.metrics["answers_cut"] == cut.mean()
    (told,) = [finding for finding in found.audit.findings if finding.code == "answers_cut"]
    assert (told.level, "at max_new_tokens = 15 " in told.message) == ("warn", True)


def test_what_a_model_here_thinks_is_found_behind_special_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Marks that are special tokens would be dropped from a plain text, and the thinking would stay."""
    model = language.load("builtin", "fp32", "cpu")
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    end = model.network.generation_config.eos_token_id
    ids = tokenizer("[THINK]Mira keeps goats.[/THINK]Bado drinks tea.", add_special_tokens=False)["input_ids"]
    close = ids.index(tokenizer.convert_tokens_to_ids("[/THINK]"))
    for prompt, new, text, cut in (
        ([], [*ids, end], "Bado drinks tea.", False),
        ([], ids, "Bado drinks tea.", True),  # no end after so many tokens
        ([], [*ids[:close], end], "", True),
        (ids[:1], [*ids[1:], end], "Bado drinks tea.", False),
        (ids[:1], [*ids[1:close], end], "", True),
    ):
        said = generate._said(tokenizer, prompt, new, [end])
        assert (said.text, said.cut, said.thought) == (text, cut, close - 1)


def test_passages_that_the_window_cannot_hold_are_left_out_and_counted() -> None:
    generator = Local(RagInfer(max_new_tokens=900), "cpu")
    prompt = Prompt("What does Mira keep?", ["Mira keeps goats. Bado drinks tea."] * 30)
    count = generator.fitting(prompt)
    length = [len(generator._encode(prompt._replace(passages=prompt.passages[:n]))) for n in (count, count + 1)]
    assert length[0] + 900 <= 1024 < length[1] + 900
    with pytest.raises(BadInput, match="its window of 1024 tokens does not hold one passage"):
        Local(RagInfer(max_new_tokens=1020), "cpu").fitting(prompt)
    found = execute(limit=2, max_new_tokens=940, tier="high")
    assert found.records.origin["counts"]["prompts_cut"] == 2
    assert (found.records.frame["passages"] < 10).all()


def test_a_chat_template_is_applied_where_there_is_one(tmp_path: Path) -> None:
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    folder = tiny.save_llama(tmp_path / "llama", chat_template=template)
    prompt = Prompt("Who?", ["A passage."])
    for chat, expected in ((True, "<user>Answer the question"), (False, "Context: A passage. Request: Who? Answer:")):
        generator = Local(RagInfer(model=str(folder), chat_template=chat), "cpu")
        assert generator.model.tokenizer.decode(generator._encode(prompt), skip_special_tokens=True).startswith(
            expected
        )


def test_similarity_is_the_cosine_to_the_nearest_passage() -> None:
    angle = {"One.": 0.0, "Two.": 0.5, "p": 0.2, "q": 1.0}

    def embed(texts: Any) -> Any:
        return np.array([[np.cos(angle[text]), np.sin(angle[text])] for text in texts], dtype=np.float32)

    (found,) = similarity.read(embed, [Answer("", "One. Two.", ("p", "q"))])
    assert isinstance(found, dict)
    assert found["similarity_min"] == pytest.approx(np.cos(0.3))
    assert found["similarity_mean"] == pytest.approx((np.cos(0.2) + np.cos(0.3)) / 2)


def test_string_metrics_are_of_the_most_similar_passage() -> None:
    (found,) = judge.strings([Answer("", "Mira keeps goats.", ("nothing", "Mira keeps goats."))])
    assert found == {"string_rouge": 1.0, "string_chrf": pytest.approx(1.0), "string_levenshtein": 1.0}


# ---- a run that is cut short ----


def test_an_interrupted_run_goes_on_with_the_chunk_it_was_in(monkeypatch: pytest.MonkeyPatch) -> None:
    answered: list[int] = []
    real = generate.answer

    def counted(model: Any, prompts: list[Any], tokens: int) -> Any:
        answered.extend([1] * len(prompts) if tokens > 2 else [])  # fewer are warm-up
        return real(model, prompts, tokens)

    monkeypatch.setattr(generate, "answer", counted)

    def stop_at_second(work: Work, count: int, note: str = "") -> None:
        if work.what == "rag" and sum(answered) == 16:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Work, "advance", stop_at_second)
        with pytest.raises(KeyboardInterrupt):
            execute(batch_size=2)
    assert sum(answered) == 16
    found = execute(batch_size=2)
    assert sum(answered) == 3 * QUESTIONS
    assert found.records.cost is not None
    assert {"generation", "lexical", "nli", "redeep", "string", "detectors"} == set(found.records.cost.part_seconds)
    assert found.metrics()["seconds_per_1000/nli"] > 0


def test_a_run_whose_judge_fails_ends_and_goes_on_without_asking_again(server: Endpoint) -> None:
    served = 0

    def answer(request: dict[str, Any]) -> Any:
        nonlocal served
        served += 1
        return as_judge(request) if served <= 30 else (503, {}, b"")

    server.answer = answer
    settings = {"judge_endpoint": server.address, "retries": 0, "batch_size": 1, "in_flight": 2, "limit": 4, "k": 3}
    with pytest.raises(BadInput, match=r"max_error_rate = 0.1: \d+ of 12 failed, .*attempt 1 of 1"):
        execute(**settings)
    asked, server.answer = len(server.requests), as_judge
    found = execute(**settings)
    sent = [json.dumps(request) for request in server.requests]
    assert not set(sent[:30]) & set(sent[asked:])
    assert found.report.metrics["missing/ragas"] == 0
    assert found.records.frame["ragas_faithfulness"].notna().all()
    assert len(set(sent)) < asked + 30


def test_a_few_failures_are_missing_scores(server: Endpoint) -> None:
    (unlucky,) = execute(limit=4, tier="low", k=3).records.frame.query("item == 'q002/low'")["answer"]

    def answer(request: dict[str, Any]) -> Any:
        return (503, {}, b"") if unlucky.split(".")[0] in json.dumps(request) else as_judge(request)

    server.answer = answer
    found = execute(limit=4, tier="low", k=3, judge_endpoint=server.address, retries=0, max_error_rate=0.5)
    row = found.records.frame.set_index("item").loc["q002/low"]
    assert np.isnan(row["ragas_faithfulness"])
    assert "503" in row["error_ragas"]
    assert 0 <= row["nli_min"] <= 1
    assert found.report.metrics["missing/ragas"] == 1
    assert not [name for name in found.records.frame if name.startswith("string_")]


def test_a_metric_that_the_judge_cannot_give_is_missing_alone(server: Endpoint) -> None:
    def answer(request: dict[str, Any]) -> Any:
        found = as_judge(request)
        return found if b"verdict" in found[2] else completion('{"statements": []}')

    server.answer = answer
    found = execute(limit=4, tier="low", k=3, judge_endpoint=server.address, max_error_rate=0, ragas_metric="precision")
    frame = found.records.frame
    assert set(frame["error_ragas_faithfulness"]) == {"the judge gave no faithfulness"}
    assert frame["ragas_faithfulness"].isna().all()
    assert frame["ragas_precision"].notna().all()
    assert found.report.metrics["missing/ragas"] == 0
    assert "failures_scored" not in {finding.code for finding in found.audit.findings}


def test_replies_kept_before_a_run_are_counted_for_they_cost_it_nothing(server: Endpoint) -> None:
    settings = {"limit": 4, "tier": "low", "k": 3, "judge_endpoint": server.address, "batch_size": 1, "in_flight": 1}
    first, asked = execute(**settings), len(server.requests)
    second = execute(**settings, cache="refresh")
    assert len(server.requests) == asked
    assert first.records.origin["counts"]["replies_kept_before"] == 0
    assert second.records.origin["counts"]["replies_kept_before"] == asked
    told = [{finding.code for finding in found.audit.findings} for found in (first, second)]
    assert ["cost_of_kept_replies" in codes for codes in told] == [False, True]


def test_an_endpoint_answers_and_what_it_does_not_answer_is_an_error(server: Endpoint) -> None:
    dataset = data.builtin(4)

    def answer(request: dict[str, Any]) -> Any:
        text = request["messages"][-1]["content"]
        (number,) = [i for i, question in enumerate(dataset.questions) if question.text in text]
        right = " ".join(way for (way,) in dataset.questions[number].accepted)
        return [completion(right), completion("I don't know."), completion(None, refusal="no"), completion("No.")][
            number
        ]

    server.answer = answer
    settings = {"limit": 4, "tier": "high", "endpoint": server.address, "model": "m", "retries": 0}
    found = execute(**settings, max_error_rate=0.5)
    assert list(found.records.frame["verdict"]) == ["faithful", "abstained", "hallucinated"]
    assert found.records.origin["counts"]["errors"] == 1
    assert found.report.metrics["abstained"] == pytest.approx(1 / 3)
    with pytest.raises(BadInput, match=r"1 of 4 failed, .*the model refused: no"):
        execute(**settings)
    with pytest.raises(BadInput, match="needs the name of a model there"):
        execute(limit=4, endpoint=server.address)


def test_a_run_prints_a_line_for_each_detector_and_tier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tiny.new_store(tmp_path))
    assert command_line.main(["rag", "--limit", str(QUESTIONS), "--folds", "2"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    told = {(line[0], line[1]) for line in lines if len(line) == 12}
    assert {(d, t) for d in ("lexical", "nli", "string", "fused") for t in ("high", "medium", "low", "all")} <= told
    assert not [line for line in lines if line and line[0] == "auc/nli"]  # what the lines above say


# ---- answers that come with their labels ----

HALUEVAL = {
    "knowledge": "The hotel is in Delhi.It has 200 rooms.",
    "question": "Where is the hotel?",
    "right_answer": "Delhi",
    "hallucinated_answer": "It is in Mumbai.",
}


def test_given_answers_are_judged_as_they_come(tmp_path: Path) -> None:
    path = tiny.write_jsonl(
        tmp_path / "halu.jsonl", [HALUEVAL | {"question": f"Where is hotel {i}?"} for i in range(4)]
    )
    found = execute(dataset=path, limit=4)
    frame = found.records.frame
    assert list(frame["label"]) == [0, 1] * 4
    assert set(frame["tier"]) == {"given"}
    assert (frame["passages"] == 2).all()
    assert found.report.metrics["auc/lexical"] == 1.0
    assert "nli_knows_no_english" in {finding.code for finding in found.audit.findings}
    assert list(execute(dataset=path, limit=4, label="answers").records.frame["label"]) == [0, 1] * 4


def test_what_stands_before_a_given_answer_as_thinking_is_not_judged(tmp_path: Path) -> None:
    thought = HALUEVAL | {"hallucinated_answer": "<think>It may be in Delhi. It has 200 rooms.</think>It is in Mumbai."}
    frame = execute(
        dataset=tiny.write_jsonl(tmp_path / "halu.jsonl", [thought | {"question": f"{i}?"} for i in range(4)]), limit=4
    ).records.frame
    assert list(frame["answer"]) == ["Delhi", "It is in Mumbai."] * 4
    assert list(frame["label"]) == [0, 1] * 4


def test_a_given_answer_without_a_word_has_nothing_to_be_judged_by(tmp_path: Path) -> None:
    rows = [HALUEVAL | {"question": f"Where is hotel {i}?"} for i in range(4)]
    frame = execute(
        dataset=tiny.write_jsonl(tmp_path / "halu.jsonl", [*rows, HALUEVAL | {"hallucinated_answer": "..."}]), limit=5
    ).records.frame
    assert list(frame["evidence"]) == [1] * 9 + [0]
    assert frame["nli_min"].isna().tolist() == [False] * 9 + [True]


@pytest.mark.parametrize("name", ["knowledge", "right_answer"])
def test_given_data_without_a_word_are_refused(tmp_path: Path, name: str) -> None:
    path = tiny.write_jsonl(tmp_path / "halu.jsonl", [HALUEVAL, HALUEVAL | {name: " "}])
    with pytest.raises(BadInput, match=rf"halu.jsonl, line 2: {name}: ' ' holds no word"):
        data.read(str(path))


def test_labels_that_the_data_lack_cannot_be_given() -> None:
    with pytest.raises(BadInput, match="label = given: builtin brings no labels along"):
        execute(label="given")


# ---- what can be wrong with data ----


def own(folder: Path, passages: list[Any], questions: list[Any]) -> Path:
    folder.mkdir()
    tiny.write_jsonl(folder / "passages.jsonl", passages)
    tiny.write_jsonl(folder / "questions.jsonl", questions)
    return folder


PASSAGES = [{"id": f"p{i}", "text": f"Fact {i}."} for i in range(3)]
ASKED = {"id": "q", "question": "What?", "answers": ["fact 1", "one"], "relevant": ["p1"]}


def test_an_own_corpus_is_read(tmp_path: Path) -> None:
    parts = ASKED | {"id": "r", "answers": [["fact 1"], ["fact 2", "two"]]}
    found = data.read(str(own(tmp_path / "own", PASSAGES, [ASKED, parts])))
    assert [question.accepted for question in found.questions] == [
        (("fact 1", "one"),),
        (("fact 1",), ("fact 2", "two")),
    ]
    assert found.passages["p1"] == "Fact 1."


@pytest.mark.parametrize(
    ("passages", "questions", "said"),
    [
        (PASSAGES, [ASKED | {"relevant": ["p9"]}], "questions.jsonl, line 1: relevant passage 'p9' is not in passages"),
        (PASSAGES, [ASKED, ASKED], "line 2: question id 'q' stands there twice"),
        (PASSAGES * 2, [ASKED], "passages.jsonl, line 4: passage id 'p0' stands there twice"),
        (PASSAGES, [{"id": "q", "question": "What?", "relevant": ["p1"]}], "line 1: answers: field required; allowed:"),
        (PASSAGES, [ASKED | {"answer": "x"}], "line 1: answer: extra inputs are not permitted"),
        (PASSAGES, [ASKED | {"answers": ["one", "?!"]}], "questions.jsonl, line 1: answers: '\\?!' holds no word"),
        (PASSAGES, [], "holds no question"),
    ],
)
def test_a_fault_in_own_data_is_named(tmp_path: Path, passages: list[Any], questions: list[Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        data.read(str(own(tmp_path / "own", passages, questions)))


def test_data_that_are_not_there_are_named(tmp_path: Path) -> None:
    for dataset in (tmp_path / "none", tmp_path):
        with pytest.raises(BadInput, match=r"no such file or folder.*allowed: `builtin`; a folder of passages"):
            data.read(str(dataset))
    (tmp_path / "broken.jsonl").write_text('{"knowledge"\n')
    with pytest.raises(BadInput, match=r"broken.jsonl, line 1: not JSON"):
        data.read(str(tmp_path / "broken.jsonl"))


# ---- real data ----


@pytest.mark.slow
def test_halueval_is_told_apart_better_by_length_than_by_most_detectors(real_data: Path) -> None:
    """Its right answers are short and its hallucinated ones long: the audit says that no detector beats that."""
    found = execute(dataset=real_data / "halueval" / "qa_one_turn.jsonl", limit=500, folds=5)
    assert len(found.records.frame) == 1000
    assert found.report.metrics["auc_length"] == pytest.approx(0.933, abs=0.005)
    assert found.report.metrics["auc/lexical"] == pytest.approx(0.906, abs=0.01)
    assert "trivial_baseline" in {finding.code for finding in found.audit.findings}


def test_the_records_tell_which_label_was_taken_for_support() -> None:
    assert execute(cache="off", limit=2, tier="low").records.origin["decided"] == {"nli_label": "entailment"}


def test_no_cross_encoder_need_be_there() -> None:
    found = execute(limit=2, tier="low", k=3, nli="off", redeep_model="off")
    assert not [name for name in found.records.frame if str(name).startswith("nli_")]
    assert "auc/nli" not in found.report.metrics | found.report.undefined
    assert "nli" not in RAG.inputs(RagInfer(nli="off"))
