"""What a sweep over encoders saves by decoding each image once: the stage up to the pixels, with and without it."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from PIL import Image

from experiments.models import vision
from experiments.models.vision import VisionModel
from experiments.montecarlo.inference import images, pixels
from harness.progress import working
from harness.running import cache


@dataclass(frozen=True)
class Case:
    """One row: how many images of what format and size."""

    ending: str
    count: int
    width: int
    height: int


CASES = (Case("jpg", 40, 2000, 1500), Case("png", 40, 2000, 1500), Case("jpg", 200, 500, 375), Case("png", 400, 32, 32))


def bench(device: str, repeats: int, quick: bool) -> pd.DataFrame:
    """Run every case, or the first only: one row each."""
    chosen = CASES[: 1 if quick else None]
    model = vision.load("builtin", "open_clip", None, "fp32", device)
    with working("bench", len(chosen), "cases") as advance:
        rows = []
        for case in chosen:
            rows.append(row := run(case, model, repeats))
            advance(1, f"{case.ending} {case.width} x {case.height}: {row['ratio']:.1f}")
    return pd.DataFrame(rows)


def run(case: Case, model: VisionModel, repeats: int) -> dict[str, Any]:
    """Median seconds of a run that decodes and keeps nothing, of the first that keeps, and of those after it.

    The ratio is that of the first to the last; files come from the operating system's memory on all sides.
    """
    with tempfile.TemporaryDirectory(prefix="rigsweep-bench-") as folder:
        _write(case, Path(folder) / "images")
        items = images.find(str(Path(folder) / "images"))
        again, first, later, same = list[float](), list[float](), list[float](), list[bool]()
        with patch.object(cache, "folder", lambda: Path(folder) / "cache"):
            for _ in range(repeats):
                shutil.rmtree(Path(folder) / "cache", ignore_errors=True)
                timed = [_timed(items, model, keep) for keep in (False, True, True)]
                for seconds, into in zip(timed, (again, first, later), strict=True):
                    into.append(seconds[0])
                same.append(torch.equal(timed[0][1], timed[2][1]))
    return {
        "format": case.ending,
        "pixels": f"{case.width} x {case.height}",
        "images": case.count,
        "decoded_again_seconds": float(np.median(again)),
        "first_seconds": float(np.median(first)),
        "later_seconds": float(np.median(later)),
        "ratio": float(np.median(np.array(again) / np.array(later))),
        "bit_identical": all(same),
    }


def _timed(items: list[images.Item], model: VisionModel, keep: bool) -> tuple[float, torch.Tensor]:
    start = time.perf_counter()
    with pixels.decoded(items, [], model, "device", 1, keep=keep) as found:
        return time.perf_counter() - start, found.tensor.clone()


def _write(case: Case, folder: Path) -> None:
    """Smooth shapes with some noise, which photographs are nearer to than to noise alone."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(case.count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((case.width, case.height), Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = np.clip(smooth + rng.integers(-8, 9, smooth.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{i}.{case.ending}")
