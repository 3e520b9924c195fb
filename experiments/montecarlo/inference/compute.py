"""Units -> statistics: one trial of some images after the other, in this process or in a worker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import pandas as pd

from experiments.models import vision
from experiments.models.vision import VisionModel
from experiments.montecarlo.inference import passes
from experiments.montecarlo.inference.dropout import Dropout, attach, key
from experiments.montecarlo.inference.halving import forgiving
from experiments.montecarlo.inference.params import MontecarloInfer
from experiments.montecarlo.inference.pixels import Pixels, View
from harness.measuring.clock import Clock
from harness.running.work import Compute, Part


@dataclass(frozen=True)
class Unit:
    """One image in one trial: as little as may be done by itself."""

    view: View
    trial: int

    @property
    def name(self) -> str:
        """What the journal knows it by."""
        return f"{self.trial} {self.view.variant} {self.view.item.name}"


@dataclass(frozen=True)
class Sampling:
    """What all units have in common; `passes` are the numbers of passes, ascending."""

    params: MontecarloInfer
    seed: int
    passes: tuple[int, ...]


@dataclass(frozen=True)
class Mapped:
    """A sampling whose pixels lie in a file, where every worker can look at them; sites are tried out on `pair`.

    `size` is how many images a batch has.
    """

    sampling: Sampling
    file: str
    shape: tuple[int, ...]
    pair: tuple[View, ...]
    size: int

    def load(self, device: str) -> Compute[Unit]:
        """An encoder of the worker's own, with dropout in it until the worker lets it go."""
        model = load(self.sampling.params, device)
        pixels = Pixels.mapped(self.file, self.shape, model.dtype, list(self.pair))
        return forgiving(self.sampling.params, prepare(self.sampling, model, pixels).compute, self.size)


@dataclass(frozen=True)
class Encoder:
    """An encoder with dropout at the sites of a sampling, ready to be run on its pixels."""

    sampling: Sampling
    model: VisionModel
    dropout: Dropout
    pixels: Pixels

    @property
    def depth(self) -> int:
        """How many blocks come before the first site."""
        return self.dropout.depth

    def compute(self, units: Sequence[Unit], clock: Clock) -> Iterator[Part]:
        """One part a trial; the trunk of its images is computed once, in the time of the first trial."""
        depth = self.depth if self.sampling.params.trunk == "once" else 0
        begun: dict[tuple[View, ...], passes.Batch] = {}
        for trial, some in groupby(units, key=lambda unit: unit.trial):
            of_trial = list(some)
            views = tuple(unit.view for unit in of_trial)
            names = {"image": [view.item.name for view in views], "variant": [view.variant for view in views]}
            frames = []
            with clock.batch(samples=len(views) * self.sampling.passes[-1]):
                if views not in begun:
                    pixels, keys = self.pixels.batch(views, self.model), [key(name) for name in names["image"]]
                    begun = {views: passes.begin(self.model, depth, pixels, keys)}
                computed = passes.run(self.model, self.dropout, depth, begun[views], trial, self.sampling.passes)
                for number, statistics in computed:
                    frames.append(pd.DataFrame({**names, "trial": trial, "passes": number}).join(statistics))
            done = [unit.name for unit in of_trial]
            yield Part(done, pd.concat(frames).set_axis(done * len(frames)))


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


def prepare(sampling: Sampling, model: VisionModel, pixels: Pixels) -> Encoder:
    """Hook dropout in, try its sites out, and compile where that is asked for."""
    tried = pixels.batch([pixels.views[0], pixels.views[min(1, len(pixels.views) - 1)]], model)
    dropout = attach(model, sampling.params.sites, sampling.params.dropout, sampling.seed, tried)
    if sampling.params.compile:
        for block in model.blocks:
            block.compile()
    return Encoder(sampling, model, dropout, pixels)
