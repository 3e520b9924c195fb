"""What a run leaves in MLflow, whether rigsweep opens it or `mlflow run` has."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest

from experiments.detect import DETECT
from harness.running import hardware, run
from harness.running.records import read_records, write_records
from harness.running.settings import resolve
from harness.stage import Records
from harness.tracking.runs import Tracked, tracked
from tests.tiny import features, new_store, without_own_time

Execute = Callable[..., run.Result]


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> mlflow.MlflowClient:
    """An empty store; artifacts go below the test's own working directory."""
    monkeypatch.chdir(tmp_path)
    store = new_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    client = mlflow.MlflowClient(store)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "tracked")
    return client


@pytest.fixture
def execute(tmp_path: Path) -> Execute:
    """Score twelve responses, made by no model, and track the result."""

    def run_and_record(frame: pd.DataFrame | None = None, **given: str) -> tuple[run.Result, Tracked]:
        origin = {"counts": {"kept": 12}, "digests": {"data": "d1", "model": "m1"}, "pks": "jsd"}
        path = tmp_path / "some.parquet"
        write_records(Records(features() if frame is None else frame, None, origin), path)
        with tracked("detect") as open_run:
            plan = resolve(DETECT, {"records": str(path), "folds": "3"} | given, hardware.load_profiles())
            result = run.execute(plan)
            open_run.begin(result.plan)
            open_run.record(result)
        return result, open_run

    return run_and_record


def artifacts(client: mlflow.MlflowClient, run_id: str, folder: str = "") -> set[str]:
    entries = client.list_artifacts(run_id, folder or None)
    inside = [artifacts(client, run_id, entry.path) for entry in entries if entry.is_dir]
    return {entry.path for entry in entries if not entry.is_dir}.union(*inside)


def test_a_run_holds_settings_metrics_and_tags(client: mlflow.MlflowClient, execute: Execute) -> None:
    result, opened = execute(features(40).drop(columns="source"), alpha="0.8")
    stored = client.get_run(opened.run_id)
    assert stored.info.status == "FINISHED"
    settings = {name: str(value) for name, value in result.plan.settings.items()}
    assert stored.data.params == settings | {"hardware": result.plan.profile.tag}
    assert stored.data.metrics == result.metrics()
    assert {"auc", "auc_low", "auc_high", "f1", "prevalence"} <= stored.data.metrics.keys()
    expected = {
        "stage": "detect",
        "hardware": result.plan.profile.tag,
        "device": result.plan.machine.name,
        "data_digest": "d1",
        "model_digest": "m1",
        "config_digest": result.digests["config"],
        "replayed": "true",
        "judged": result.report.judged.rpartition(": ")[0],
        "judged_digest": result.report.judged.rpartition(": ")[2],
        "origin.alpha": "given",
        "undefined.auc_task": "the data name no tasks",
    }
    assert {name: stored.data.tags[name] for name in expected} == expected
    assert stored.data.tags["audit"] in {"ok", *(finding.level for finding in result.audit.findings)}
    assert "origin.m" not in stored.data.tags
    note = stored.data.tags["mlflow.note.content"]
    assert all(finding.message in note for finding in result.audit.findings)


def test_a_muted_finding_is_listed_apart_wherever_findings_are(
    client: mlflow.MlflowClient, execute: Execute, tmp_path: Path
) -> None:
    result, opened = execute(protocol="published", mute="in_sample")
    assert [finding.code for finding in result.audit.muted] == ["in_sample"]
    tags = client.get_run(opened.run_id).data.tags
    assert (tags["muted"], tags["audit"]) == ("in_sample", result.audit.verdict)
    assert "muted: **warn** `in_sample`" in tags["mlflow.note.content"]
    report = json.loads(Path(client.download_artifacts(opened.run_id, "report.json", str(tmp_path))).read_text())
    assert [finding["code"] for finding in report["muted"]] == ["in_sample"]
    assert "in_sample" not in {*(finding["code"] for finding in report["findings"]), *report["checks"]["passed"]}
    assert "muted" not in client.get_run(execute()[1].run_id).data.tags


def test_what_was_asked_to_be_muted_is_recorded_though_nothing_was_found(
    client: mlflow.MlflowClient, execute: Execute
) -> None:
    recorded = client.get_run(execute(mute="empty_scored")[1].run_id).data
    assert (recorded.tags["muted"], recorded.tags["origin.mute"]) == ("empty_scored", "given")
    assert recorded.params["mute"] == "empty_scored"


def test_equal_settings_are_one_configuration(client: mlflow.MlflowClient, execute: Execute) -> None:
    digests = {execute(alpha=alpha)[0].digests["config"] for alpha in ("0", "0.0", "-0.0", "0e1")}
    assert len(digests) == 1


