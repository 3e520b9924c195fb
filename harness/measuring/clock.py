"""Times an inference: wall time and what it went into, what samples wait for, and memory meanwhile."""

from __future__ import annotations

import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal

import psutil

from harness.measuring import memory
from harness.measuring.cost import Reading, total
from harness.measuring.trace import Profiler
from harness.progress import working

Kind = Literal["setup", "warmup", "model", "preprocessing", "tokenising", "io", "scoring"]
# What is said of it where it takes long; batches are counted, and tokenising goes on between them.
_SAID: dict[str, str] = {
    "setup": "prepare",
    "warmup": "warm up",
    "preprocessing": "preprocess",
    "io": "read or write",
    "scoring": "score",
}


class Clock:
    """Times samples as a stage works through them, and reads memory around the whole inference.

    With `profile`, the first batches leave a trace of what torch did, gzipped JSON for chrome://tracing, in `trace`.
    """

    def __init__(self, *, profile: bool = False) -> None:
        self._session = uuid.uuid4().hex
        self._thread = threading.get_ident()
        self._began = time.perf_counter()
        self._profiler = Profiler() if profile else None
        self._rss_before = psutil.Process().memory_info().rss
        self._memory = memory.Memory()
        self._elsewhere: dict[str, Reading] = {}
        self._total: dict[str, float] = {}
        self._inner = 0.0
        self._spent: defaultdict[str, float] = defaultdict(float)
        self._restart()
        self.forget_peak()

    @contextmanager
    def spending(self, kind: Kind) -> Iterator[None]:
        """Time work of a kind; what another kind takes inside it is counted there only.

        What other threads do beside this clock's own takes no wall time of the run, and is not counted.
        """
        if threading.get_ident() != self._thread:
            yield
            return
        outside, self._inner = self._inner, 0.0
        start = self._now()
        try:
            with working(_SAID[kind]) if kind in _SAID else nullcontext():
                yield
        finally:
            seconds = self._now() - start
            self._spent[kind] += seconds - self._inner
            self._inner = outside + seconds

    @contextmanager
    def warmup(self) -> Iterator[None]:
        """Time work that only the first sample pays for; reported beside the rates, never inside them."""
        with self.spending("warmup"):
            yield
        self._mark()

    @contextmanager
    def batch(self, samples: int, tokens: int = 0, padding: int = 0) -> Iterator[None]:
        """Time samples that are computed together; each waits for the whole batch.

        `padding` are tokens computed beside the useful ones.
        """
        with self._profiler.batch() if self._profiler else nullcontext():
            start = self._now()
            with self.spending("model"):
                yield
            seconds = self._now() - start
        self._batches.append((seconds, samples))
        self.count(tokens, padding)

    def count(self, tokens: int, padding: int = 0) -> None:
        """Add tokens that are known only once a batch has been computed."""
        self._tokens += tokens
        self._padding += padding

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time one part of a stage by itself, inside a batch; parts may run in threads beside each other."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._parts[name] += time.perf_counter() - start

    def join(self, reading: Reading) -> None:
        """Take in a batch that another process has computed, while this one waited since the lap before."""
        self._elsewhere[reading.session] = reading
        waited = time.perf_counter() - self._lap - (sum(self._spent.values()) - self._spent_at_lap)
        for kind, part in reading.spent.items():
            self._spent[kind] += waited * part / sum(reading.spent.values())
        self._batches += reading.batches
        self._tokens += reading.tokens
        self._padding += reading.padding

    def lap(self) -> Reading:
        """Everything measured since the last lap."""
        others = list(self._elsewhere.values())
        reading = Reading(
            session=self._session,
            seconds=time.perf_counter() - self._lap,
            batches=self._batches,
            tokens=self._tokens,
            padding=self._padding,
            spent=dict(self._spent),
            rss_before=self._rss_before,
            peak_rss=max(memory.peak_rss() + sum(other.peak_rss for other in others), self._memory.of_all),
            allocated=total([memory.allocated(), *(other.allocated for other in others)]) | self._memory.allocated,
            on_device=dict(self._memory.on_device),
            parts=dict(self._parts),
        )
        self._restart()
        return reading

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Look meanwhile at what has no peak of its own to ask for: all processes together, and the driver's view."""
        self._rss_before = psutil.Process().memory_info().rss  # libraries are in it by now, the model is not
        stop = threading.Event()
        thread = threading.Thread(target=self._memory.watch, args=[stop], daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def shares(self) -> dict[str, float]:
        """What part of the wall time since this clock began each kind of work took, and taking these measurements.

        The rest is `share_other`; looking at memory goes on beside the work and is in addition.
        """
        wall = time.perf_counter() - self._began
        spent = total([self._total, self._spent])
        shares = {f"share_{kind}": seconds / wall for kind, seconds in spent.items()}
        rest = 1 - sum(shares.values())
        return shares | {"share_other": rest, "share_sampling": self._memory.seconds / wall, "wall_seconds": wall}

    @property
    def trace(self) -> bytes | None:
        """The profile, if one was asked for and any batch was computed in this process."""
        return self._profiler.trace() if self._profiler else None

    def forget_peak(self) -> None:
        """Leave out of the peaks what was needed until now."""
        memory.reset_peak_rss()
        self._memory.forget()
        if cuda := memory.cuda():
            for device in range(cuda.device_count()):
                cuda.reset_peak_memory_stats(device)
        if mlx := sys.modules.get("mlx.core"):
            mlx.reset_peak_memory()

    def _restart(self) -> None:
        self._total = total([self._total, self._spent])
        self._spent = defaultdict(float)
        self._parts: defaultdict[str, float] = defaultdict(float)
        self._batches: list[tuple[float, int]] = []
        self._tokens, self._padding = 0, 0
        self._mark()

    def _mark(self) -> None:
        self._lap, self._spent_at_lap = time.perf_counter(), sum(self._spent.values())

    def _now(self) -> float:
        if cuda := memory.cuda():
            for device in range(cuda.device_count()):
                cuda.synchronize(device)
        elif mps := memory.mps():
            mps.synchronize()
        return time.perf_counter()
