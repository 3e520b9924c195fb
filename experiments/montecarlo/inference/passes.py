"""Nested Monte Carlo dropout: K trials of T passes over a batch, their statistics streamed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from experiments.models.vision import VisionModel
from experiments.montecarlo.inference.dropout import Dropout
from experiments.montecarlo.inference.params import PREFIX


@dataclass
class Moments:
    """Welford's running mean and sum of squared deviations, element by element, in fp64."""

    mean: torch.Tensor
    squares: torch.Tensor
    count: int = 0

    @classmethod
    def like(cls, x: torch.Tensor) -> Moments:
        """Nothing seen yet of values shaped like `x`."""
        return cls(torch.zeros_like(x), torch.zeros_like(x))

    def add(self, x: torch.Tensor) -> None:
        """Take in one more value of each element."""
        self.count += 1
        difference = x - self.mean
        self.mean += difference / self.count
        self.squares += difference * (x - self.mean)

    @property
    def variance(self) -> torch.Tensor:
        """Population variance."""
        return self.squares / self.count


class Streamed:
    """Statistics of a batch's passes so far; memory is that of a few embeddings, however many passes there are."""

    def __init__(self, plain: torch.Tensor) -> None:
        """`plain` (b, d) are the embeddings without dropout, in fp64."""
        self._plain = torch.nn.functional.normalize(plain, dim=1)
        self._raw, self._unit = Moments.like(plain), Moments.like(plain)
        self._norm, self._angle, self._cosine = (Moments.like(plain[:, 0]) for _ in range(3))

    def add(self, embeddings: torch.Tensor) -> None:
        """Take in one pass (b, d)."""
        norms = embeddings.norm(dim=1)
        unit = embeddings / norms[:, None]
        half_chord = (unit - self._plain).norm(dim=1) / 2  # exact for small angles, where 1 - cos is not
        self._raw.add(embeddings)
        self._unit.add(unit)
        self._norm.add(norms)
        self._angle.add(2 * torch.asin(half_chord.clamp(max=1)))
        self._cosine.add(2 * half_chord**2)

    def statistics(self) -> dict[str, torch.Tensor]:
        """One value an image (b,) of each statistic.

        Traces are of the covariance over passes, divided by d: of embeddings, of unit embeddings, and of embeddings
        with each dimension weighted by its share of the plain embedding's square.  `largest` is the largest variance of
        a dimension; `norm_variance` that of the length; `angular_variance` that of the angle (radians) to the plain
        embedding; `cosine_deviation` the mean of 1 - cosine to it.
        """
        raw = self._raw.variance
        return {
            "trace_pre": raw.mean(dim=1),
            "trace_post": self._unit.variance.mean(dim=1),
            "trace_weighted": (raw * self._plain**2).sum(dim=1),
            "largest": raw.amax(dim=1),
            "norm_variance": self._norm.variance,
            "angular_variance": self._angle.variance,
            "cosine_deviation": self._cosine.mean,
        }


@dataclass(frozen=True)
class Batch:
    """Images computed together: the trunk's output (b, …), their masks' keys (b,), plain embeddings (b, d) in fp64."""

    states: torch.Tensor
    keys: torch.Tensor
    plain: torch.Tensor


def begin(model: VisionModel, depth: int, pixels: torch.Tensor, keys: Sequence[int]) -> Batch:
    """Compute what all passes over a batch have in common."""
    with torch.inference_mode(), model.computing():
        states = model.trunk(pixels, depth) if depth else pixels
        plain = in_fp64(model.tail(states, depth) if depth else model(pixels))
    return Batch(states, torch.tensor(list(keys), device=pixels.device), plain)


def run(
    model: VisionModel, dropout: Dropout, depth: int, batch: Batch, trial: int, passes: Sequence[int]
) -> Iterator[tuple[int, pd.DataFrame]]:
    """The statistics of one trial at each number of passes, ascending: a row an image, in the batch's order."""
    streamed = Streamed(batch.plain)
    with torch.inference_mode(), model.computing():
        for number in range(1, passes[-1] + 1):
            dropout.draw(batch.keys, trial, number)
            streamed.add(in_fp64(model.tail(batch.states, depth) if depth else model(batch.states)))
            if number in passes:
                found = streamed.statistics()
                yield number, pd.DataFrame({PREFIX + name: values.cpu().numpy() for name, values in found.items()})
        dropout.off()


def in_fp64(embeddings: torch.Tensor) -> torch.Tensor:
    """Embeddings (b, d) where they are, or on the processor where the device has no fp64."""
    return embeddings.cpu().double() if embeddings.device.type == "mps" else embeddings.double()
