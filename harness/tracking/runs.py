"""Runs in MLflow: the only module that imports it."""

from __future__ import annotations

import logging
import os
import queue
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import mlflow
import pandas as pd
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, Schema
from sqlalchemy.exc import SQLAlchemyError

from harness.progress import working
from harness.running.audit import Audit
from harness.running.records import write_records
from harness.running.run import Result, judged_tags, write_json
from harness.running.settings import Plan
from harness.stage import BadInput, one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LONGEST = 5000  # characters that MLflow keeps of a tag's value
_PARAMS_A_BATCH = 100
_SERVED = "harness.commands.served"  # what loads a detector that is logged as a model

for _noisy in ("alembic", "mlflow.store.db.utils", "mlflow.utils.environment"):
    logging.getLogger(_noisy).setLevel(logging.WARNING)


@dataclass(frozen=True)
class Tracked:
    """A run that is open in the tracking store."""

    client: mlflow.MlflowClient
    run_id: str
    name: str
    store: str

    def begin(self, plan: Plan) -> None:
        """Log what is about to be run, and where, so that a run that fails says so too."""
        asked = {"mute": plan.options.mute} if plan.options.mute else {}
        self._record_params(plan.settings | asked)
        tags = {"hardware": plan.profile.tag, "device": plan.machine.name, "memory_gb": f"{plan.machine.memory_gb:.1f}"}
        named = [*plan.settings, *asked, "hardware"]
        tags |= {f"origin.{name}": plan.origins[name] for name in named if plan.origins[name] != "default"}
        tags |= {"muted": asked["mute"]} if asked else {}
        self.client.log_batch(self.run_id, tags=[RunTag(name, value[:_LONGEST]) for name, value in tags.items()])

    @working("log the run")
    def record(self, result: Result) -> None:
        """Log one result: numbers in one batch, then tables, figures, records and report as artifacts."""
        now = int(time.time() * 1000)
        metrics = [Metric(_name(name), value, now, 0) for name, value in result.metrics().items()]
        tags = _tags(result)
        self._record_params({"hardware": tags["hardware"]})  # MLflow compares parameters, but not tags
        run_tags = [RunTag(_name(name), value[:_LONGEST]) for name, value in tags.items()]
        self.client.log_batch(self.run_id, metrics=metrics, tags=run_tags)
        for name, draw in result.report.figures.items():
            self.client.log_figure(self.run_id, draw(), f"figures/{name}.png")
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            for name, table in result.report.tables.items():
                table.to_csv(folder / f"{name}.csv", index=False)
            write_records(result.records, folder / "records.parquet")
            write_json(folder / "report.json", result.as_json())
            if result.detector:
                self._write_detector(folder / "detector", result)
            if result.trace:
                (folder / "trace.json.gz").write_bytes(result.trace)
            self.client.log_artifacts(self.run_id, scratch)

    def _write_detector(self, folder: Path, result: Result) -> None:
        """Write what the run has learnt as JSON, in a folder that MLflow's own commands take for a model."""
        kept = result.plan.stage.detectors
        assert kept is not None
        write_json(folder / "detector.json", {"run": self.run_id, **(result.detector or {})})
        asked = Schema([ColSpec("string", name) for name in kept.row])
        answered = Schema([ColSpec("double", "score"), ColSpec("long", "call")])
        model = Model(folder.name, self.run_id, signature=ModelSignature(asked, answered))
        version = result.environment["python"]
        model.add_flavor("python_function", loader_module=_SERVED, data="detector.json", python_version=version)
        model.save(str(folder / "MLmodel"))

    @working("log the study")
    def record_sweep(
        self,
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        audit: Audit,
        trials: pd.DataFrame,
    ) -> None:
        """Log what a study has come to: numbers, notes, and all its trials as CSV and as MLflow's own table."""
        now = int(time.time() * 1000)
        self._record_params(params)
        all_tags = {**tags, "audit": audit.verdict, "mlflow.note.content": tags["note"] + "\n\n" + _note(audit)}
        self.client.log_batch(
            self.run_id,
            metrics=[Metric(_name(name), value, now, 0) for name, value in metrics.items()],
            tags=[RunTag(_name(name), value[:_LONGEST]) for name, value in all_tags.items() if name != "note"],
        )
        if "muted" in self.client.get_run(self.run_id).data.tags.keys() - tags.keys():  # of the sweep before it grew
            self.client.delete_tag(self.run_id, "muted")
        self.record_table("trials", trials)
        # As log_table has it, which would add the rows to those of the sweep before it grew.
        self.client.log_text(self.run_id, trials.to_json(orient="split", index=False), "trials.json")
        self.client.set_tag(self.run_id, "mlflow.loggedArtifacts", '[{"path": "trials.json", "type": "table"}]')

    def _record_params(self, settings: Mapping[str, Any]) -> None:
        """Log settings but for those that `mlflow run -P` has logged itself."""
        taken = self.client.get_run(self.run_id).data.params
        params = [Param(name, str(value)) for name, value in settings.items() if name not in taken]
        for start in range(0, len(params), _PARAMS_A_BATCH):
            self.client.log_batch(self.run_id, params=params[start : start + _PARAMS_A_BATCH])

    @working("draw and log pictures")
    def record_files(self, figures: Mapping[str, Callable[[], Figure]], texts: Mapping[str, str]) -> None:
        """Log pictures under figures/, and texts under their file names."""
        for name, draw in figures.items():
            self.client.log_figure(self.run_id, draw(), f"figures/{name}.png")
        for name, text in texts.items():
            self.client.log_text(self.run_id, text, name)

    def record_table(self, name: str, table: pd.DataFrame) -> None:
        """Log one table as a CSV artifact."""
        self.client.log_text(self.run_id, table.to_csv(index=False), f"{name}.csv")


