"""`montecarlo`: nested Monte Carlo dropout over a vision encoder: is its uncertainty reliable, and is it valid?"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.montecarlo.inference.params import MontecarloInfer
from experiments.montecarlo.scoring import audits, remedies
from experiments.montecarlo.scoring.params import MontecarloScore
from experiments.montecarlo.scoring.score import FAILED, USABLE, held_out, score
from harness.stage import Context, Metric, Progress, Records, Stage


# The model's libraries are imported only when a model is needed: scoring and help do without them.
def _inputs(params: MontecarloInfer) -> dict[str, str]:
    from experiments.montecarlo.inference.infer import inputs

    return inputs(params)


def _infer(params: MontecarloInfer, context: Context) -> Records:
    from experiments.montecarlo.inference.infer import infer

    return infer(params, context)


def _read(path: Path) -> Records:
    from experiments.montecarlo.scoring.released import read_released

    return read_released(path)


def _bench(device: str, repeats: int, quick: bool, progress: Progress) -> pd.DataFrame:
    from experiments.montecarlo.bench.dropout import bench

    return bench(device, repeats, quick, progress)


def _strata(frame: pd.DataFrame) -> tuple[pd.Series[Any], pd.Series[int]]:
    """All that is computed of an image stays together; a split spreads its classes evenly, where they are known.

    Not its errors: they depend on the precision, and a holdout must be the same whatever is searched.
    """
    return frame["image"], frame["label"] if "label" in frame else pd.Series(0, index=frame.index)


def _feature_ranges(records: Records) -> dict[str, tuple[float, float]]:
    """Variances are never negative; those of unit vectors, and deviations of a cosine, are bounded as well."""
    return {
        "u_": (0.0, math.inf),
        "u_trace_post": (0.0, 1.0),
        "u_angular_variance": (0.0, math.pi**2),
        "u_cosine_deviation": (0.0, 2.0),
        "entropy": (0.0, math.inf),
        "margin": (0.0, 1.0),
    }


METRICS = (
    Metric(
        "icc", "", "maximize", "ICC(1) of the uncertainty over trials at the T judged", chance=0.0, usable=USABLE["icc"]
    ),
    Metric(
        "snr",
        "",
        "maximize",
        "variance between images over variance between trials",
        usable=USABLE["snr"],
        failed=FAILED["snr"],
    ),
    Metric("signal", "", "none", "variance over images of the mean over trials"),
    Metric("noise", "", "none", "mean over images of the variance over trials"),
    Metric(
        "spearman",
        "",
        "maximize",
        "median rank correlation of two trials",
        usable=USABLE["spearman"],
        failed=FAILED["spearman"],
    ),
    Metric("spearman_q25", "", "maximize", "lower quartile of the rank correlations"),
    Metric("spearman_q75", "", "maximize", "upper quartile of the rank correlations"),
    Metric("gate", "", "maximize", "0 failed, 1 marginal, 2 usable"),
    Metric("passes_predicted", "passes", "minimize", "smallest T predicted to be usable, from the fewest passes"),
    Metric("passes_seen", "passes", "minimize", "smallest T of the records that is usable"),
    Metric("prediction_gap", "", "minimize", "largest error of the ICC so predicted, at actual prefixes"),
    Metric("auroc_error", "", "maximize", "AUROC of the mean uncertainty for a wrong zero-shot answer", chance=0.5),
    Metric("auroc_error_one_trial", "", "maximize", "the same with one trial alone, mean over trials"),
    Metric("auroc_entropy", "", "none", "one plain pass: AUROC of its softmax entropy", baseline_of="auroc_error"),
    Metric("spearman_entropy", "", "none", "rank correlation of uncertainty and softmax entropy"),
    Metric("spearman_margin", "", "none", "rank correlation of uncertainty and negative softmax margin"),
    Metric("accuracy", "", "maximize", "zero-shot accuracy without dropout"),
    Metric("accuracy_prior", "", "none", "trivial baseline: naming the commonest class", baseline_of="accuracy"),
    Metric("grows", "", "maximize", "share of images whose uncertainty grows when blurred or downsampled"),
    Metric("wilcoxon_p", "", "minimize", "one-sided p of that growth"),
)

MONTECARLO = Stage(
    name="montecarlo",
    summary="nested MC dropout over a CLIP or SigLIP encoder: K trials of T passes, reliability and validity",
    infer_params=MontecarloInfer,
    score_params=MontecarloScore,
    inputs=_inputs,
    infer=_infer,
    score=score,
    metrics=METRICS,
    feature_ranges=_feature_ranges,
    audits=(
        audits.more_passes,
        audits.reliable_but_not_valid,
        audits.blind_to_blur,
        audits.prediction_missed,
        audits.lower_precision,
        audits.images_not_plain,
        audits.pixels_moved,
    ),
    read=_read,
    bench=_bench,
    strata=_strata,
    held_out=held_out,
    remedies=remedies.after,
)
