"""The leaderboard ranks what can be ranked, and refuses what cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest

from experiments.detect import DETECT
from harness.__main__ import main
from harness.running.dominance import undominated
from harness.stage import BadInput
from harness.tracking import compare
from harness.tracking.compare import CompareOptions
from tests import tiny

RUNS = pd.DataFrame(
    {
        "run_id": list("abcde"),
        "name": ["slow", "best", "lean", "failed", "beaten"],
        "status": ["FINISHED", "FINISHED", "FINISHED", "FAILED", "FINISHED"],
        "metrics.auc": [0.70, 0.80, 0.70, 0.99, 0.60],
        "metrics.samples_per_min": [10.0, 20.0, 30.0, 99.0, 20.0],
        "metrics.peak_rss_gb": [2.0, 2.0, 1.0, 0.1, 2.0],
        "params.alpha": ["0.6", "0.8", "0.6", "0.6", "0.6"],
        "params.seed": ["0"] * 5,
        "tags.hardware": ["cpu-x86_64", "cuda", "cuda", "cuda", "cuda"],
        "tags.audit": ["ok", "warn", "ok", "fail", "ok"],
        "tags.data_digest": ["d1"] * 5,
    }
)


def board(runs: pd.DataFrame = RUNS, **given: Any) -> pd.DataFrame:
    return compare.leaderboard(runs, DETECT, CompareOptions(**given))


def test_finished_runs_come_best_first_with_what_differs_between_them() -> None:
    table = board()
    assert table["run"].tolist() == ["best", "slow", "lean", "beaten"]
    assert {"auc", "samples_per_min", "peak_rss_gb", "hardware", "audit", "params.alpha"} <= set(table)
    assert "params.seed" not in table
    assert board(metric="samples_per_min")["run"].tolist() == ["lean", "best", "beaten", "slow"]
    assert board(hardware="cpu-x86_64")["run"].tolist() == ["slow"]


def test_the_front_holds_what_no_other_run_beats() -> None:
    assert board().query("pareto")["run"].tolist() == ["best", "lean"]


def test_runs_on_different_data_are_not_ranked_unless_told_to() -> None:
    mixed = RUNS.assign(**{"tags.data_digest": ["d1", "d2", "d1", "d1", "d1"]})
    with pytest.raises(
        BadInput, match=r"4 runs are on 2 different data sets.*data= one of d\d, d\d, or across_data=true"
    ):
        board(mixed)
    assert board(mixed, data="d1")["run"].tolist() == ["slow", "lean", "beaten"]
    assert board(mixed, across_data=True)["data"].tolist() == ["d2", "d1", "d1", "d1"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"metric": "acu"}, "detect has no metric acu; did you mean auc"),
        ({"hardware": "cpu"}, "no finished run of detect with auc fits"),  # a tag is meant as a whole
        ({"hardware": "h100"}, "no finished run of detect with auc fits; python -m harness detect"),
    ],
)
def test_what_cannot_be_ranked_is_one_line(given: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        board(**given)
    with pytest.raises(BadInput, match="no finished run"):
        board(RUNS.iloc[:0])


def test_quality_is_drawn_against_speed_and_memory_with_a_colour_for_each_hardware() -> None:
    figures = compare.figures(board(), "auc")
    assert set(figures) == {"auc_by_samples_per_min", "auc_by_peak_rss_gb"}
    (axes,) = figures["auc_by_peak_rss_gb"]().axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["cpu-x86_64", "cuda", "no other beats it"]
    assert {text.get_text() for text in axes.texts} == {"best", "lean"}


def test_tracked_runs_are_compared_from_the_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tiny.new_store(tmp_path))
    tiny.features(40).to_parquet("features.parquet")
    assert main(["compare", "--stage", "detect"]) == 2
    assert "no finished run of detect" in capsys.readouterr().err
    for alpha in ("0.1", "0.9"):
        assert main(["detect", "--records", "features.parquet", "--folds", "2", "--alpha", alpha]) == 0
    capsys.readouterr()
    assert main(["compare", "--stage", "detect", "--top", "1"]) == 0
    assert "2 runs; pictures in run" in capsys.readouterr().out
    client = mlflow.MlflowClient()
    (kept,) = client.search_runs(["0"], "tags.kind = 'comparison'")
    assert {file.path for file in client.list_artifacts(kept.info.run_id)} == {"leaderboard.csv"}
    assert main(["compare", "detect", "--tpo", "1"]) == 2
    assert "compare has no option tpo" in capsys.readouterr().err


def test_of_equal_results_one_or_all_are_on_the_front() -> None:
    losses = np.array([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0], [2.0, 2.0]])
    assert undominated(losses, equals=True).tolist() == [True, True, True, False]
    assert undominated(losses, equals=False).tolist() == [True, True, False, False]
    assert undominated(losses[:0], equals=True).tolist() == []
