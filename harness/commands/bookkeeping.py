"""What a sweep costs beside its evaluations: asking, storing, telling, and a tracked run for each trial."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.running import hardware
from harness.running.settings import resolve
from harness.stage import Stage
from harness.sweeping.engines import InProcess
from harness.sweeping.planning import Sweep, prepare
from harness.sweeping.study import opened
from harness.sweeping.trial import Trial
from harness.tracking.runs import Child, Children, tracked

_HUNDRED = 100


def bookkeeping(stage: Stage[Any, Any], given: Mapping[str, str], trials: int) -> pd.DataFrame:
    """One row: milliseconds a trial of a new study beside its evaluation, over all, the first and the last hundred.

    Both stores are SQLite files in an empty folder.  The last trial's time holds what the writing thread has left.
    """
    with tempfile.TemporaryDirectory(prefix="rigsweep-bench-") as folder, _tracking_in(Path(folder)):
        storage = f"sqlite:///{Path(folder) / 'optuna.db'}"
        settings = {**given, "trials": str(trials), "storage": storage, "cache": "off"}
        planned = prepare(settings, lambda rest: resolve(stage, rest, hardware.load_profiles()))
        ends, evaluated = _conduct(planned)
    beside = 1e3 * (np.diff(ends) - np.asarray(evaluated))
    hundred = min(_HUNDRED, trials // 2)
    first, last = float(beside[:hundred].mean()), float(beside[-hundred:].mean())
    return pd.DataFrame(
        [
            {
                "trials": trials,
                "sampler": planned.space.sampler,
                "ms_a_trial": float(beside.mean()),
                "first_hundred_ms": first,
                "last_hundred_ms": last,
                "growth": last / first,
                "evaluation_ms": float(1e3 * np.mean(evaluated)),
            }
        ]
    )


def _conduct(planned: Sweep) -> tuple[list[float], list[float]]:
    """When the study began and each trial ended, and the seconds that each took to evaluate."""
    with opened(planned) as (study, _), tracked(planned.plan.stage.name, "study") as parent:
        children = Children(parent, planned.tags())
        ends, evaluated = [time.perf_counter()], list[float]()

        def report(trial: Trial) -> None:
            children.add(Child(**trial.row()))
            ends.append(time.perf_counter())
            evaluated.append(trial.outcome.seconds)

        study.conduct(InProcess(), report)
        children.close()
        ends[-1] = time.perf_counter()
    return ends, evaluated


@contextmanager
def _tracking_in(folder: Path) -> Iterator[None]:
    """Have runs tracked in a store of that folder meanwhile."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    try:
        yield
    finally:
        os.environ.pop("MLFLOW_TRACKING_URI")
        os.environ.update({"MLFLOW_TRACKING_URI": before} if before else {})
