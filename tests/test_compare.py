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
from harness.running import hardware, run
from harness.running.dominance import undominated
from harness.running.settings import resolve
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


def judged(digests: list[str], protocol: str = "out of fold, 5 folds of seed 0") -> pd.DataFrame:
    """The runs, each judged on the rows of a digest; `in` stands for a protocol that judges in sample."""
    words = ["in sample" if digest.startswith("in") else protocol for digest in digests]
    return RUNS.assign(**{"tags.judged_digest": digests, "tags.judged": words})


def test_runs_judged_on_other_rows_have_ranks_and_a_front_of_their_own() -> None:
    table = board(judged(["d1", "d2", "d1", "d1", "d1"]))
    assert table["set"].tolist() == [1, 1, 1, 2]
    assert table["run"].tolist() == ["slow", "lean", "beaten", "best"]
    assert table["rank"].tolist() == [1, 2, 3, 1]
    assert table.query("pareto")["run"].tolist() == ["lean", "best"]
    assert board(RUNS.assign(**{"tags.data_digest": ["d1", "d2", "d1", "d1", "d1"]}), data="d2")["run"].tolist() == [
        "best"
    ]


def test_what_was_judged_in_sample_comes_last_however_good_and_many_it_is() -> None:
    table = board(judged(["in1", "in1", "in1", "in1", "d1"]))
    assert table["run"].tolist() == ["beaten", "best", "slow", "lean"]
    assert table["rank"].tolist() == [1, 1, 2, 3]
    unknown = board(judged(["in1", "in1", "", "", "d1"]))
    assert unknown["run"].tolist() == ["beaten", "lean", "best", "slow"]
    assert unknown["judged"].str.startswith("unknown").tolist() == [False, True, False, False]


def test_of_the_honest_sets_the_largest_comes_first_and_only_what_varied_in_one_is_shown_with_it() -> None:
    shown = "\n".join(compare.in_words(board(judged(["d1", "d2", "d2", "d2", "d2"])), 20, str))
    assert "4 runs in 2 sets that have no common rank" in shown
    first, second = shown.split("out of fold, 5 folds of seed 0, rows ")[1:]
    assert first.startswith("d2: 3 runs")
    assert second.startswith("d1: 1 run")
    assert "params.alpha" in first
    assert "params.alpha" not in second
    few = "\n".join(compare.in_words(board(judged(["d1", "d2", "d2", "d2", "d2"])), 2, str))
    assert "2 more runs in leaderboard.csv, 1 sets of them not shown at all; top=4 shows them" in few
    assert "no common rank" not in "".join(compare.in_words(board(judged(["d1"] * 5)), 20, str))


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


def test_every_set_of_several_runs_has_pictures_of_its_own() -> None:
    figures = compare.figures(board(judged(["d2", "d2", "d1", "d1", "d3"])), "auc")
    assert set(figures) == {"auc_by_samples_per_min", "auc_by_peak_rss_gb"}
    pairs = compare.figures(board(judged(["d2", "d2", "in", "d1", "in"])), "auc")
    assert set(pairs) == {
        f"auc_by_{name}{end}" for name in ("samples_per_min", "peak_rss_gb") for end in ("", "_set_2")
    }


FEATURES = tiny.features(40)
SAME, OTHER = (
    ["--alpha=0.1", "--alpha=0.9", "--scorer=logistic", "--threshold=0.2"],
    ["--folds=3", "--fold_seed=1", "--protocol=published", "--records=fewer.parquet", "--records=labels.parquet"],
)


def test_settings_that_only_detect_are_ranked_together_and_what_else_was_judged_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    FEATURES.to_parquet("features.parquet")
    FEATURES[FEATURES["group"] != "r1"].to_parquet("fewer.parquet")
    FEATURES.assign(label=FEATURES["label"].where(FEATURES["group"] != "r1", 0)).to_parquet("labels.parquet")

    def of(word: str) -> str:
        name, _, value = word.removeprefix("--").partition("=")
        given = {"records": "features.parquet", "folds": "2"} | {name: value}
        return run.execute(resolve(DETECT, given, hardware.load_profiles())).report.judged

    same = {of(word) for word in SAME}
    others = [of(word) for word in OTHER]
    assert len(same) == 1
    assert len({*same, *others}) == 1 + len(OTHER)
    assert [word for word, text in zip(OTHER, others, strict=True) if text.startswith("in sample")] == [
        "--protocol=published"
    ]


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
    out = capsys.readouterr().out
    assert "out of fold, 2 folds of seed 0, 40 responses of 80 spans, rows " in out
    assert "2 runs; pictures in run" in out
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
