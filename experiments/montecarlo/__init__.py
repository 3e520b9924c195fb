"""`montecarlo`: nested Monte Carlo dropout over a vision encoder: is its uncertainty reliable, and is it valid?"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

from experiments.montecarlo.inference.params import MontecarloInfer
from experiments.montecarlo.scoring import remedies
from experiments.montecarlo.scoring.metrics import METRICS
from experiments.montecarlo.scoring.params import MontecarloScore
from harness.stage import Late, Records, Stage, checks_in

if TYPE_CHECKING:
    import pandas as pd


def _strata(frame: pd.DataFrame) -> tuple[pd.Series[Any], pd.Series[int]]:
    """All that is computed of an image stays together; a split spreads its classes evenly, where they are known.

    Not its errors: they depend on the precision, and a holdout must be the same whatever is searched.
    """
    return frame["image"], frame["label"] if "label" in frame else frame["trial"] * 0


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


MONTECARLO = Stage(
    name="montecarlo",
    summary="nested MC dropout over a CLIP or SigLIP encoder: K trials of T passes, reliability and validity",
    package=__name__,
    packages=(
        "filelock", "httpx2", "huggingface-hub", "joblib", "numpy", "open_clip_torch", "pandas", "pillow", "psutil",
        "pydantic", "regex", "safetensors", "scikit-learn", "timm", "tokenizers", "torch", "torchvision",
        "transformers",
    ),
    infer_params=MontecarloInfer,
    score_params=MontecarloScore,
    inputs=Late("experiments.montecarlo.inference.inputs", "inputs"),
    infer=Late("experiments.montecarlo.inference.infer", "infer"),
    score=Late("experiments.montecarlo.scoring.score", "score"),
    metrics=METRICS,
    feature_ranges=_feature_ranges,
    checks=partial(checks_in, "experiments.montecarlo.scoring.audits"),
    read=Late("experiments.montecarlo.scoring.released", "read_released"),
    benches={
        "inference": Late("experiments.montecarlo.bench.dropout", "bench"),
        "decoding": Late("experiments.montecarlo.bench.decoding", "bench"),
    },
    strata=_strata,
    held_out=Late("experiments.montecarlo.scoring.score", "held_out"),
    remedies=remedies.after,
)  # fmt: skip
