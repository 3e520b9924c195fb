"""What every test starts from: no trace of the run that started it, no network, a records cache of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import progress

ROOT = Path(__file__).parent.parent

# `mlflow run . -e test` hands its own run down; a test that tracks anything must not write into it.
for _inherited in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
    os.environ.pop(_inherited, None)
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAGAS_DO_NOT_TRACK": "true",
    "MPLBACKEND": "Agg",
}
# Threads of several processes on the same few cores wait for each other: a hundred times slower on tiny models.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`mlflow run . -e test -P slow=true` arrives as `--slow true`."""
    parser.addoption("--slow", choices=["true", "false"], default="false", help="also run the tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what reads real data, and leave slow tests out unless they are asked for."""
    for item in items:
        if "real_data" in getattr(item, "fixturenames", ()):
            item.add_marker("real_data")
    if config.getoption("slow") == "true" or "slow" in config.getoption("markexpr"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache for the session, shared by its workers, so that a model runs once; never the user's."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RIGSWEEP_CACHE", str(shared / "cache"))
        yield


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[progress.Work]:
    """All that is said to be under way from now on, in the order in which it was begun."""
    begun: list[progress.Work] = []

    class Kept(progress.Work):
        def __init__(self, *stated: Any) -> None:
            super().__init__(*stated)
            begun.append(self)

    monkeypatch.setattr(progress, "Work", Kept)
    return begun


@pytest.fixture
def real_data() -> Path:
    """The folder of published results that are not ours to keep in this repository."""
    folder = Path(os.environ.get("RIGSWEEP_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no published results at {folder}: name their folder in RIGSWEEP_DATA")
    return folder
