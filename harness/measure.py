"""What an inference cost: wall time, latency percentiles, peak memory."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

_GB = 2**30


@dataclass(frozen=True)
class Reading:
    """What was measured since the reading before; seconds are wall time, latencies a sample's share of its batch.

    `peaks` are the highest resident bytes of every process at work so far, and of the device (None: no device).
    """

    session: str
    seconds: float
    latencies: list[float]
    tokens: int
    warmup_seconds: float
    rss_before: int
    peak_rss: int
    peak_device: int | None


@dataclass(frozen=True)
class Cost:
    """The measured price of one inference; memory in GiB, warm-up left out of every rate and percentile.

    `rss_before_gb` is the process before the model was loaded (interpreter and libraries), to be
    subtracted from `peak_rss_gb` when only the pipeline's share is wanted.  `sessions` counts the processes that
    one after the other made the records, more than one where a run was killed and resumed.
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
    sessions: int = 1

    @classmethod
    def of(cls, readings: Sequence[Reading], hardware: str, device: str) -> Cost:
        """The sum of an inference's readings, of whatever session they are."""
        latencies = [latency for reading in readings for latency in reading.latencies]
        p50, p95, p99 = (float(p) for p in np.percentile(1e3 * np.asarray(latencies or [0.0]), [50, 95, 99]))
        on_device = [reading.peak_device for reading in readings if reading.peak_device is not None]
        return cls(
            hardware=hardware,
            device=device,
            samples=len(latencies),
            seconds=sum(reading.seconds for reading in readings),
            warmup_seconds=sum(reading.warmup_seconds for reading in readings),
            latency_p50_ms=p50,
            latency_p95_ms=p95,
            latency_p99_ms=p99,
            tokens=sum(reading.tokens for reading in readings),
            peak_rss_gb=max((reading.peak_rss for reading in readings), default=0) / _GB,
            rss_before_gb=max((reading.rss_before for reading in readings), default=0) / _GB,
            peak_device_gb=max(on_device) / _GB if on_device else None,
            sessions=len({reading.session for reading in readings}),
        )

    def metrics(self) -> dict[str, float]:
        """The figures a user compares, under the names they are logged by."""
        figures = {name: value for name, value in asdict(self).items() if isinstance(value, int | float)}
        if self.seconds > 0:
            figures["samples_per_min"] = 60 * self.samples / self.seconds
            figures["tokens_per_s"] = self.tokens / self.seconds
        return {name: float(value) for name, value in figures.items()}


class Clock:
    """Times samples as a stage works through them, and reads memory around the whole inference."""

    def __init__(self) -> None:
        self._session = uuid.uuid4().hex
        self._rss_before = psutil.Process().memory_info().rss
        self._elsewhere: dict[str, Reading] = {}
        self.forget_peak()
        self._restart()

    @contextmanager
    def warmup(self) -> Iterator[None]:
        """Time work that only the first sample pays for; reported beside the rates, never inside them."""
        start = self._now()
        yield
        self._warmup += self._now() - start
        self._lap = time.perf_counter()

    @contextmanager
    def batch(self, samples: int, tokens: int) -> Iterator[None]:
        """Time samples that are computed together; the latency of each is its share of the batch."""
        start = self._now()
        yield
        seconds = self._now() - start
        self._seconds += seconds
        self._latencies += [seconds / samples] * samples
        self._tokens += tokens

    def join(self, reading: Reading) -> None:
        """Take in a batch that another process has computed: here it took the time since the lap before."""
        self._elsewhere[reading.session] = reading
        self._seconds += time.perf_counter() - self._lap
        self._latencies += reading.latencies
        self._tokens += reading.tokens

    def lap(self) -> Reading:
        """Everything measured since the last lap."""
        others = self._elsewhere.values()
        cuda = _cuda()
        on_device = [other.peak_device for other in others if other.peak_device is not None]
        reading = Reading(
            self._session,
            self._seconds,
            self._latencies,
            self._tokens,
            self._warmup,
            self._rss_before,
            peak_rss() + sum(other.peak_rss for other in others),
            sum(on_device) + sum(map(cuda.max_memory_allocated, range(cuda.device_count()))) if cuda else None,
        )
        self._restart()
        return reading

    def forget_peak(self) -> None:
        """Leave out of the peaks what was needed until now."""
        reset_peak_rss()
        if cuda := _cuda():
            for device in range(cuda.device_count()):
                cuda.reset_peak_memory_stats(device)

    def _restart(self) -> None:
        self._latencies: list[float] = []
        self._seconds, self._warmup, self._tokens, self._lap = 0.0, 0.0, 0, time.perf_counter()

    def _now(self) -> float:
        if cuda := _cuda():
            for device in range(cuda.device_count()):
                cuda.synchronize(device)
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
