"""K trials of T dropout passes over every image -> Records: the statistics of its embeddings, at each T."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import pandas as pd
import torch

from experiments.models import digits, files
from experiments.models.vision import VisionModel
from experiments.montecarlo.inference import batch, captions, halving, images, passes, pixels
from experiments.montecarlo.inference.check import check
from experiments.montecarlo.inference.compute import Encoder, Mapped, Sampling, Unit, load, prepare
from experiments.montecarlo.inference.params import BUILT_IN, ORIGINAL, MontecarloInfer
from experiments.montecarlo.inference.pixels import Pixels, View
from harness.progress import working
from harness.running import cache
from harness.running.work import Runner, here, in_workers, records, work
from harness.stage import BadInput, Context, Records

_CAPTION = "a photo of a {}"


def infer(params: MontecarloInfer, context: Context) -> Records:
    """Compute every image in every trial, a batch of images at a time; their trunk once, where sites are late."""
    clock, wanted = context.clock, numbers(params.passes)
    with clock.spending("io"):
        items = images.find(params.images, params.keep)
        numbered = any(item.place is not None for item in items)
        called = captions.names(params.classes, images.classes(items), params.images, numbered=numbered)
    with clock.warmup():
        model = load(params, context.device)
    sampling = Sampling(params, context.seed, wanted)
    place = params.pixels if params.workers == 1 else "mmap"  # what several processes can look at
    with ExitStack() as stack:
        with clock.spending("preprocessing"):
            changed, keep = images.evenly(items, params.ablation), params.decode == "once" and not numbered
            opened = pixels.decoded(items, changed, model, place, params.decoders, keep=keep)
            decoded = stack.enter_context(opened)
        with clock.spending("model"):
            described, plain = _describe(params, model, decoded, called)
        with clock.warmup():
            encoder = prepare(sampling, model, decoded)
            stack.callback(encoder.dropout.remove)
            size = _batch_images(params, encoder, context)
        clock.forget_peak()
        frame = _run(sampling, encoder, size, context)
        with clock.warmup():
            inexact = params.precision != "fp32" and params.precision_check
            checked = check(sampling, context.device, decoded, frame) if inexact else {}
    frame = _described(frame, described, plain, decoded.thumbnails)
    counts = {"kept": len(items) - len(decoded.broken), "errors": len(decoded.broken), **decoded.notes}
    return records(
        context,
        frame,
        counts,
        sites=[site.name for site in encoder.dropout.sites],
        blocks=len(model.blocks),
        blocks_before_sites=encoder.depth,
        one_block=model.tower.whole,
        batch_images=size,
        broken=decoded.broken,
        pixels_moved=decoded.moved,
        decoded_before=decoded.decoded_before,
        checked=checked,
    )


def numbers(given: str) -> tuple[int, ...]:
    """`4,16,64` as ascending numbers of passes."""
    found = sorted({int(each) for each in given.split(",")})
    if found[0] < 2:
        raise BadInput(f"passes = {given}: one pass has no variance; at least 2 each")
    return tuple(found)


def _batch_images(params: MontecarloInfer, encoder: Encoder, context: Context) -> int:
    """The batch size given, or found for this encoder and these sites on this hardware."""
    if params.batch_images != "auto":
        return params.batch_images
    devices = torch.cuda.device_count() if context.device == "cuda" else 1

    @working("find the batch size")
    def find() -> int:
        return batch.find(encoder, context.device, -(-params.workers // devices))

    deciding = params.model_dump(include={"sites", "attention", "trunk", "precision", "compile", "workers"})
    made_of = f"{files.digest_encoder(params.encoder, params.library, params.pretrained)} {deciding}"
    return cache.remember(f"batch_images-{context.hardware}-{hashlib.sha256(made_of.encode()).hexdigest()}", find)


def _run(sampling: Sampling, encoder: Encoder, size: int, context: Context) -> pd.DataFrame:
    """Every image in every trial, some images in all their trials at a time."""
    trials, decoded = range(sampling.params.mc_trials), encoder.pixels
    chunks = [decoded.views[start : start + size] for start in range(0, len(decoded.views), size)]
    runner: Runner[Unit] = here(halving.forgiving(sampling.params, encoder.compute, size))
    if sampling.params.workers > 1:
        mapped = Mapped(sampling, str(decoded.file), tuple(decoded.tensor.shape), tuple(decoded.views[:2]), size)
        runner = in_workers(mapped, sampling.params.workers)
    frame, _ = work(
        context,
        runner,
        ([Unit(view, trial) for trial in trials for view in views] for views in chunks),
        lambda unit: unit.name,
        [Unit(view, trial).name for view in decoded.views for trial in trials],
        "dropout",
        samples="images x passes",
        samples_a_unit=sampling.passes[-1],
    )
    return frame


def _describe(
    params: MontecarloInfer, model: VisionModel, decoded: Pixels, called: captions.Names
) -> tuple[pd.DataFrame, dict[str, np.ndarray[Any, Any]]]:
    """What one plain pass says of each original image, by name, and its embedding."""
    views = [view for view in decoded.views if view.variant == ORIGINAL]

    def compute(some: Sequence[View]) -> torch.Tensor:
        return passes.in_fp64(model(decoded.batch(some, model))).cpu()

    with torch.inference_mode(), model.computing():
        auto = params.batch_images == "auto"
        size = halving.PLAIN if params.batch_images == "auto" else params.batch_images
        plain = halving.in_batches(views, size, compute, halving=auto)
    embeddings = torch.cat(plain)
    names = [view.item.name for view in views]
    by_name = dict(zip(names, embeddings.float().numpy(), strict=True))
    classes = images.classes([view.item for view in views])
    if len(classes) < 2:
        return pd.DataFrame(index=names), by_name
    of_class = {name: called[name] for name in classes}
    text, names_shown = _encode_classes(params, model, of_class), captions.shown(of_class)
    cosines = torch.nn.functional.normalize(embeddings, dim=1) @ text.T
    shares = (model.logit_scale * cosines).softmax(dim=1).numpy()
    best = np.sort(shares, axis=1)
    predicted = shares.argmax(axis=1)
    labels = np.array([classes.index(str(view.item.label)) for view in views])
    table = pd.DataFrame(
        {
            "label": labels,
            "predicted": predicted,
            "class": [names_shown[i] for i in labels],
            "predicted_class": [names_shown[i] for i in predicted],
            "wrong": (predicted != labels).astype(np.int64),
            "entropy": -(shares * np.log(np.maximum(shares, 1e-300))).sum(axis=1),
            "margin": best[:, -1] - best[:, -2],
        },
        index=names,
    )
    return table, by_name


def _encode_classes(params: MontecarloInfer, model: VisionModel, called: captions.Names) -> torch.Tensor:
    """Captions of unit length (classes, d); a class of several names is the mean of theirs, brought to unit length."""
    caption = params.caption or (digits.CAPTION if params.images in BUILT_IN else _CAPTION)
    if "{}" not in caption:
        raise BadInput(f"caption = {caption}: must hold {{}}, where the class goes")
    text = (
        model.encode_text([caption.replace("{}", name) for names in called.values() for name in names]).double().cpu()
    )
    counts = [len(names) for names in called.values()]
    if max(counts) == 1:
        return text
    return torch.nn.functional.normalize(torch.stack([part.mean(dim=0) for part in text.split(counts)]), dim=1)


def _described(
    frame: pd.DataFrame,
    described: pd.DataFrame,
    plain: dict[str, np.ndarray[Any, Any]],
    thumbnails: dict[str, bytes],
) -> pd.DataFrame:
    """The rows with what is known of their images; embedding and thumbnail stand in an image's first row only."""
    frame = frame.join(described, on="image")
    first = (frame["variant"] == ORIGINAL) & ~frame.duplicated("image")
    frame["embedding"] = [plain[name].tolist() if at else None for name, at in zip(frame["image"], first, strict=True)]
    frame["thumbnail"] = [thumbnails[name] if at else None for name, at in zip(frame["image"], first, strict=True)]
    return frame
