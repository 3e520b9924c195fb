"""Runs in MLflow: the only module that imports it."""

from __future__ import annotations

import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import mlflow
import pandas as pd
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from harness import cache
from harness.audit import verdict
from harness.run import Result, write_json
from harness.stage import BadInput

_LONGEST = 5000  # characters that MLflow keeps of a tag's value
_PARAMS_A_BATCH = 100

for _noisy in ("alembic", "mlflow.store.db.utils", "mlflow.utils.environment"):
    logging.getLogger(_noisy).setLevel(logging.WARNING)


@dataclass(frozen=True)
class Tracked:
    """A run that is open in the tracking store."""

    client: mlflow.MlflowClient
    run_id: str
    name: str
    store: str

    def record(self, result: Result) -> None:
        """Log one result: numbers in one batch, then tables, figures, records and report as artifacts."""
        now = int(time.time() * 1000)
        taken = self.client.get_run(self.run_id).data.params  # `mlflow run -P` logs these itself
        params = [Param(k, str(v)) for k, v in result.plan.settings.items() if k not in taken]
        metrics = [Metric(_name(name), value, now, 0) for name, value in result.metrics().items()]
        tags = [RunTag(_name(name), value[:_LONGEST]) for name, value in _tags(result).items()]
        for start in range(0, len(params), _PARAMS_A_BATCH):
            self.client.log_batch(self.run_id, params=params[start : start + _PARAMS_A_BATCH])
        self.client.log_batch(self.run_id, metrics=metrics, tags=tags)
        for name, draw in result.report.figures.items():
            self.client.log_figure(self.run_id, draw(), f"figures/{name}.png")
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            for name, table in result.report.tables.items():
                table.to_csv(folder / f"{name}.csv", index=False)
            cache.write(result.records, folder / "records.parquet")
            write_json(folder / "report.json", result.as_json())
            self.client.log_artifacts(self.run_id, scratch)

    def record_table(self, name: str, table: pd.DataFrame) -> None:
        """Log one table as a CSV artifact."""
        self.client.log_text(self.run_id, table.to_csv(index=False), f"{name}.csv")


@contextmanager
def tracked(stage: str) -> Iterator[Tracked]:
    """Open a run, or the one that `mlflow run` has opened; it ends FINISHED, FAILED with its reason, or KILLED."""
    run = _open(stage)
    try:
        yield run
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        reason = "interrupted" if interrupted else f"{type(error).__name__}: {error}"
        run.client.set_tag(run.run_id, "error", reason[:_LONGEST])
        run.client.set_tag(run.run_id, "mlflow.note.content", f"**Failed.** {reason}"[:_LONGEST])
        run.client.set_terminated(run.run_id, "KILLED" if interrupted else "FAILED")
        raise
    run.client.set_terminated(run.run_id, "FINISHED")


def _open(stage: str) -> Tracked:
    store = mlflow.get_tracking_uri()
    try:
        client = mlflow.MlflowClient()
        if run_id := os.environ.get("MLFLOW_RUN_ID"):
            run = client.get_run(run_id)
            client.set_tag(run_id, "stage", stage)
        else:
            run = client.create_run(_experiment(client), tags={"stage": stage})
    except (MlflowException, SQLAlchemyError, OSError) as error:
        line = str(error).strip().splitlines()[0]
        raise BadInput(
            f"tracking store {store}: cannot be written: {line}; name another one in MLFLOW_TRACKING_URI"
        ) from error
    return Tracked(client, run.info.run_id, str(run.info.run_name), store)


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
        "device": plan.machine.name,
        "audit": verdict(result.findings),
        "replayed": str(result.replayed).lower(),
        "commit": result.environment["commit"],
    }
    tags |= {f"{name}_digest": digest for name, digest in result.digests.items()}
    tags |= {f"undefined.{name}": reason for name, reason in result.report.undefined.items()}
    tags |= {f"origin.{name}": plan.origins[name] for name in plan.settings if plan.origins[name] != "default"}
    listed = "\n".join(f"- **{finding.level}** `{finding.code}`: {finding.message}" for finding in result.findings)
    return tags | {"mlflow.note.content": f"Audit: {verdict(result.findings)}\n\n{listed}"}
