"""A tracked run can be run again and compared, and its records scored anew, from its id."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest

from experiments.detect import DETECT
from harness.__main__ import main
from harness.running import hardware, run
from harness.running.settings import resolve
from harness.tracking import reproduce
from harness.tracking.runs import artifact
from tests import tiny


@pytest.fixture
def run_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """A tracked run of a tiny model, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tiny.new_store(tmp_path))
    monkeypatch.setenv("RIGSWEEP_CACHE", str(tmp_path / "cache"))
    tiny.save_llama(tmp_path / "model")
    tiny.write_jsonl(tmp_path / "data.jsonl", tiny.samples(12))
    words = ["--model", "model", "--dataset", "data.jsonl", "--folds", "2", "--top_n", "2", "--seed", "3"]
    assert main(["detect", *words]) == 0
    capsys.readouterr()
    (run,) = mlflow.MlflowClient().search_runs(["0"])
    return str(run.info.run_id)


def test_the_same_machine_gives_the_same_metrics_bit_for_bit(run_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--run_id", run_id]) == 0
    out = capsys.readouterr().out
    assert "0 metrics differ" in out
    assert "measured again" in out
    client = mlflow.MlflowClient()
    (again,) = client.search_runs(["0"], "tags.kind = 'reproduction'")
    table = pd.read_csv(mlflow.artifacts.download_artifacts(f"runs:/{again.info.run_id}/reproduction.csv"))
    assert table.set_index("metric").loc["auc", "verdict"] == "equal"


def test_a_metric_that_differs_is_named_with_by_how_much(
    run_id: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = DETECT.score

    def other(records: Any, params: Any) -> Any:
        report = real(records, params)
        report.metrics["prevalence"] += 0.25
        return report

    monkeypatch.setitem(vars(DETECT), "score", other)
    assert main(["reproduce", "--run_id", run_id]) == 1
    out = capsys.readouterr().out
    assert "1 metrics differ" in out
    (line,) = [line for line in out.splitlines() if line.split()[:1] == ["prevalence"]]
    assert line.split()[-2:] == ["0.250000", "differs"]


def test_other_data_cannot_be_compared(run_id: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.write_jsonl(tmp_path / "data.jsonl", tiny.samples(11))
    assert main(["reproduce", "--run_id", run_id]) == 2
    assert "cannot be compared, for the data of the run are not these any more" in capsys.readouterr().err


def test_other_hardware_and_versions_are_said(run_id: str) -> None:
    recorded = json.loads(artifact(run_id, "report.json").read_text())
    plan = resolve(DETECT, reproduce.settings(recorded, DETECT), hardware.load_profiles())
    assert plan.score.model_dump()["top_n"] == 2
    recorded["environment"] |= {"torch": "1.0", "device": "another", "of_another_list": "1"}
    del recorded["environment"]["tokenizers"]  # which runs did not record at all times
    result = run.execute(plan)
    assert [line.partition(":")[0] for line in reproduce.changes(recorded, result)] == ["device", "torch"]
    table = reproduce.compare(recorded, result).set_index("metric")
    assert table.loc["seconds", "verdict"] == "cannot be compared"
    scored = replace(result, replayed=True, environment=result.environment | {"device": "another"})
    assert set(reproduce.compare(recorded, scored)["verdict"]) == {"equal", "the records' own"}


def test_records_of_a_run_are_scored_anew_without_the_model(
    run_id: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (tmp_path / "model").iterdir():
        file.unlink()
    assert main(["score", "--stage", "detect", "--records", run_id, "--folds", "2", "--alpha", "0.9"]) == 0
    assert "samples_per_min" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["reproduce"], "reproduce: it takes --run_id ID"),
        (["reproduce", "--run_id", "f" * 32], f"run {'f' * 32}: no report.json in sqlite:"),
        (["score", "detect"], "score: it takes a stage and --records"),
        (["score", "detect", "--records", "f" * 32], f"run {'f' * 32}: no records.parquet in sqlite:"),
    ],
)
def test_a_mistake_is_one_line(run_id: str, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert main(words) == 2
    (line,) = [each for each in capsys.readouterr().err.splitlines() if each.startswith("rigsweep: ")]
    assert said in line
