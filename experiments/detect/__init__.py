"""`detect`: ReDeEP hallucination detection from what a language model attends to and what it knows by heart."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.detect.inference.params import DetectInfer
from experiments.detect.scoring import audits, remedies
from experiments.detect.scoring.grid import METRICS as METRICS_OF_MANY
from experiments.detect.scoring.grid import score_many
from experiments.detect.scoring.params import DetectScore
from experiments.detect.scoring.score import held_out, score
from harness.stage import Context, Metric, Progress, Records, Stage


# The model's libraries are imported only when a model is needed: scoring and help do without them.
def _inputs(params: DetectInfer) -> dict[str, str]:
    from experiments.detect.inference.infer import inputs

    return inputs(params)


def _infer(params: DetectInfer, context: Context) -> Records:
    from experiments.detect.inference.infer import infer

    return infer(params, context)


def _read(path: Path) -> Records:
    from experiments.detect.scoring.released import read_released

    return read_released(path)


def _bench(device: str, repeats: int, quick: bool, progress: Progress) -> pd.DataFrame:
    from experiments.detect.bench.extractor import bench

    return bench(device, repeats, quick, progress)


def _strata(frame: pd.DataFrame) -> tuple[pd.Series[Any], pd.Series[int]]:
    """Responses to one prompt stay together; a prompt counts as hallucinated when any response to it is."""
    return frame["source"] if "source" in frame else frame["group"], frame["label"]


def _feature_ranges(records: Records) -> dict[str, tuple[float, float]]:
    """ECS is a cosine; PKS is bounded by ln 2 unless it is the published variant, and never below 0."""
    bounded = records.origin.get("pks") == "jsd"
    return {"ecs_": (-1.0, 1.0), "pks_": (0.0, math.log(2) if bounded else math.inf)}


METRICS = (
    Metric("auc", "", "maximize", "AUROC of the response score for hallucination, by the protocol chosen", chance=0.5),
    Metric("f1", "", "maximize", "F1 of the hallucinated class at the threshold"),
    Metric("precision", "", "maximize", "share of hallucinated among the responses called so"),
    Metric("recall", "", "maximize", "share of hallucinated responses called so"),
    Metric("accuracy", "", "maximize", "share of responses called right"),
    Metric("pcc", "", "maximize", "Pearson correlation of response score and label"),
    Metric("span_auc", "", "maximize", "AUROC over spans (or tokens) instead of responses"),
    Metric("auc_ecs", "", "maximize", "AUROC of the ECS part alone"),
    Metric("auc_pks", "", "maximize", "AUROC of the PKS part alone"),
    Metric(
        "auc_in_task",
        "",
        "maximize",
        "AUROC within each task, where knowing the task cannot help",
        chance=0.5,
        within_of="auc",
    ),
    Metric("auc_in_sample", "", "maximize", "AUROC when fitted and judged on the same responses"),
    Metric("auc_out_of_fold", "", "maximize", "AUROC when judged on other prompts than fitted on"),
    Metric("optimism", "", "minimize", "auc_in_sample - auc_out_of_fold"),
    Metric("prevalence", "", "none", "share of hallucinated responses"),
    Metric("auc_length", "", "none", "trivial baseline: response length alone", baseline_of="auc"),
    Metric("auc_task", "", "none", "trivial baseline: knowing only the task", baseline_of="auc"),
    Metric("f1_prior", "", "none", "trivial baseline: calling every response hallucinated", baseline_of="f1"),
    Metric("accuracy_prior", "", "none", "trivial baseline: calling the commoner label", baseline_of="accuracy"),
)

DETECT = Stage(
    name="detect",
    summary="ReDeEP hallucination detection: ECS of copying heads, PKS of layers, one forward pass a response",
    infer_params=DetectInfer,
    score_params=DetectScore,
    inputs=_inputs,
    infer=_infer,
    score=score,
    metrics=METRICS,
    feature_ranges=_feature_ranges,
    audits=(audits.in_sample, audits.uninformative_features, audits.single_part, audits.lower_precision),
    read=_read,
    bench=_bench,
    strata=_strata,
    held_out=held_out,
    score_many=score_many,
    quick=METRICS_OF_MANY,
    remedies=remedies.after,
)
