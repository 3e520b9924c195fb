"""A figure of a cost is declared once, and what can be done with it follows."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from experiments.detect import DETECT
from harness.measuring import cost
from harness.measuring.clock import Clock
from harness.measuring.cost import Cost, CostMetric
from harness.stage import BadInput
from harness.sweeping import space
from harness.tracking import compare
from harness.tracking.compare import CompareOptions

SPACE = """
stage: detect
fields: {alpha: [1, 2]}
objectives: {swap_gb: minimize}
constraints: [swap_gb <= hardware]
"""
LISTED = {"run_id": ["a", "b"], "name": ["a", "b"], "status": "FINISHED", "metrics.swap_gb": [4.0, 2.0]}


def test_a_figure_declared_once_is_measured_searched_bounded_and_ranked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swap = CostMetric(
        "swap_gb",
        "GiB",
        "minimize",
        "of a figure to come",
        of=lambda cost: 3,
        axis=True,
        bound="host",
        devices=("cpu",),
    )
    monkeypatch.setattr(cost, "COSTS", (*cost.COSTS, swap))
    assert Cost.of([Clock().lap()], "bench", "cpu").metrics()["swap_gb"] == 3.0
    (tmp_path / "own.yaml").write_text(SPACE)
    (bound,) = space.load(str(tmp_path / "own.yaml"), DETECT, cost.bounds("cpu", 16, 16)).constraints
    assert str(bound) == "swap_gb <= 16"
    with pytest.raises(BadInput, match="`hardware` is a bound of peak_rss_gb or peak_device_gb here"):
        space.load(str(tmp_path / "own.yaml"), DETECT, cost.bounds("cuda", 16, 16))
    runs = pd.DataFrame(LISTED | {"metrics.auc": 0.8})
    table = compare.leaderboard(runs, DETECT, CompareOptions(metric="swap_gb"))
    assert table[["run", "pareto"]].to_numpy().tolist() == [["b", True], ["a", False]]
    assert "auc_by_swap_gb" in compare.figures(table.assign(auc=0.8), "auc")


def test_what_only_some_devices_measure_bounds_nothing_on_others() -> None:
    assert cost.bounds("cpu", 64, 16) == {"peak_rss_gb": 64}
    assert cost.bounds("cuda", 64, 16) == {"peak_rss_gb": 64, "peak_device_gb": 16}
    assert "seconds_per_1000" not in cost.directions()  # there is one a part only
