"""K trials of T dropout passes over every image -> Records: the statistics of its embeddings, at each T."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import pandas as pd
import torch

from experiments.models import digits, vision
from experiments.models.vision import VisionModel
from experiments.montecarlo.inference import images, passes, pixels
from experiments.montecarlo.inference.check import check
from experiments.montecarlo.inference.compute import Encoder, Job, here, in_workers, load, prepare
from experiments.montecarlo.inference.params import ORIGINAL, MontecarloInfer
from experiments.montecarlo.inference.pixels import Pixels, Row
from harness.running.work import records
from harness.stage import BadInput, Context, Records

_CAPTION = "a photo of a {}"


def inputs(params: MontecarloInfer) -> dict[str, str]:
    """Content digests of encoder and images."""
    found = images.find(params.images, params.keep)
    return {
        "model": vision.digest(params.encoder, params.library, params.pretrained),
        "data": images.digest(found),
    }


def infer(params: MontecarloInfer, context: Context) -> Records:
    """Compute every image in every trial, a batch of images at a time; their trunk once, where sites are late."""
    clock, wanted = context.clock, numbers(params.passes)
    with clock.spending("io"):
        items = images.find(params.images, params.keep)
    with clock.warmup():
        model = load(params, context.device)
    job = Job(params, context.seed, context.device, wanted)
    place = params.pixels if params.workers == 1 else "mmap"  # what several processes can look at
    with ExitStack() as stack:
        with clock.spending("preprocessing"):
            opened = pixels.decoded(
                items, images.evenly(items, params.ablation), model, place, params.decoders, context.progress
            )
            found = stack.enter_context(opened)
        with clock.spending("model"):
            described, plain = _describe(params, model, found)
        with clock.warmup():
            encoder = prepare(job, model, found, stack)
        clock.forget_peak()
        _run(params, job, encoder, found, context)
        with clock.spending("io"):
            frame = _ordered(context.journal.frame(), found.rows)
        with clock.warmup():
            checked = check(job, found, frame) if params.precision != "fp32" and params.precision_check else {}
    frame = _described(frame, described, plain, found.thumbnails)
    counts = {"kept": len(items) - len(found.broken), "errors": len(found.broken), **found.notes}
    return records(
        context,
        frame,
        counts,
        sites=[site.name for site in encoder.dropout.sites],
        blocks=len(model.blocks),
        blocks_before_sites=encoder.depth,
        broken=found.broken,
        pixels_moved=found.moved,
        checked=checked,
    )


def numbers(given: str) -> tuple[int, ...]:
    """`4,16,64` as ascending numbers of passes."""
    found = sorted({int(each) for each in given.split(",")})
    if found[0] < 2:
        raise BadInput(f"passes = {given}: one pass has no variance; at least 2 each")
    return tuple(found)


def _run(params: MontecarloInfer, job: Job, encoder: Encoder, found: Pixels, context: Context) -> None:
    """Work through what the journal has not got yet, and keep each trial of a batch as it comes."""
    journal, most = context.journal, job.passes[-1]
    total = len(found.rows) * params.mc_trials * most
    batches = list(_left(found.rows, params, journal.done))
    if params.workers == 1:
        computed = here(job, encoder, found, batches, context.clock)
    else:
        computed = in_workers(job, found, batches, context.clock)
    with context.progress(total, "dropout", "images x passes") as advance:
        advance(most * len(journal.done))
        for done in computed:
            with context.clock.spending("io"):
                journal.keep(done.frame, _units(done.rows, done.trial), {}, done.reading)
            advance(most * len(done.rows))


def _left(rows: Sequence[Row], params: MontecarloInfer, done: set[str]) -> Iterator[tuple[Sequence[Row], list[int]]]:
    """Batches, each with the trials that an interrupted run has not done of it."""
    for start in range(0, len(rows), params.batch_images):
        batch = rows[start : start + params.batch_images]
        if trials := [k for k in range(params.mc_trials) if not done.issuperset(_units(batch, k))]:
            yield batch, trials


def _units(rows: Sequence[Row], trial: int) -> list[str]:
    return [f"{trial} {row.variant} {row.item.name}" for row in rows]


def _ordered(frame: pd.DataFrame, rows: Sequence[Row]) -> pd.DataFrame:
    """The rows in the order of the images, whatever order they came in."""
    place = {(row.item.name, row.variant): i for i, row in enumerate(rows)}
    at = pd.Series([place[key] for key in zip(frame["image"], frame["variant"], strict=True)], index=frame.index)
    order = frame.assign(at=at).sort_values(["at", "trial", "passes"], kind="stable").index
    return frame.loc[order].reset_index(drop=True)


def _describe(
    params: MontecarloInfer, model: VisionModel, found: Pixels
) -> tuple[pd.DataFrame, dict[str, np.ndarray[Any, Any]]]:
    """What one plain pass says of each original image, by name, and its embedding."""
    rows = [row for row in found.rows if row.variant == ORIGINAL]
    plain = []
    with torch.inference_mode(), model.computing():
        for start in range(0, len(rows), params.batch_images):
            batch = found.batch(rows[start : start + params.batch_images], model)
            plain.append(passes.in_fp64(model(batch)).cpu())
    embeddings = torch.cat(plain)
    names = [row.item.name for row in rows]
    by_name = dict(zip(names, embeddings.float().numpy(), strict=True))
    classes = images.classes([row.item for row in rows])
    if len(classes) < 2:
        return pd.DataFrame(index=names), by_name
    caption = params.caption or (digits.CAPTION if params.images == "builtin" else _CAPTION)
    if "{}" not in caption:
        raise BadInput(f"caption = {caption}: must hold {{}}, where the class goes")
    text = model.encode_text([caption.format(name) for name in classes]).double().cpu()
    cosines = torch.nn.functional.normalize(embeddings, dim=1) @ text.T
    shares = (model.logit_scale * cosines).softmax(dim=1).numpy()
    best = np.sort(shares, axis=1)
    predicted = shares.argmax(axis=1)
    labels = np.array([classes.index(str(row.item.label)) for row in rows])
    table = pd.DataFrame(
        {
            "label": labels,
            "predicted": predicted,
            "class": [classes[i] for i in labels],
            "predicted_class": [classes[i] for i in predicted],
            "wrong": (predicted != labels).astype(np.int64),
            "entropy": -(shares * np.log(np.maximum(shares, 1e-300))).sum(axis=1),
            "margin": best[:, -1] - best[:, -2],
        },
        index=names,
    )
    return table, by_name


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
