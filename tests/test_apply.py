"""A detector outlives its run: it scores what it has not seen, in the run's own bits, and says its worth."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest

from experiments.detect import DETECT
from experiments.detect.scoring.kept import apply, learn
from experiments.detect.scoring.params import DetectScore
from harness import __main__ as command_line
from harness.commands.apply import write
from harness.running.records import read_records, write_records
from harness.stage import BadInput, Records
from tests.tiny import features, new_store, samples, save_llama, write_jsonl

ROOT = Path(__file__).parent.parent
SCORERS = ("linear", "logistic", "ensemble")
Command = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, data, and a run of `detect` on them."""
    folder = tmp_path_factory.mktemp("apply")
    save_llama(folder / "model")
    write_jsonl(folder / "data.jsonl", samples(8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", new_store(folder))
        patch.chdir(folder)
        words = "detect --model model --dataset data.jsonl --folds 2 --texts true --batch_tokens 1"
        kept = "--save-records records.parquet --save-detector detector.json"
        assert command_line.main([*words.split(), *kept.split()]) == 0
    return folder


@pytest.fixture
def command(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in the folder: its exit code, and the last line that it says of a mistake."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place}/mlflow.db")

    def run(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        return command_line.main([*words]), ["", *capsys.readouterr().err.splitlines()][-1]

    return run


def first_run() -> str:
    """The run of the folder; tests may have made others since."""
    order = ["attributes.start_time ASC"]
    run_id: str = mlflow.search_runs(search_all_experiments=True, output_format="list", order_by=order)[0].info.run_id
    return run_id


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def made(frame: pd.DataFrame) -> Records:
    return Records(frame, None, {"counts": {}})


def test_new_data_that_are_the_old_have_the_scores_of_the_run_to_the_last_bit(place: Path, command: Command) -> None:
    run_id = first_run()
    records = read_records(place / "records.parquet")
    judged = DETECT.score(records, DetectScore(protocol="published")).tables["responses"].set_index("id")
    for name, words in {"fresh": ("--dataset", "data.jsonl"), "kept": ("--records", "records.parquet")}.items():
        assert command("apply", "--detector", run_id, *words, "--output", f"{name}.jsonl")[0] == 0
    scored = lines(place / "fresh.jsonl")
    assert scored == lines(place / "kept.jsonl")
    assert [line["id"] for line in scored] == [f"r{i}" for i in range(8)]
    assert {line["id"]: line["score"] for line in scored} == judged["score"].to_dict()
    assert {line["id"]: line["call"] for line in scored} == judged["called"].to_dict()


def test_a_response_has_the_same_score_in_other_company(place: Path, command: Command) -> None:
    write_jsonl(place / "some.jsonl", [samples(8)[i] for i in (5, 2)])
    use = ("apply", "--detector", "detector.json")
    assert command(*use, "--dataset", "some.jsonl", "--output", "some-scored.jsonl")[0] == 0
    assert command(*use, "--records", "records.parquet", "--output", "all.jsonl")[0] == 0
    every = {line["id"]: line for line in lines(place / "all.jsonl")}
    assert lines(place / "some-scored.jsonl") == [every["r5"], every["r2"]]


def test_spans_are_told_by_their_characters(place: Path, command: Command) -> None:
    frame = read_records(place / "records.parquet").frame
    response = {row["id"]: row["response"] for row in samples(8)}
    assert [response[row.group][row.start : row.end] for row in frame.itertuples()] == frame["text"].tolist()
    learnt = learn(made(frame), DetectScore())
    spans = [span for line in apply(learnt, made(frame)) for span in line["spans"]]
    assert [(span["start"], span["end"]) for span in spans] == list(zip(frame["start"], frame["end"], strict=True))


def test_what_is_kept_says_what_it_is_worth_and_from_what_it_has_learnt(place: Path) -> None:
    detector = json.loads((place / "detector.json").read_text())
    records = read_records(place / "records.parquet")
    assert detector["figures"] == DETECT.score(records, DetectScore(folds=2)).metrics
    assert detector["learnt_from"] == {"responses": 8, "hallucinated": 4, "prompts": 8}
    assert detector["digests"] == records.origin["digests"]
    assert detector["observed"]["precision"] == "fp32"
    assert not {"dataset", "split", "limit", "workers"} & detector["observed"].keys()


def test_what_the_detector_has_not_learnt_from_is_refused(place: Path, command: Command) -> None:
    save_llama(place / "other", seed=1)
    use = ("apply", "--detector", "detector.json")
    write_records(Records(features(), None, {"counts": {}, "infer": {"pks": "published"}}), place / "published.parquet")
    write_records(made(features()[["group", "item", "label", "pks_0"]]), place / "few.parquet")
    mistakes = {
        "it takes --detector": ("apply",),
        "it takes --dataset, the data to be scored, or --records": use,
        "detector data.jsonl: cannot be read": ("apply", "--detector", "data.jsonl"),
        "precision = bf16: the detector has learnt from what was observed with precision = fp32": (
            *use, "--dataset", "data.jsonl", "--precision", "bf16",
        ),
        "the model is not the one that the detector": (*use, "--dataset", "data.jsonl", "--model", "other"),
        "pks = published: the detector has learnt from": (*use, "--records", "published.parquet"),
        "the records have no column": (*use, "--records", "few.parquet"),
        "output = data.jsonl: is what is to be scored": (*use, "--dataset", "data.jsonl", "--output", "data.jsonl"),
        "no setting wrong": (*use, "--dataset", "data.jsonl", "--wrong", "1"),
    }  # fmt: skip
    for said, words in mistakes.items():
        code, line = command(*(words if "--output" in words else (*words, "--output", "refused.jsonl")))
        assert (code, said in line) == (2, True), line
    assert not (place / "refused.jsonl").exists()


def test_a_model_that_has_moved_is_known_by_its_content(place: Path, command: Command) -> None:
    shutil.copytree(place / "model", place / "moved", dirs_exist_ok=True)
    words = ("--dataset", "data.jsonl", "--limit", "2", "--model", "moved", "--output", "moved.jsonl")
    assert command("apply", "--detector", "detector.json", *words)[0] == 0
    assert len(lines(place / "moved.jsonl")) == 2


def test_a_detector_from_records_made_elsewhere_scores_records_only(place: Path, command: Command) -> None:
    write_records(made(features()), place / "made.parquet")
    words = ("detect", "--records", "made.parquet", "--folds", "2", "--save-detector", "made.json")
    assert command(*words)[0] in {0, 2}
    assert "records made elsewhere" in command("apply", "--detector", "made.json", "--dataset", "data.jsonl")[1]
    code, told = command("apply", "--detector", "made.json", "--records", "made.parquet", "--output", "made.jsonl")
    assert code == 0
    assert "how the records that are to be scored were observed is not known" in told
    assert lines(place / "made.jsonl")[0]["spans"][1].keys() == {"item", "score"}


def test_lines_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    def failing() -> Iterator[dict[str, Any]]:
        yield {"id": "a", "score": 0.1, "call": 1}
        raise BadInput("no more")

    with pytest.raises(BadInput):
        write(tmp_path / "out.jsonl", failing())
    assert list(tmp_path.iterdir()) == []


# --- labels that are not known -----------------------------------------------------------------------------------


def unlabelled(frame: pd.DataFrame, every: int = 3) -> pd.DataFrame:
    """The same records, of which every third response has no label."""
    number = frame["group"].str.removeprefix("r").astype(int)
    return frame.assign(label=np.where(number % every == 0, -1, frame["label"]))


@pytest.mark.parametrize("protocol", ["crossfit", "published"])
@pytest.mark.parametrize("scorer", SCORERS)
def test_responses_without_a_label_change_no_figure_and_have_scores(scorer: str, protocol: str) -> None:
    frame = unlabelled(features(60))
    params = DetectScore(scorer=scorer, protocol=protocol, folds=3)  # type: ignore[arg-type]
    with_some, without = DETECT.score(made(frame), params), DETECT.score(made(frame[frame["label"] >= 0]), params)
    assert with_some.metrics == without.metrics
    assert with_some.judged == without.judged
    assert with_some.tables["features"].equals(without.tables["features"])
    scores = with_some.tables["responses"].set_index("id")["score"]
    assert len(scores) == 60
    assert scores.notna().all()
    assert learn(made(frame), params) == learn(made(frame[frame["label"] >= 0]), params)


def test_a_sweep_scores_them_as_one_run_does() -> None:
    assert DETECT.score_many is not None
    frame, params = unlabelled(features(60)), [DetectScore(folds=3, alpha=alpha) for alpha in (0.2, 1.0)]
    for report, each in zip(DETECT.score_many(made(frame), params, ("auc", "pcc")), params, strict=True):
        whole = DETECT.score(made(frame), each)
        assert (report.metrics["auc"], report.judged) == (whole.metrics["auc"], whole.judged)


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("label", [-1, 0])
def test_data_without_labels_or_of_one_class_are_scored_by_a_detector_fitted_before(scorer: str, label: int) -> None:
    frame = features(40)
    learnt = learn(made(frame), DetectScore(scorer=scorer))  # type: ignore[arg-type]
    labelled, not_so = (
        [*apply(json.loads(json.dumps(learnt)), made(each))] for each in (frame, frame.assign(label=label))
    )
    assert labelled == not_so
    assert [line["id"] for line in labelled] == [f"r{i}" for i in range(40)]


def test_data_without_any_label_are_sent_to_apply() -> None:
    for score in (
        DETECT.score,
        lambda records, params: DETECT.score_many and DETECT.score_many(records, [params], ["auc"]),
    ):
        with pytest.raises(BadInput, match=r"none of the 12 responses has a label.*`apply` scores them"):
            score(made(features().assign(label=-1)), DetectScore())


def test_a_response_has_labels_of_all_its_spans_or_of_none() -> None:
    frame = features().assign(label=[-1, 0] * 12)
    with pytest.raises(BadInput, match="label -1 for some spans of r0 only"):
        DETECT.score(made(frame), DetectScore())


def test_scored_spans_are_in_the_tables() -> None:
    frame = features(40)
    table = DETECT.score(made(frame.assign(start=7, end=9)), DetectScore()).tables["spans"]
    assert table.columns.tolist() == ["response", "item", "start", "end", "label", "score"]
    responses = DETECT.score(made(frame), DetectScore()).tables["responses"].set_index("id")["score"]
    assert table.groupby("response")["score"].mean().to_numpy() == pytest.approx(responses.sort_index().to_numpy())
    assert "spans" not in DETECT.score(made(frame), DetectScore(scorer="logistic")).tables


# --- as a model of MLflow ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_mlflow_serves_the_scores_of_the_run_to_the_last_bit(place: Path, command: Command) -> None:
    run_id = first_run()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["models", "serve", "-m", f"runs:/{run_id}/detector", "--env-manager", "local", "-p", str(port)]
    rows = [[row["prompt"], row["response"]] for row in samples(8)]
    body = json.dumps({"dataframe_split": {"columns": ["prompt", "response"], "data": rows}}).encode()
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"})
    path = {"PYTHONPATH": str(ROOT)}  # the model's own folder is relative to where the run was
    with subprocess.Popen(
        [sys.executable, "-m", "mlflow", *words], cwd=place, env=os.environ | path, start_new_session=True
    ) as server:
        try:
            for _ in range(120):
                with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/ping"):
                    break
                time.sleep(0.5)
            with urllib.request.urlopen(asked) as answer:
                served = json.load(answer)["predictions"]
        finally:
            os.killpg(server.pid, signal.SIGTERM)
    records = read_records(place / "records.parquet")
    table = DETECT.score(records, DetectScore(protocol="published")).tables["responses"].set_index("id")
    expected = [table.loc[row["id"], ["score", "called"]].tolist() for row in samples(8)]
    assert [[row["score"], row["call"]] for row in served] == expected


def test_a_model_of_mlflow_scores_a_table_of_prompts_and_responses(place: Path, command: Command) -> None:
    run_id = first_run()
    model = mlflow.pyfunc.load_model(f"runs:/{run_id}/detector")
    assert (
        command("apply", "--detector", "detector.json", "--records", "records.parquet", "--output", "all.jsonl")[0] == 0
    )
    rows = pd.DataFrame(samples(8))[["prompt", "response"]].iloc[[6, 1]]
    every = lines(place / "all.jsonl")
    assert model.predict(rows).to_dict("records") == [
        {name: every[i][name] for name in ("score", "call")} for i in (6, 1)
    ]


def test_faulty_rows_of_new_data_may_be_left_out_though_the_run_left_none(place: Path, command: Command) -> None:
    (place / "faulty.jsonl").write_text((place / "data.jsonl").read_text() + '{"id": "none"}\n')
    words = ("apply", "--detector", "detector.json", "--dataset", "faulty.jsonl", "--output", "some.jsonl")
    code, said = command(*words)
    assert (code, "skip_bad=true leaves out" in said) == (2, True)
    assert command(*words, "--skip-bad", "true")[0] == 0
    assert [line["id"] for line in lines(place / "some.jsonl")] == [f"r{i}" for i in range(8)]
