"""Batches -> statistics: in this process, or in several that hold an encoder each."""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache

import pandas as pd
import torch
from joblib import Parallel, delayed

from experiments.models import vision
from experiments.models.vision import VisionModel
from experiments.montecarlo.inference import passes
from experiments.montecarlo.inference.dropout import Dropout, attached, key
from experiments.montecarlo.inference.params import MontecarloInfer
from experiments.montecarlo.inference.pixels import Pixels, Row
from harness.measuring.clock import Clock
from harness.measuring.cost import Reading
from harness.running.work import die_with_parent

Batch = tuple[Sequence[Row], Sequence[int]]  # the images, and the trials that are to be run on them


@dataclass(frozen=True)
class Job:
    """What all batches have in common; `passes` are the numbers of passes, ascending."""

    params: MontecarloInfer
    seed: int
    device: str
    passes: tuple[int, ...]


@dataclass(frozen=True)
class Done:
    """One trial of one batch: a row an image and number of passes."""

    rows: Sequence[Row]
    trial: int
    frame: pd.DataFrame
    reading: Reading


@dataclass(frozen=True)
class Encoder:
    """An encoder with dropout at the sites of a job, ready to be run."""

    model: VisionModel
    dropout: Dropout

    @property
    def depth(self) -> int:
        """How many blocks are computed once an image and not in every pass."""
        return self.dropout.depth

    def run(self, job: Job, pixels: Pixels, batch: Batch, clock: Clock) -> Iterator[Done]:
        """The trials of one batch, one after the other; the trunk is part of the first one's time."""
        rows, trials = batch
        begun: passes.Batch | None = None
        depth = self.depth if job.params.trunk == "once" else 0
        for trial in trials:
            frames = []
            with clock.batch(samples=len(rows) * job.passes[-1], tokens=0):
                begun = begun or passes.begin(
                    self.model, depth, pixels.batch(rows, self.model), [key(row.item.name) for row in rows]
                )
                for number, frame in passes.run(self.model, self.dropout, depth, begun, trial, job.passes):
                    names = {"image": [row.item.name for row in rows], "variant": [row.variant for row in rows]}
                    frames.append(pd.DataFrame({**names, "trial": trial, "passes": number}).join(frame))
            yield Done(rows, trial, pd.concat(frames, ignore_index=True), clock.lap())


def load(params: MontecarloInfer, device: str) -> VisionModel:
    """The encoder that the settings name, without dropout."""
    return vision.load(
        params.encoder,
        params.library,
        params.pretrained,
        params.precision,
        device,
        split_attention=params.attention == "split",
    )


def prepare(job: Job, model: VisionModel, pixels: Pixels, stack: ExitStack) -> Encoder:
    """Hook dropout in until the stack is left, try its sites out, and compile where that is asked for."""
    pair = [pixels.rows[0], pixels.rows[min(1, len(pixels.rows) - 1)]]
    tried = pixels.batch(pair, model)
    dropout = stack.enter_context(attached(model, job.params.sites, job.params.dropout, job.seed, tried))
    if job.params.compile:
        for block in model.blocks:
            block.compile()
    return Encoder(model, dropout)


def here(job: Job, encoder: Encoder, pixels: Pixels, batches: Iterable[Batch], clock: Clock) -> Iterator[Done]:
    """Compute in this process, one batch after the other."""
    for batch in batches:
        yield from encoder.run(job, pixels, batch, clock)


def in_workers(job: Job, pixels: Pixels, batches: Iterable[Batch], clock: Clock) -> Iterator[Done]:
    """Compute in several processes, each with an encoder and where there are several GPUs one of its own.

    They look at the same pixels, which lie in a file.
    """
    where = (job, str(pixels.file), tuple(pixels.tensor.shape), tuple(pixels.rows[:2]))
    count = job.params.workers
    with clock.warmup():  # until every worker has its encoder; they are kept for the calls that follow
        Parallel(n_jobs=count)(delayed(_started)(*where) for _ in range(count))
    parallel = Parallel(n_jobs=count, return_as="generator_unordered")
    for finished in parallel(delayed(_in_worker)(*where, batch) for batch in batches):
        for done in finished:
            clock.join(done.reading)
            yield replace(done, reading=clock.lap())


def _started(job: Job, file: str, shape: tuple[int, ...], pair: tuple[Row, ...]) -> None:
    _worker(job, file, shape, pair)


def _in_worker(job: Job, file: str, shape: tuple[int, ...], pair: tuple[Row, ...], batch: Batch) -> list[Done]:
    encoder, pixels, clock = _worker(job, file, shape, pair)
    return list(encoder.run(job, pixels, batch, clock))


_stack = ExitStack()  # of a worker: what stays hooked in until it ends


@lru_cache(maxsize=1)
def _worker(job: Job, file: str, shape: tuple[int, ...], pair: tuple[Row, ...]) -> tuple[Encoder, Pixels, Clock]:
    """This worker's encoder, loaded at its first task; the hooks, and with them the memory, of one before are gone."""
    die_with_parent()
    _stack.close()
    device = job.device
    if device == "cuda":
        number = re.search(r"\d+$", multiprocessing.current_process().name)
        device = f"cuda:{(int(number[0]) - 1 if number else 0) % torch.cuda.device_count()}"
        torch.cuda.set_device(device)
    model = load(job.params, device)
    pixels = Pixels.mapped(file, shape, model.dtype, list(pair))
    return prepare(job, model, pixels, _stack), pixels, Clock()
