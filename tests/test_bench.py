"""The benchmark counts what it says it counts."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from experiments.detect import bench, extract
from experiments.detect.embed import embedder

SMALL = bench.Case(200, responses=2, response=60, layers=2, heads=4, hidden=64, ffn=128, vocabulary=500)


@pytest.mark.parametrize("level", ["chunk", "token"])
def test_the_unavoidable_products_are_nearly_all_that_the_extractor_computes(level: str) -> None:
    case = dataclasses.replace(SMALL, level=level)
    model = bench._model(case, "cpu", extract.ATTENTION)
    heads = [(layer, head) for layer in range(case.layers) for head in range(case.heads)]
    with FlopCounterMode(display=False) as counter:
        extract.extract(model, bench._samples(case), heads, level, "jsd", embedder("model", model), batch_tokens=1000)
    rows = case.responses * case.response
    # torch's counter does not see the fused attention of the CPU.
    fused = 4 * case.layers * case.hidden * (case.prompt**2 / 2 + rows * (case.prompt + case.response / 2))
    counted = counter.get_total_flops() + fused
    if level == "token":  # the mean of chosen states is computed as a product, and counted as the additions it needs
        counted -= case.layers * case.heads * rows * case.hidden * case.prompt * (2 - bench.baseline.TOP_SHARE)
    assert bench.products(case) == pytest.approx(counted, rel=0.05)


def test_a_row_holds_both_sides_their_ratio_and_the_share_of_the_limit() -> None:
    row = bench.run(SMALL, "cpu", repeats=1)
    assert row["ratio"] == pytest.approx(row["baseline_seconds"] / row["seconds"])
    assert row["share_of_limit"] == pytest.approx(row["gflop"] / row["gflops_rate"] / row["seconds"])
    assert torch.tensor([row["peak_gb"], row["baseline_peak_gb"]]).isfinite().all()
