"""How many images are computed at once where nobody has said: what memory allows."""

from __future__ import annotations

from dataclasses import replace

import psutil
import torch

from experiments.montecarlo.inference.compute import Encoder, Unit
from harness.measuring.clock import Clock
from harness.measuring.memory import peak_rss, reset_peak_rss

_SHARE = 0.8  # of the free memory, what a batch may take
_CEILING = {"cpu": 64}  # images beyond which a larger batch gains nothing
_ACCELERATED = 1024
_TRIED = (1, 5)  # images that the need is measured on


def find(encoder: Encoder, device: str, sharing: int = 1) -> int:
    """The images that a batch may have: a power of two that fits into free memory, and no more than gains speed.

    Need is what one image and what each more takes, dropout included, above what is held when a batch begins; `sharing`
    processes share the memory.
    """
    need_of(encoder, 1, device)  # with what only the first one needs
    free = free_bytes(device) / sharing
    least, more = (need_of(encoder, count, device) for count in _TRIED)
    each = max(1.0, (more - least) / (_TRIED[1] - _TRIED[0]))
    fitting = _TRIED[0] + (_SHARE * free - least) / each
    return min(_CEILING.get(device, _ACCELERATED), 1 << int(max(1.0, fitting)).bit_length() - 1)


def free_bytes(device: str) -> float:
    """Memory that is free on a device, in bytes."""
    return float(torch.cuda.mem_get_info()[0] if device.startswith("cuda") else psutil.virtual_memory().available)


def need_of(encoder: Encoder, count: int, device: str) -> float:
    """Bytes that so many images need above what is held when their batch begins."""
    few = replace(encoder, sampling=replace(encoder.sampling, passes=encoder.sampling.passes[:1]))
    views = encoder.pixels.views
    units = [Unit(views[i % len(views)], 0) for i in range(count)]
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        list(few.compute(units, Clock()))
        return float(torch.cuda.max_memory_allocated() - held)
    reset_peak_rss()
    held = peak_rss()
    list(few.compute(units, Clock()))
    return float(peak_rss() - held)