@dataclass(frozen=True)
class Child:
    """What the run of one trial says; `started` and `ended` are seconds since 1970, `failure` why it failed if so."""

    number: int
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    started: float
    ended: float
    failure: str | None
    tags: Mapping[str, str]


class Children:
    """The runs of a study's trials below its own, written by a thread beside the work; each trial has one run.

    A trial that has a run already, from before a kill, is not written again; one whose run is torn is completed.
    """

    def __init__(self, parent: Tracked, tags: Mapping[str, str]) -> None:
        self._parent, self._client, self._tags = parent, parent.client, dict(tags)
        self._experiment = self._client.get_run(parent.run_id).info.experiment_id
        self._known = self._find()
        self._queue: queue.SimpleQueue[Child | None] = queue.SimpleQueue()
        self._failures: list[str] = []
        self._thread = threading.Thread(target=self._write_all, daemon=True)
        self._thread.start()

    def add(self, child: Child) -> None:
        """Have one trial written, soon."""
        if self._known.get(child.number, ("", "RUNNING"))[1] == "RUNNING":
            self._queue.put(child)

    @working("log the trials")
    def close(self) -> None:
        """Wait until all are written; BadInput says how many could not be."""
        self._queue.put(None)
        self._thread.join()
        if self._failures:
            raise BadInput(
                f"{len(self._failures)} trials could not be written to {self._parent.store} ({self._failures[0]});"
                " they are kept in the study, and the same command writes them"
            )

    def mark(self, name: str, numbers: set[int]) -> None:
        """Tag the runs of these trials, and no others."""
        words = f"tags.`mlflow.parentRunId` = '{self._parent.run_id}' and tags.{name} = 'true'"
        for run in self._client.search_runs([self._experiment], words):
            if int(run.data.tags["trial"]) not in numbers:
                self._client.delete_tag(run.info.run_id, name)
        for number in numbers:
            self._client.set_tag(self._known[number][0], name, "true")

    def _find(self) -> dict[int, tuple[str, str]]:
        """Run id and status of each trial that has a run."""
        words = f"tags.`mlflow.parentRunId` = '{self._parent.run_id}'"
        runs = mlflow.search_runs([self._experiment], words, output_format="list")
        assert isinstance(runs, list)
        return {int(run.data.tags["trial"]): (run.info.run_id, run.info.status) for run in runs}

    def _write_all(self) -> None:
        while (child := self._queue.get()) is not None:
            try:
                self._write(child)
            except Exception as error:  # the thread must go on: what failed is told at the end
                self._failures.append(one_line(error)[:300] or type(error).__name__)

    def _write(self, child: Child) -> None:
        started, ended = (int(seconds * 1000) for seconds in (child.started, child.ended))
        run_id, _ = self._known.get(child.number, (None, ""))
        if run_id is None:
            own = (
                self._tags | dict(child.tags) | {"mlflow.parentRunId": self._parent.run_id, "trial": str(child.number)}
            )
            name = f"trial {child.number}"
            run_id = self._client.create_run(self._experiment, started, own, name).info.run_id
        # The same values at the same time: written twice, they are stored once.
        self._client.log_batch(
            run_id,
            metrics=[Metric(_name(name), value, ended, 0) for name, value in child.metrics.items()],
            params=[Param(name, str(value)) for name, value in child.params.items()],
            tags=[RunTag("error", child.failure[:_LONGEST])] if child.failure else [],
        )
        self._client.set_terminated(run_id, "FAILED" if child.failure else "FINISHED", ended)
        self._known[child.number] = (run_id, "FINISHED")


@contextmanager
def tracked(stage: str, kind: str = "run", adopted: str | None = None, name: str | None = None) -> Iterator[Tracked]:
    """Open a run, or the one that `mlflow run` has opened; it ends FINISHED, FAILED with its reason, or KILLED.

    An `adopted` run, which an interrupted process has left, is gone on with.
    """
    run = _open(stage, kind, adopted, name)
    try:
        yield run
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        reason = "interrupted" if interrupted else f"{type(error).__name__}: {error}"
        run.client.set_tag(run.run_id, "error", reason[:_LONGEST])
        run.client.set_tag(run.run_id, "mlflow.note.content", f"**Failed.** {reason}"[:_LONGEST])
        run.client.set_terminated(run.run_id, "KILLED" if interrupted else "FAILED")
        raise
    if adopted and "error" in run.client.get_run(run.run_id).data.tags:
        run.client.delete_tag(run.run_id, "error")
    run.client.set_terminated(run.run_id, "FINISHED")


