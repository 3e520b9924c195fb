"""`detect`: ReDeEP hallucination detection from what a language model attends to and what it knows by heart."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

from experiments.detect.inference.params import DetectInfer
from experiments.detect.scoring import remedies
from experiments.detect.scoring.metrics import METRICS, QUICK
from experiments.detect.scoring.params import DetectScore
from harness.stage import Detectors, Late, Records, Stage, checks_in

if TYPE_CHECKING:
    import pandas as pd


def _strata(frame: pd.DataFrame) -> tuple[pd.Series[Any], pd.Series[int]]:
    """Responses to one prompt stay together; a prompt counts as hallucinated when any response to it is."""
    return frame["source"] if "source" in frame else frame["group"], frame["label"]


def _feature_ranges(records: Records) -> dict[str, tuple[float, float]]:
    """ECS is a cosine; PKS is bounded by ln 2 unless it is the published variant, and never below 0."""
    bounded = records.origin.get("pks") == "jsd"
    return {"ecs_": (-1.0, 1.0), "pks_": (0.0, math.log(2) if bounded else math.inf)}


DETECT = Stage(
    name="detect",
    summary="ReDeEP hallucination detection: ECS of copying heads, PKS of layers, one forward pass a response",
    package=__name__,
    packages=(
        "accelerate", "bitsandbytes", "gguf", "httpx2", "huggingface-hub", "jinja2", "numpy", "pandas", "psutil",
        "pyarrow", "pydantic", "pydantic-core", "regex", "safetensors", "sentence-transformers", "sentencex",
        "tokenizers", "torch", "torchvision", "transformers",
    ),
    infer_params=DetectInfer,
    score_params=DetectScore,
    inputs=Late("experiments.detect.inference.inputs", "inputs"),
    infer=Late("experiments.detect.inference.infer", "infer"),
    score=Late("experiments.detect.scoring.score", "score"),
    metrics=METRICS,
    feature_ranges=_feature_ranges,
    checks=partial(checks_in, "experiments.detect.scoring.audits"),
    read=Late("experiments.detect.scoring.released", "read_released"),
    benches={
        "inference": Late("experiments.detect.bench.extractor", "bench"),
        "scoring": Late("experiments.detect.bench.scoring", "bench"),
    },
    strata=_strata,
    held_out=Late("experiments.detect.scoring.score", "held_out"),
    score_many=Late("experiments.detect.scoring.grid", "score_many"),
    quick=QUICK,
    remedies=remedies.after,
    detectors=Detectors(
        Late("experiments.detect.scoring.kept", "learn"),
        Late("experiments.detect.scoring.kept", "apply"),
        row=("prompt", "response"),
        free=("model", "batch_tokens"),
    ),
)  # fmt: skip
