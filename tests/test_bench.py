"""The benchmark counts what it says it counts."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from experiments.detect.bench import extractor as bench
from experiments.models import packed
from experiments.redeep import extract
from experiments.redeep.embed import embedder

SMALL = bench.Case(200, responses=2, response=60, layers=2, heads=4, hidden=64, ffn=128, vocabulary=500)


@pytest.mark.parametrize("level", ["chunk", "token"])
def test_the_unavoidable_products_are_nearly_all_that_the_extractor_computes(level: str) -> None:
    case = dataclasses.replace(SMALL, level=level)
    model = bench._model(case, "cpu", "fp32")
    model.network.set_attn_implementation(packed.PACKED)
    samples = bench._samples(case)
    heads = [(layer, head) for layer in range(case.layers) for head in range(case.heads)]
    extract_batch = extract.extractor(model, heads, level, "jsd", embedder("model", model, 1000))
    with FlopCounterMode(display=False) as counter:
        extract_batch(samples)
    rows = case.responses * case.response
    # torch's counter does not see the fused attention of the CPU.
    fused = 4 * case.layers * case.hidden * (case.prompt**2 / 2 + rows * (case.prompt + case.response / 2))
    counted = counter.get_total_flops() + fused
    if level == "token":  # nor the additions that make the mean of chosen states
        counted += case.layers * case.heads * rows * case.hidden * case.prompt * bench.baseline.TOP_SHARE
    assert bench.products(case, samples) == pytest.approx(counted, rel=0.05)


def test_a_row_holds_both_sides_their_ratio_and_the_share_of_the_limit() -> None:
    row = bench.run(SMALL, "cpu", repeats=1)
    assert row["ratio"] == pytest.approx(row["baseline_seconds"] / row["seconds"])
    assert row["share_of_limit"] == pytest.approx(row["gflop"] / row["gflops_rate"] / row["seconds"])
    assert torch.tensor([row["peak_gb"], row["baseline_peak_gb"]]).isfinite().all()


def test_a_gpus_case_runs_on_a_shape_that_a_processor_can_hold() -> None:
    """Prompts and responses of unequal lengths, weights in 4 bits, the baseline on the first prompts only."""
    (case,) = [each for each in bench.cases("cuda") if each.precision == "nf4"]
    small = dataclasses.replace(
        case,
        prompt=60,
        response=20,
        layers=1,
        heads=2,
        hidden=64,
        ffn=128,
        vocabulary=300,
        prompts=3,
        baseline_prompts=1,
    )
    assert len({sample.prompt_tokens for sample in bench._samples(small)}) == 3
    row = bench.run(small, "cpu", repeats=1)
    assert row["samples_per_min"] == pytest.approx(60 * 18 / row["seconds"])
    assert row["baseline_samples_per_min"] == pytest.approx(60 * 6 / row["baseline_seconds"])