@working("open the tracking store")
def _open(stage: str, kind: str, adopted: str | None, name: str | None) -> Tracked:
    store = mlflow.get_tracking_uri()
    with _answering(f"tracking store {store}: cannot be written", "; name another one in MLFLOW_TRACKING_URI"):
        client = mlflow.MlflowClient()
        given = os.environ.get("MLFLOW_RUN_ID")
        run = _find(client, adopted) if adopted else None
        if run is not None:
            client.update_run(run.info.run_id, status="RUNNING")
            if given and given != adopted:
                note = f"This run went on with an earlier one, {run.info.run_name} ({adopted}): look there."
                client.set_tag(given, "mlflow.note.content", note)
                client.set_tag(given, "continues", adopted)
        elif given:
            run = client.get_run(given)
            for tag, value in (("stage", stage), ("kind", kind)):
                client.set_tag(given, tag, value)
        else:
            run = client.create_run(_experiment(client), tags={"stage": stage, "kind": kind}, run_name=name)
    return Tracked(client, run.info.run_id, str(run.info.run_name), store)


@contextmanager
def _answering(fault: str, instead: str = "; name the run's id and its store") -> Iterator[None]:
    """BadInput, in one line with what the store says, where it does not answer or has not what is asked for."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise BadInput(f"{fault}: {one_line(error)[:300]}{instead}") from error


@working("fetch what a run has logged")
def artifact(run_id: str, name: str) -> Path:
    """A local copy of a run's artifact; BadInput where there is no such run, or it has none."""
    with _answering(f"run {run_id}: no {name} in {mlflow.get_tracking_uri()}"):
        return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=name))


def recorded(run_id: str) -> tuple[dict[str, str], dict[str, float], dict[str, str]]:
    """Parameters, metrics and tags of a run; BadInput where there is no such run."""
    with _answering(f"run {run_id}: not in {mlflow.get_tracking_uri()}"):
        data = mlflow.MlflowClient().get_run(run_id).data
    return dict(data.params), dict(data.metrics), dict(data.tags)


@working("read runs")
def listed(tags: Mapping[str, str]) -> pd.DataFrame:
    """Every run of the experiment in force that has these tags, as MLflow tabulates them."""
    with _answering(f"tracking store {mlflow.get_tracking_uri()}: cannot be read", ""):
        experiment = _experiment(mlflow.MlflowClient())
        words = " and ".join(f"tags.{name} = '{value}'" for name, value in tags.items())
        runs = mlflow.search_runs([experiment], words)
    assert isinstance(runs, pd.DataFrame)
    return runs.assign(name=runs.get("tags.mlflow.runName", runs["run_id"]))


def _find(client: mlflow.MlflowClient, run_id: str) -> mlflow.entities.Run | None:
    """A run of this store, unless it is gone or deleted."""
    try:
        run = client.get_run(run_id)
    except MlflowException:
        return None
    return run if run.info.lifecycle_stage == "active" else None


def _experiment(client: mlflow.MlflowClient) -> str:
    """The id of the experiment that the environment names, else of Default; a new name makes a new experiment."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME")
    if name is None and (given := os.environ.get("MLFLOW_EXPERIMENT_ID")):
        return given
    experiment = client.get_experiment_by_name(name or "Default")
    return str(experiment.experiment_id if experiment else client.create_experiment(name or "Default"))


def _name(text: str) -> str:
    """A name that MLflow takes: the data's own words, such as a task called Q&A, may be part of a metric's."""
    return re.sub(r"[^\w/.\- :]", "_", text)


def _tags(result: Result) -> dict[str, str]:
    plan = result.plan
    tags = {
        "stage": plan.stage.name,
        "hardware": result.records.cost.hardware if result.records.cost else plan.profile.tag,
        "audit": result.audit.verdict,
        "replayed": str(result.replayed).lower(),
        "commit": result.environment["commit"],
    }
    tags |= {name: "true" for name in ("hardware_unchecked", "profile") if getattr(plan.options, name)}
    tags |= judged_tags(result.report.judged)
    tags |= {f"{name}_digest": digest for name, digest in result.digests.items()}
    tags |= {f"undefined.{name}": reason for name, reason in result.report.undefined.items()}
    return tags | {"mlflow.note.content": _note(result.audit)}


def _note(audit: Audit) -> str:
    listed = [f"- **{finding.level}** `{finding.code}`: {finding.message}" for finding in audit.findings]
    listed += [f"- muted: **{finding.level}** `{finding.code}`: {finding.message}" for finding in audit.muted]
    return "\n".join([f"Audit: {audit.verdict}\n", *listed])
