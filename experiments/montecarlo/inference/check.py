"""How far a precision below fp32 moves the uncertainties: a few images computed again in fp32, with the same masks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from experiments.models import devices
from experiments.montecarlo.inference.compute import Sampling, Unit, load, prepare
from experiments.montecarlo.inference.images import evenly
from experiments.montecarlo.inference.params import ORIGINAL, PREFIX
from experiments.montecarlo.inference.pixels import Pixels
from harness.measuring.clock import Clock

_STATISTICS = ("trace_pre", "trace_post")


def check(sampling: Sampling, device: str, pixels: Pixels, frame: pd.DataFrame) -> dict[str, Any]:
    """Median relative difference of both traces from fp32's, over the first trial at the fewest passes.

    `frame` holds the rows computed in the sampling's precision.
    """
    chosen = evenly([view for view in pixels.views if view.variant == ORIGINAL], sampling.params.precision_check)
    exact = sampling.params.model_copy(update={"precision": "fp32", "compile": False})
    encoder = prepare(replace(sampling, params=exact, passes=sampling.passes[:1]), load(exact, device), pixels)
    with devices.exact():
        (part,) = encoder.compute([Unit(view, 0) for view in chosen], Clock())
    encoder.dropout.remove()  # hooks refer to what they hang on, which would keep the encoder
    same = frame[(frame["variant"] == ORIGINAL) & (frame["trial"] == 0) & (frame["passes"] == sampling.passes[0])]
    lower, higher = same.set_index("image"), part.frame.set_index("image")
    moved = {
        name: float((lower[PREFIX + name] / higher[PREFIX + name] - 1).abs().median())  # of the images in both
        for name in _STATISTICS
    }
    return {"images": len(chosen), "passes": sampling.passes[0], **moved}
