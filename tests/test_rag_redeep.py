"""ReDeEP as a detector of `rag`: the answers of a model here, read by that very model, and learnt of out of fold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from experiments.columns import Columns
from experiments.detect.bench import baseline
from experiments.models import language, packed
from experiments.models.endpoint import Tally
from experiments.models.proof import Proof
from experiments.rag import RAG
from experiments.rag.inference import data, redeep
from experiments.rag.inference.generate import Local, Prompt, messages, plain
from experiments.rag.inference.params import RagInfer
from experiments.rag.inference.reading import Answer, Setup
from experiments.rag.scoring import answers as scoring
from experiments.rag.scoring.params import RagScore
from experiments.redeep.embed import embedder
from experiments.redeep.encode import Encoded
from harness.running import hardware, run
from harness.running.settings import resolve
from harness.stage import BadInput, Records
from tests import tiny
from tests.loopback import Endpoint, completion, serve
from tests.test_rag_score import frame

HALUEVAL = {
    "knowledge": "Bob lives in Paris. Ann works in Rome.",
    "question": "Where does Bob live?",
    "right_answer": "Bob lives in Paris.",
    "hallucinated_answer": "Bob lives in Rome.",
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIGSWEEP_CACHE", str(tmp_path / "cache"))


def execute(**settings: Any) -> run.Result:
    return run.execute(resolve(RAG, settings, hardware.load_profiles()))


def answered(count: int = 6, **settings: Any) -> tuple[Local, list[Answer]]:
    """Some questions of the built-in world with three passages each, as the built-in model answers them."""
    dataset, local = data.builtin(), Local(RagInfer(**settings), "cpu")
    prompts = [
        Prompt(question.text, [dataset.passages[name] for name in sorted(question.relevant)[:3]])
        for question in dataset.questions[:count]
    ]
    said = local.answer(prompts).said
    return local, [
        Answer(prompt.question, each.text, tuple(prompt.passages))
        for prompt, each in zip(prompts, said, strict=True)
        if each is not None
    ]


def read(local: Local | None, answers: list[Answer], **settings: Any) -> list[Any]:
    reader = redeep.load(Setup(RagInfer(**settings), "cpu", None, Tally(), local.model if local else None))
    assert callable(reader)
    return list(reader(answers))


def test_what_is_read_is_what_the_simple_extractor_reads_meaned_over_sentences() -> None:
    local, answers = answered()
    rows = read(local, answers, redeep_tokens=300)
    reader = redeep._Reader.of(local.model, RagInfer())
    alone = embedder("model", local.model, 512)

    def embed(texts: list[str]) -> Any:
        with packed.attending(local.model):
            return alone(texts)

    local.model.network.set_attn_implementation("eager")
    for answer, row in zip(answers, rows, strict=True):
        encoded = reader._encode(answer)
        assert isinstance(encoded, Encoded)
        ecs, pks = baseline.extract(local.model, encoded, reader.heads, "chunk", "jsd", embed)
        expected = [*ecs.mean(axis=0), *pks.mean(axis=0), 0.0, 0.0, 0.0]  # neither cut nor dated nor thinking
        np.testing.assert_allclose(list(row.values()), expected, atol=1e-5)


def test_an_answer_is_read_behind_the_tokens_that_the_model_was_given_and_gave() -> None:
    local, answers = answered(1)
    (answer,) = answers
    encoded = redeep._Reader.of(local.model, RagInfer())._encode(answer)
    assert isinstance(encoded, Encoded)
    prompt = local.model.tokenizer(plain(Prompt(answer.question, answer.passages)))["input_ids"]
    assert encoded.ids[: encoded.prompt_tokens].tolist() == prompt
    given = local.model.tokenizer.decode(encoded.ids[encoded.prompt_tokens :], skip_special_tokens=True)
    assert given.strip() == answer.text


def test_a_chat_model_reads_its_answer_behind_its_template(tmp_path: Path) -> None:
    template = "{% for m in messages %}<u>{{ m.content }}</u>{% endfor %}<a>"
    folder = tiny.save_llama(tmp_path / "model", chat_template=template)
    answer = Answer("Who?", "Bob.", ("Bob lives.",))
    encoded = redeep._Reader.of(language.load(str(folder), "fp32", "cpu"), RagInfer(model=str(folder)))._encode(answer)
    assert isinstance(encoded, Encoded)
    assert encoded.sample.prompt == messages(Prompt(answer.question, answer.passages))[0]["content"]
    assert encoded.sample.response == "Bob."


def test_reading_changes_nothing_of_what_the_model_says_next() -> None:
    local, answers = answered(3)
    read(local, answers)
    again = local.answer([Prompt(each.question, each.passages) for each in answers]).said
    assert [each.text for each in again if each] == [each.text for each in answers]


def test_batches_do_not_decide_what_is_read() -> None:
    local, answers = answered(8)
    one, many = (pd.DataFrame(read(local, answers, redeep_tokens=size)) for size in (1, 4096))
    np.testing.assert_allclose(one, many, atol=1e-5)


def test_the_model_that_answers_here_is_read_and_the_others_are_left_as_they_were() -> None:
    found = execute(limit=12, cache="off", folds=2)
    without = execute(limit=12, cache="off", folds=2, redeep_model="off")
    assert {"auc/redeep", "auc/redeep/low", "agreement/lexical+redeep"} <= found.report.metrics.keys()
    assert found.report.metrics["auc"] == without.report.metrics["auc"]  # learnt, it is fused only where that is asked
    assert "auc/redeep" not in without.report.metrics
    kept = [name for name in found.records.frame if not str(name).startswith("redeep_")]
    pd.testing.assert_frame_equal(found.records.frame[kept], without.records.frame)


def test_another_model_may_read_what_an_endpoint_answers_or_the_data_bring_along(tmp_path: Path) -> None:
    tiny.write_jsonl(tmp_path / "pairs.jsonl", [HALUEVAL] * 4)
    folder = str(tiny.save_llama(tmp_path / "model"))
    given = execute(dataset=str(tmp_path / "pairs.jsonl"), redeep_model=folder, folds=2)
    assert given.records.frame["redeep_pks_0"].notna().all()
    assert "redeep" in RAG.inputs(RagInfer(dataset=str(tmp_path / "pairs.jsonl"), redeep_model=folder))
    with serve(Endpoint(answer=lambda _: completion("Bob lives in Paris."))) as server:
        remote = execute(limit=3, tier="high", endpoint=server.address, model="m", redeep_model="builtin", folds=2)
    assert remote.records.frame["redeep_pks_0"].notna().all()


def test_a_model_may_answer_the_questions_of_data_that_bring_answers_along(tmp_path: Path) -> None:
    tiny.write_jsonl(tmp_path / "pairs.jsonl", [HALUEVAL] * 4)
    with serve(Endpoint(answer=lambda _: completion("It is Paris, where Bob lives in."))) as server:
        own = execute(
            dataset=str(tmp_path / "pairs.jsonl"), answered_by="model", endpoint=server.address, model="m", folds=2
        )
    assert len(own.records.frame) == 4
    assert set(own.records.frame["answer"]) == {"It is Paris, where Bob lives in."}
    assert "Ann works in Rome." in json.dumps(server.requests[0])
    with pytest.raises(BadInput, match="label = given: a model's answer brings no labels along"):
        execute(dataset=str(tmp_path / "pairs.jsonl"), answered_by="model", label="given")


def test_a_model_that_cannot_be_read_answers_all_the_same_and_the_audit_says_so() -> None:
    def unproven(model: Any) -> Proof:
        raise BadInput("model builtin: its layers do not add up")

    with patch("experiments.models.language.prove", unproven):
        found = execute(limit=6, cache="off", folds=2)
        said = [finding for finding in found.audit.findings if finding.code == "detector_unable"]
        with pytest.raises(BadInput, match="do not add up"):
            execute(limit=6, cache="off", folds=2, redeep_model="builtin")
    assert [finding.level for finding in said] == ["warn"]
    assert "its layers do not add up" in said[0].message
    assert "auc/lexical" in found.report.metrics


def test_passages_for_which_the_window_has_no_room_are_left_out_and_the_question_stays() -> None:
    local, (answer,) = answered(1)
    long = Answer(answer.question, answer.text, answer.passages * 200)
    reader = redeep._Reader.of(local.model, RagInfer())
    encoded = reader._fitting(long)
    assert isinstance(encoded, Encoded)
    assert encoded.cut
    assert encoded.sample.prompt.endswith(f"Request: {answer.question} Answer:")
    whole = reader._fitting(answer)
    assert isinstance(whole, Encoded)
    assert not whole.cut


def test_what_cannot_be_read_is_a_failure_only_of_a_model_that_was_named() -> None:
    local, (answer,) = answered(1)
    long = Answer(answer.question, "Bob lives in Paris. " * 400, answer.passages)
    found = read(local, [answer, long])
    assert isinstance(found[0], dict)
    assert "leave no room for a prompt" in found[1]["error_redeep_"]
    assert "leave no room for a prompt" in read(None, [long], redeep_model="builtin")[0]


def test_answers_that_nobody_asked_to_have_read_do_not_end_a_run() -> None:
    def overflowing(reader: Any, encoded: Encoded, features: Any) -> Any:
        features.ecs[:] = np.inf
        return plainly(reader, encoded, features)

    plainly = redeep._Reader._row
    with patch.object(redeep._Reader, "_row", overflowing):
        found = execute(limit=6, cache="off", folds=2)
        with pytest.raises(BadInput, match=r"max_error_rate = 0.1: .* not finite"):
            execute(limit=6, cache="off", folds=2, redeep_model="builtin")
    (said,) = [finding.message for finding in found.audit.findings if finding.code == "detector_unable"]
    assert "redeep could not read 18 of 18 answers" in said
    assert "auc/lexical" in found.report.metrics
    assert "auc/redeep" not in found.report.metrics


def test_a_named_model_that_thinks_or_asks_for_the_date_is_told_of(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ strftime_now('%Y') }} {{ m.content }}{% endfor %}<think>"
    folder = str(tiny.save_llama(tmp_path / "model", chat_template=template, window=2048))
    found = execute(limit=2, k=2, tier="high", redeep_model=folder, folds=2)
    codes = {finding.code for finding in found.audit.findings}
    assert {"thoughts_unread", "template_asks_for_date"} <= codes


LEARNS: dict[str, Any] = {"redeep_scorer": "logistic"}

# --- learning ----------------------------------------------------------------------------------------------------


def planted(questions: int, columns: int, tells: float, seed: int = 0) -> pd.DataFrame:
    """Answers whose first head and layer tell their label as surely as said, and whose others tell nothing."""
    rows, rng = frame(questions, seed), np.random.default_rng(seed + 1)
    features = {}
    for i in range(columns):
        features[f"redeep_ecs_0_{i}"] = rng.uniform(0, 1, len(rows)) - (tells * rows["label"] if i == 0 else 0)
        features[f"redeep_pks_{i}"] = rng.uniform(0.1, 0.3, len(rows)) + (0.2 * tells * rows["label"] if i == 0 else 0)
    return rows.join(pd.DataFrame(features))


def aucs(rows: pd.DataFrame, detector: str, **chosen: Any) -> float:
    """The AUC out of fold alone."""
    params = RagScore.model_validate({"detector": detector, **chosen})
    (found,) = RAG.score_many(Records(rows, None, {"counts": {}}), [params], ["auc"])
    return float(found.metrics["auc"])


def report(rows: pd.DataFrame, **chosen: Any) -> Any:
    return RAG.score(Records(rows, None, {"counts": {}}), RagScore.model_validate(chosen))


@pytest.mark.parametrize("scorer", ["linear", "logistic", "ensemble"])
def test_what_tells_is_found_and_what_tells_nothing_is_not_flattered(scorer: str) -> None:
    assert aucs(planted(60, 20, 1.0), "redeep", redeep_scorer=scorer, redeep_top_n=1, redeep_top_k=1) > 0.9
    assert 0.35 < aucs(planted(60, 20, 0.0), "redeep", redeep_scorer=scorer) < 0.65


def test_the_published_combination_of_all_answers_is_that_of_a_plain_computation() -> None:
    rows = planted(60, 3, 0.7)
    columns = Columns.of(rows.filter(regex="^redeep_"))
    learnt = scoring._taught("redeep", columns, rows["label"].to_numpy(), RagScore(redeep_top_n=2, redeep_top_k=1))
    heads = sorted((f"redeep_ecs_0_{i}" for i in range(3)), key=lambda name: roc_auc_score(rows["label"], rows[name]))
    layers = sorted((f"redeep_pks_{i}" for i in range(3)), key=lambda name: -roc_auc_score(rows["label"], rows[name]))
    ecs, pks = rows[heads[:2]].sum(axis=1), rows[layers[0]]
    plain = (pks - pks.min()) / np.ptp(pks) - 0.6 * (ecs - ecs.min()) / np.ptp(ecs)
    np.testing.assert_allclose(learnt(columns), (plain + 0.6) / 1.6, atol=1e-12)  # between 0 and 1


def test_what_is_fused_of_a_detector_that_learns_has_been_learnt_of_others() -> None:
    """Heads chosen among very many tell the labels that chose them: the regression would trust nothing else."""
    rows = planted(40, 150, 0.0)
    alone, together = (aucs(rows, "fused", fuse=each, fusion="logistic", **LEARNS) for each in ("unlearnt", "all"))
    assert together > alone - 0.05
    answers = scoring.read_answers(rows, RagScore(**LEARNS))
    unseen = scoring._by_others(answers, "redeep", RagScore(**LEARNS))
    own = scoring._taught("redeep", answers.learning["redeep"], answers.labels, RagScore(**LEARNS))
    assert roc_auc_score(answers.labels, own(answers.learning["redeep"])) > 0.9
    assert roc_auc_score(answers.labels, unseen) < 0.65


def test_an_answer_that_was_not_read_has_no_score_and_is_counted() -> None:
    rows = planted(40, 3, 0.7)
    rows.loc[[3, 7], rows.filter(regex="^redeep_").columns] = np.nan
    found = report(rows, fuse="all").metrics
    assert found["missing/redeep"] == found["missing/fused"] == 2
    assert report(rows).metrics["missing/fused"] == 0


def test_a_weighted_sum_is_no_probability_but_a_regression_gives_one() -> None:
    rows = planted(40, 3, 0.7)
    assert "redeep_scorer=logistic" in report(rows).undefined["ece/redeep"]
    assert report(rows, redeep_scorer="logistic").metrics["ece/redeep"] < 0.3


@pytest.mark.parametrize("fuse", ["unlearnt", "all"])
def test_a_detector_that_has_read_too_little_to_learn_takes_nothing_from_the_others(fuse: str) -> None:
    rows = planted(40, 3, 0.7)
    rows.loc[rows["label"] == 1, rows.filter(regex="^redeep_").columns] = np.nan
    found = report(rows, fuse=fuse)
    assert "f1/lexical" in found.metrics
    assert "auc/redeep" in found.undefined
    assert ("auc/fused" in found.metrics) == (fuse == "unlearnt")


@pytest.mark.parametrize("detector", ["lexical", "redeep", "fused"])
@pytest.mark.parametrize("fuse", ["unlearnt", "all"])
def test_many_settings_are_scored_as_one_is_though_only_one_detector_learns(detector: str, fuse: str) -> None:
    rows = planted(40, 3, 0.7)
    params = RagScore.model_validate({"detector": detector, "fuse": fuse})
    whole = report(rows, detector=detector, fuse=fuse).metrics
    (found,) = RAG.score_many(Records(rows, None, {"counts": {}}), [params], ["auc", "f1", "auc_in_tier"])
    assert found.metrics == {name: whole[name] for name in ("auc", "f1", "auc_in_tier")}
