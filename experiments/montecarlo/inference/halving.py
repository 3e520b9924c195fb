"""Batches that are halved where memory runs out, if their size was left to us; no number depends on it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import torch

from experiments.montecarlo.inference.params import MontecarloInfer
from experiments.montecarlo.inference.pixels import View
from harness.measuring.clock import Clock
from harness.progress import working
from harness.running.work import Compute, Part
from harness.stage import BadInput, one_line

if TYPE_CHECKING:
    from experiments.montecarlo.inference.compute import Unit

Out = TypeVar("Out")

HALVED = "batches_halved"  # as it is counted
PLAIN = 64  # images of a pass without dropout that are tried first
_FULL = ("out of memory", "can't allocate memory", "alloc_failed")  # how devices' allocators say so


@dataclass
class Halving:
    """Computes units as `compute` does, and in smaller and smaller batches once one has run out of memory."""

    compute: Compute[Unit]
    size: int  # images

    def __call__(self, units: Sequence[Unit], clock: Clock) -> Iterator[Part]:
        """One part a trial and batch, the first after a halving counting it; BadInput where not one image fits."""
        left, halved = list(units), 0
        while left:
            chosen = set(list(dict.fromkeys(unit.view for unit in left))[: self.size])
            batch = [unit for unit in left if unit.view in chosen]
            done: set[str] = set()
            full = ""
            try:
                for part in self.compute(batch, clock):
                    done.update(part.done)
                    yield replace(part, counts={**part.counts, HALVED: halved}) if halved else part
                    halved = 0
            except (MemoryError, RuntimeError) as error:
                full = ran_out(error)
                if not full:
                    raise
            if full:  # and what the error held is free
                self.size = halve(len(chosen), full)
                halved += 1
            left = [unit for unit in left if unit.name not in done]


def forgiving(params: MontecarloInfer, compute: Compute[Unit], size: int) -> Compute[Unit]:
    """What computes units, with smaller batches where memory runs out if their size was not given."""
    return Halving(compute, size) if params.batch_images == "auto" else compute


def halve(count: int, full: str) -> int:
    """Half as many images as did not fit, memory tidied up; BadInput where that was one."""
    if count == 1:
        raise BadInput(f"batch_images = auto: memory does not hold one image: {full}")
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return count // 2


def in_batches(
    views: Sequence[View], size: int, compute: Callable[[Sequence[View]], Out], *, halving: bool
) -> list[Out]:
    """What `compute` gives of so many views at a time; of half as many where memory runs out and that is allowed."""
    found: list[Out] = []
    at = 0
    with working("one plain pass", len(views), "images") as advance:
        while at < len(views):
            some, full = views[at : at + size], ""
            try:
                found.append(compute(some))
            except (MemoryError, RuntimeError) as error:
                full = ran_out(error) if halving else ""
                if not full:
                    raise
            if full:
                size = halve(len(some), full)
            else:
                at += len(some)
                advance(len(some))
    return found


def ran_out(error: BaseException) -> str:
    """What an error says, where it is that memory has run out, else nothing."""
    said = one_line(error) or type(error).__name__
    full = isinstance(error, MemoryError | torch.OutOfMemoryError) or any(word in said.lower() for word in _FULL)
    return said if full else ""
