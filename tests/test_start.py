"""A command loads what it needs: help loads none of the large packages, and scoring loads no model's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.running.records import write_records
from harness.stage import Records
from tests import tiny

ROOT = Path(__file__).parent.parent
LARGE = {"pandas", "scipy", "torch", "sklearn", "matplotlib", "mlflow", "optuna", "transformers"}
COMMAND = "from harness.__main__ import main; main({words})"


def loaded(code: str, folder: Path = ROOT, **variables: str) -> set[str]:
    """The top-level packages that a fresh interpreter has loaded when the code has run, whatever it ends with."""
    code = f"import sys\ntry:\n    {code}\nfinally:\n    print(*sys.modules, file=sys.stderr)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.stdout or "import" in code, ran.stderr
    return {name.partition(".")[0] for name in ran.stderr.splitlines()[-1].split()}


@pytest.mark.parametrize(
    "module",
    [
        "harness.stage",
        "harness.commands.arguments",
        "harness.running.hardware",
        "harness.running.settings",
        "harness.sweeping.space",
        "harness.tracking.compare",
        "harness.measuring.cost",
    ],
)
def test_what_may_be_typed_is_known_without_a_large_package(module: str) -> None:
    assert not loaded(f"import {module}") & LARGE


@pytest.mark.parametrize("words", ["--help", "detect --help", "sweep rag --help", "--version"])
def test_help_loads_no_large_package(words: str) -> None:
    assert not loaded(COMMAND.format(words=words.split())) & LARGE


def test_records_are_scored_without_loading_what_runs_models(tmp_path: Path) -> None:
    write_records(Records(tiny.features(12), None, {"counts": {}}), tmp_path / "features.parquet")
    words = ["detect", "--records", "features.parquet", "--folds", "2"]
    found = loaded(COMMAND.format(words=words), tmp_path, MLFLOW_TRACKING_URI=tiny.new_store(tmp_path))
    assert not found & {"torch", "transformers", "optuna"}
    assert {"mlflow", "sklearn"} <= found
