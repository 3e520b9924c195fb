"""How fast nested dropout is: beside the loop that reopens every image in every pass, on the same random encoder."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from open_clip.transform import image_transform
from open_clip.transformer import VisionTransformer
from PIL import Image
from torch.nn import functional

from experiments.models import devices, vision
from experiments.models.vision import VisionModel
from experiments.montecarlo.inference import images, passes, pixels
from experiments.montecarlo.inference.dropout import Dropout, Site, attached, choose, key
from experiments.montecarlo.inference.images import Item
from harness.progress import working

IMAGES, TRIALS, PASSES, P = 200, 2, 8, 0.01
_NAIVE_PASSES = 2  # of those of all trials: each costs the same
_SIDE = 256  # pixels of a written image
_NAIVE_BATCH = 8


@dataclass(frozen=True)
class Case:
    """One row of the benchmark: sites, and the precision of our side; the naive loop computes in fp32 always."""

    sites: str
    precision: str
    layers: int = 12
    width: int = 768
    batch: int = 16


def cases(device: str) -> list[Case]:
    """The cases whose figures the documentation shows."""
    batch = {"batch": 200} if device == "cuda" else {}
    chosen = [("mlp-down", "bf16"), ("mlp-down", "fp32"), ("last-3", "fp32"), ("last-1", "fp32"), ("last-1", "bf16")]
    return [Case(sites, precision, **batch) for sites, precision in chosen]


def bench(device: str, repeats: int, quick: bool) -> pd.DataFrame:
    """Run every case, or the first only: one row each, with our side and the naive loop in turn."""
    chosen = cases(device)[: 1 if quick else None]
    rows = []
    with tempfile.TemporaryDirectory(prefix="rigsweep-bench-") as folder:
        items = write(Path(folder), IMAGES)
        with working("bench", len(chosen), "cases") as advance:
            for case in chosen:
                rows.append(row := run(case, device, repeats, items))
                advance(1, f"{case.sites} {case.precision}: {row['ratio']:.1f}")
    return pd.DataFrame(rows)


def run(case: Case, device: str, repeats: int, items: list[Item]) -> dict[str, Any]:
    """Median images x passes a minute of both sides, their ratio, and the share of our wall time in the encoder.

    Ours are two trials, the fewest there can be; the naive loop, whose passes all cost the same, is timed over two of
    their passes.  Our time begins with the files on disk and ends with the statistics; drawing and setting zeros is not
    the encoder's time.
    """
    model = random_encoder(case, device)
    slow = random_encoder(replace(case, precision="fp32"), device)
    ours, theirs, shares = [], [], []
    with attached(model, case.sites, P, 0, torch.randn(2, 3, 224, 224, device=device)) as dropout:
        _ours(model, dropout, items[: case.batch], case.batch)  # the warm-up
        _naive(slow, case.sites, items[:_NAIVE_BATCH], 1)
        for _ in range(repeats):
            seconds, inside = _ours(model, dropout, items, case.batch)
            ours.append(seconds)
            shares.append(inside / seconds)
            theirs.append(_naive(slow, case.sites, items, _NAIVE_PASSES))
    work = 60 * len(items) * np.array([TRIALS * PASSES, _NAIVE_PASSES])
    rates, naive_rates = work[0] / np.asarray(ours), work[1] / np.asarray(theirs)
    ratios = rates / naive_rates
    return {
        "sites": case.sites,
        "precision": case.precision,
        "images": len(items),
        "trials": TRIALS,
        "passes": PASSES,
        "seconds": float(np.median(ours)),
        "images_x_passes_per_min": float(np.median(rates)),
        "naive_images_x_passes_per_min": float(np.median(naive_rates)),
        "ratio": float(np.median(ratios)),
        "ratio_low": float(ratios.min()),
        "ratio_high": float(ratios.max()),
        "share_in_encoder": float(np.median(shares)),
    }


def _ours(model: VisionModel, dropout: Dropout, items: list[Item], size: int) -> tuple[float, float]:
    """Seconds of all trials over all images, and how many of them lie in the encoder less what dropout takes."""
    encoding, dropping = _Stopwatch(), _Stopwatch()
    with (
        patch.object(VisionModel, "trunk", encoding.watch(VisionModel.trunk)),
        patch.object(VisionModel, "tail", encoding.watch(VisionModel.tail)),
        patch.object(Site, "apply", dropping.watch(Site.apply)),
    ):
        start = time.perf_counter()
        with pixels.decoded(items, [], model, "auto", 2) as found:
            for first in range(0, len(found.views), size):
                views = found.views[first : first + size]
                keys = [key(view.item.name) for view in views]
                batch = passes.begin(model, dropout.depth, found.batch(views, model), keys)
                for trial in range(TRIALS):
                    for _ in passes.run(model, dropout, dropout.depth, batch, trial, [PASSES]):
                        pass
        seconds = time.perf_counter() - start
    return seconds, encoding.seconds - dropping.seconds


class _Stopwatch:
    """Adds up the time spent in functions; calls within each other count once."""

    def __init__(self) -> None:
        self.seconds, self._inside = 0.0, 0

    def watch(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any) -> Any:
            self._inside += 1
            start = _now()
            result = function(*arguments)
            self._inside -= 1
            if not self._inside:
                self.seconds += _now() - start
            return result

        return watched


def _naive(model: VisionModel, sites: str, items: list[Item], count: int) -> float:
    """Seconds of the simple loop: every pass opens every image again, eight at a time; embeddings are kept."""
    handles = [
        site.module.register_forward_pre_hook(lambda _, inputs: (functional.dropout(inputs[0], P), *inputs[1:]))
        for site in choose(model, sites)
    ]
    start = time.perf_counter()
    kept = []
    with torch.no_grad():
        for _ in range(count):
            for first in range(0, len(items), _NAIVE_BATCH):
                opened = [Image.open(item.path).convert("RGB") for item in items[first : first + _NAIVE_BATCH]]
                batch = torch.stack([model.preprocess(image) for image in opened]).to(model.device)
                kept.append(model(batch).cpu())
    raw = torch.cat(kept).double().unflatten(0, (count, -1))
    for each in (raw, functional.normalize(raw, dim=-1)):
        each.var(dim=0, unbiased=False).mean(dim=-1)
    seconds = time.perf_counter() - start
    for handle in handles:
        handle.remove()
    return seconds


def random_encoder(case: Case, device: str) -> VisionModel:
    """A ViT-B/32 (or smaller) of random weights; its attention is written out where sites lie in it."""
    torch.manual_seed(0)
    with torch.device(device):
        visual = VisionTransformer(224, 32, case.width, case.layers, case.width // 64, 4.0, output_dim=512).eval()
    preprocess = image_transform(224, is_train=False)
    built = vision.Built(visual, visual, preprocess, _no_text, 1.0)
    dtype, split = devices.DTYPES[case.precision], case.sites.startswith("last-")
    return vision.assemble("random", built, torch.device(device), dtype, split_attention=split)


def write(folder: Path, count: int) -> list[Item]:
    """So many PNGs of blurred noise with some grain, about as large on disk as photographs of their size."""
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((_SIDE, _SIDE))
        grain = rng.normal(0, 4, (_SIDE, _SIDE, 3))
        Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)).save(folder / f"{i:04d}.png")
    return images.find(str(folder))


def _no_text(captions: list[str]) -> torch.Tensor:
    raise NotImplementedError("a random encoder has no captions")


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _silent(*_: Any) -> Any:
    return nullcontext(lambda *_: None)
