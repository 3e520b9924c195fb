"""What an inference cost: wall time, latency percentiles, peak memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

_GB = 2**30


@dataclass(frozen=True)
class Cost:
    """The measured price of one inference; memory in GiB, warm-up left out of every rate and percentile.

    `rss_before_gb` is the process before the model was loaded (interpreter and libraries), to be
    subtracted from `peak_rss_gb` when only the pipeline's share is wanted.
    """

    hardware: str
    device: str
    samples: int
    seconds: float
    warmup_seconds: float
    latency_p50_ms: float
    latency_p95_ms: float
    latency_p99_ms: float
    tokens: int
    peak_rss_gb: float
    rss_before_gb: float
    peak_device_gb: float | None

    def metrics(self) -> dict[str, float]:
        """The figures a user compares, under the names they are logged by."""
        figures = {name: value for name, value in asdict(self).items() if isinstance(value, int | float)}
        if self.seconds > 0:
            figures["samples_per_min"] = 60 * self.samples / self.seconds
            figures["tokens_per_s"] = self.tokens / self.seconds
        return {name: float(value) for name, value in figures.items()}


class Clock:
    """Times samples as a stage works through them, and reads memory around the whole inference."""

    def __init__(self, hardware: str, device: str) -> None:
        self._hardware, self._device = hardware, device
        self._latencies: list[float] = []
        self._warmup = 0.0
        self._tokens = 0
        self._rss_before = psutil.Process().memory_info().rss
        reset_peak_rss()
        if cuda := _cuda():
            cuda.reset_peak_memory_stats()

    @contextmanager
    def warmup(self) -> Iterator[None]:
        """Time work that only the first sample pays for; reported beside the rates, never inside them."""
        start = self._now()
        yield
        self._warmup += self._now() - start

    @contextmanager
    def batch(self, samples: int, tokens: int) -> Iterator[None]:
        """Time samples that are computed together; the latency of each is its share of the batch."""
        start = self._now()
        yield
        self._latencies += [(self._now() - start) / samples] * samples
        self._tokens += tokens

    def cost(self) -> Cost:
        """Everything measured so far."""
        milliseconds = 1e3 * np.asarray(self._latencies or [0.0])
        p50, p95, p99 = (float(p) for p in np.percentile(milliseconds, [50, 95, 99]))
        cuda = _cuda()
        return Cost(
            hardware=self._hardware,
            device=self._device,
            samples=len(self._latencies),
            seconds=float(sum(self._latencies)),
            warmup_seconds=self._warmup,
            latency_p50_ms=p50,
            latency_p95_ms=p95,
            latency_p99_ms=p99,
            tokens=self._tokens,
            peak_rss_gb=peak_rss() / _GB,
            rss_before_gb=self._rss_before / _GB,
            peak_device_gb=cuda.max_memory_allocated() / _GB if cuda else None,
        )

    def _now(self) -> float:
        if cuda := _cuda():
            cuda.synchronize()
        return time.perf_counter()


def _cuda() -> Any:
    """torch.cuda where a stage has loaded torch and there is a GPU, else None."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() else None


def reset_peak_rss() -> None:
    """Forget the peak reached before this inference (Linux; elsewhere the peak is the whole process's)."""
    clear_refs = Path("/proc/self/clear_refs")
    if clear_refs.exists():
        try:
            clear_refs.write_text("5")
        except OSError:  # a container may forbid it; the peak then covers the process's whole life
            return


def peak_rss() -> int:
    """Highest resident size in bytes; not ru_maxrss on Linux, which a child inherits from its parent."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