def test_a_run_holds_figures_tables_records_and_report(
    client: mlflow.MlflowClient, execute: Execute, tmp_path: Path
) -> None:
    result, opened = execute()
    figures = {f"figures/{name}.png" for name in ("roc", "precision_recall", "scores", "auc_by_head_and_layer")}
    files = {"responses.csv", "features.csv", "records.parquet", "report.json"}
    assert figures | files <= artifacts(client, opened.run_id)
    kept = read_records(Path(client.download_artifacts(opened.run_id, "records.parquet", str(tmp_path))))
    pd.testing.assert_frame_equal(kept.frame, features())
    assert kept.origin == result.records.origin
    assert kept.origin["digests"] == {"data": "d1", "model": "m1"}
    report = json.loads(Path(client.download_artifacts(opened.run_id, "report.json", str(tmp_path))).read_text())
    assert report == json.loads(json.dumps(result.as_json()))
    picture = Path(client.download_artifacts(opened.run_id, "figures/roc.png", str(tmp_path)))
    assert picture.read_bytes().startswith(b"\x89PNG")
    responses = pd.read_csv(client.download_artifacts(opened.run_id, "responses.csv", str(tmp_path)))
    assert len(responses) == 12


def test_a_run_that_mlflow_has_opened_is_continued(
    client: mlflow.MlflowClient, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`mlflow run -P` logs what was typed before the program starts, and forbids another value later."""
    given = client.create_run(client.create_experiment("theirs"), run_name="theirs")
    client.log_param(given.info.run_id, "alpha", "0.80")
    client.log_param(given.info.run_id, "not_ours", "'a b'")
    monkeypatch.setenv("MLFLOW_RUN_ID", given.info.run_id)
    result, opened = execute(alpha="0.80")
    stored = client.get_run(given.info.run_id)
    assert (opened.run_id, opened.name, stored.info.status) == (given.info.run_id, "theirs", "FINISHED")
    settings = {name: str(value) for name, value in result.plan.settings.items()}
    more = {"alpha": "0.80", "not_ours": "'a b'", "hardware": result.plan.profile.tag}
    assert stored.data.params == settings | more
    assert stored.data.tags["stage"] == "detect"
    assert stored.data.metrics["auc"] == result.report.metrics["auc"]
    assert client.get_experiment_by_name("tracked") is None


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"NAME": "theirs"}, "theirs"),
        ({"NAME": "new"}, "new"),
        ({"ID": "theirs"}, "theirs"),
        ({"NAME": "new", "ID": "theirs"}, "new"),  # as MLflow's own programs decide
        ({}, "Default"),
    ],
    ids=["name", "new name", "id", "both", "neither"],
)
def test_a_run_is_made_in_the_experiment_that_the_environment_names(
    client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    identifier = client.create_experiment("theirs")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    for name, value in variables.items():
        monkeypatch.setenv(f"MLFLOW_EXPERIMENT_{name}", identifier if name == "ID" else value)
    with tracked("detect") as opened:
        assert client.get_experiment(client.get_run(opened.run_id).info.experiment_id).name == expected
        assert client.get_run(opened.run_id).info.status == "RUNNING"
    assert client.get_run(opened.run_id).info.status == "FINISHED"


@pytest.mark.parametrize(
    ("fault", "status", "told"),
    [
        (ValueError("alpha = 11: too large"), "FAILED", "ValueError: alpha = 11: too large"),
        (MemoryError("x" * 9000), "FAILED", "MemoryError: " + "x" * 4987),
        (KeyboardInterrupt(), "KILLED", "interrupted"),
        (SystemExit(3), "FAILED", "SystemExit: 3"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_a_run_says_how_it_ended(client: mlflow.MlflowClient, fault: BaseException, status: str, told: str) -> None:
    with pytest.raises(type(fault)), tracked("detect") as opened:
        raise fault
    stored = client.get_run(opened.run_id)
    assert (stored.info.status, stored.data.tags["error"]) == (status, told)


def test_the_same_settings_give_the_same_digest_and_the_same_quality(
    client: mlflow.MlflowClient, execute: Execute
) -> None:
    """To the last bit, as MLflow keeps them; and another setting gives another digest."""
    first, again, other = (client.get_run(execute(alpha=alpha)[1].run_id).data for alpha in ("0.6", "0.6", "0.7"))
    assert without_own_time(first.metrics) == without_own_time(again.metrics)
    assert first.tags["config_digest"] == again.tags["config_digest"] != other.tags["config_digest"]


def test_names_from_the_data_that_mlflow_forbids_are_replaced(client: mlflow.MlflowClient, execute: Execute) -> None:
    frame = features()
    frame.insert(5, "task", ["Q&A" if group < "r5" else "Zusammenfaßung" for group in frame["group"]])
    result, opened = execute(frame)
    stored = client.get_run(opened.run_id).data.metrics
    assert stored["auc_in_task/Q_A"] == result.report.metrics["auc_in_task/Q&A"]
    assert "auc_in_task/Zusammenfaßung" in stored
    only = frame.assign(task=["(one)" if group == "r1" else "rest" for group in frame["group"]])
    tags: dict[str, Any] = client.get_run(execute(only)[1].run_id).data.tags
    assert "undefined.auc_in_task/_one_" in tags
