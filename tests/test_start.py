"""A command loads what it needs: help loads none of the large packages, and scoring loads no model's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.commands.start import LARGE as NAMES
from harness.running.records import write_records
from harness.stage import Records
from tests import tiny

ROOT = Path(__file__).parent.parent
LARGE = set(NAMES)
COMMAND = "from harness.__main__ import main; sys.exit(main({words}))"


def ran(code: str, folder: Path = ROOT, **variables: str) -> tuple[str, set[str]]:
    """What a fresh interpreter prints that succeeds with the code, and the modules it has loaded then."""
    code = f"import sys\ntry:\n    {code}\nfinally:\n    print(*sys.modules, file=sys.stderr)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, set(done.stderr.splitlines()[-1].split())


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
    assert not ran(f"import {module}")[1] & LARGE


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--help", "rigsweep's command line"),
        ("detect --help", "--top-n INT"),
        ("sweep rag --help", "--trials INT"),
        ("--version", "rigsweep "),
    ],
)
def test_help_loads_no_large_package(words: str, said: str) -> None:
    printed, loaded = ran(COMMAND.format(words=words.split()))
    assert said in printed
    assert not loaded & LARGE


def test_records_are_scored_without_loading_what_runs_models(tmp_path: Path) -> None:
    write_records(Records(tiny.features(12), None, {"counts": {}}), tmp_path / "features.parquet")
    words = ["detect", "--records", "features.parquet", "--folds", "2"]
    printed, loaded = ran(COMMAND.format(words=words), tmp_path, MLFLOW_TRACKING_URI=tiny.new_store(tmp_path))
    assert "checks, " in printed
    assert not loaded & {"torch", "transformers", "optuna"}
    assert {"mlflow", "sklearn"} <= loaded
    assert not loaded & {"sklearn.feature_selection", "sklearn.linear_model"}  # what other settings score by


def test_the_start_of_commands_is_timed_beside_the_import_of_what_is_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tiny.new_store(tmp_path))
    assert main(["bench", "start", "--quick", "--repeats=1"]) == 0
    head, row = (line.split() for line in capsys.readouterr().out.splitlines()[1:3])
    told = dict(zip(head, row, strict=True))
    assert (told["command"], told["loads"]) == ("--help", "-")
    assert float(told["ratio"]) > 1
