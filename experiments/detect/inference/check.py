"""What a precision below fp32, and the batch that a response is computed in, do to the features: seen on a few."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.arrays import Floats
from experiments.detect.inference.compute import Extract, free_bytes, load
from experiments.detect.inference.params import DetectInfer
from experiments.models import devices
from experiments.models.language import LanguageModel
from experiments.redeep.encode import Encoded
from experiments.redeep.extract import Features, Head
from harness.progress import counted


def check(
    params: DetectInfer,
    model: LanguageModel,
    extract: Extract,
    device: str,
    heads: list[Head],
    samples: list[Encoded],
) -> dict[str, Any]:
    """Features of `samples` alone against together, and against fp32: medians and maxima of what differs.

    ECS differences are absolute, PKS differences relative.  Empty when nothing is asked for.
    """
    if not samples:
        return {}
    alone = [extract([sample])[0] for sample in counted(samples, "compute some alone", "samples")]
    moved: dict[str, Any] = {"responses": len(samples), "batch": _differences(extract(samples), alone)}
    need, free = 4.0 * model.network.num_parameters(), free_bytes(device, None)
    if need > free:
        return moved | {"skipped": f"fp32 weights need {need / 2**30:.1f} GiB and {free / 2**30:.1f} are free"}
    _, reference = load(params.model_copy(update={"precision": "fp32"}), device, heads)
    with devices.exact():
        exact = [reference([sample])[0] for sample in counted(samples, "compute some in fp32", "samples")]
    return moved | {"fp32": _differences(alone, exact)}


def _relative(found: Floats, reference: Floats) -> Floats:
    """|a / b - 1|; where both are 0 nothing differs, where only the reference is all does."""
    gap = np.abs(found - reference)
    return np.divide(gap, reference, out=(gap > 0).astype(np.float64), where=reference > 0)


def _differences(found: list[Features], reference: list[Features]) -> dict[str, float]:
    ecs = np.concatenate([np.abs(a.ecs - b.ecs).ravel() for a, b in zip(found, reference, strict=True)])
    pks = np.concatenate([_relative(a.pks, b.pks).ravel() for a, b in zip(found, reference, strict=True)])
    return {
        "ecs_median": float(np.median(ecs)),
        "ecs_max": float(ecs.max()),
        "pks_median": float(np.median(pks)),
        "pks_max": float(pks.max()),
    }
