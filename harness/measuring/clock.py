"""What an inference cost: wall time and what it went into, latency percentiles, peak memory."""

from __future__ import annotations

import gzip
import sys
import tempfile
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import psutil

Kind = Literal["setup", "warmup", "model", "preprocessing", "tokenising", "io", "scoring"]
N = TypeVar("N", int, float)

_GB = 2**30
_PAUSE = 0.25  # seconds between two looks at memory, at least
_RARELY = 300  # and so many times what a look takes, a third of a percent,
_RAREST = 5.0  # but no longer than this
_TRACED = 8  # batches that a profile covers: more make a file that no viewer opens


@dataclass(frozen=True)
class Reading:
    """What was measured since the reading before; seconds are wall time, all of it but for warm-up.

    `latencies` says of each batch what a sample's share of its seconds is, and how many samples it has.

    `peak_rss` is the highest sum of resident bytes of all processes at work so far; the devices' peaks, in bytes by
    device, are those of the framework's allocators (`allocated`) and of the processes as the driver sees them
    (`on_device`).  `spent` are the seconds of each kind of work, `parts` those of the stage's own parts,
    which may have worked at the same time.
    """

    session: str
    seconds: float
    latencies: list[tuple[float, int]]
    batches: int
    tokens: int
    padding: int
    spent: dict[str, float]
    rss_before: int
    peak_rss: int
    allocated: dict[str, int]
    on_device: dict[str, int]
    parts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Cost:
    """The measured price of one inference; memory in GiB, warm-up left out of every rate and percentile.

    `seconds` run from batch to batch, with what is done between them (tokenising, writing); latencies are of the
    batches alone.  `tokens` are those of every sample: one that several share, computed once, counts for each.
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
    batches: int
    tokens: int
    padding: int
    peak_rss_gb: float
    rss_before_gb: float
    peak_device_gb: dict[str, float] = field(default_factory=dict)
    process_device_gb: dict[str, float] = field(default_factory=dict)
    sessions: int = 1
    part_seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, readings: Sequence[Reading], hardware: str, device: str) -> Cost:
        """The sum of an inference's readings, of whatever session they are."""
        latencies = np.asarray([each for reading in readings for each in reading.latencies] or [(0.0, 0)])
        counts = latencies[:, 1].astype(int)
        each = np.repeat(1e3 * latencies[:, 0], counts) if counts.any() else np.zeros(1)
        p50, p95, p99 = (float(p) for p in np.percentile(each, [50, 95, 99]))
        return cls(
            hardware=hardware,
            device=device,
            samples=int(counts.sum()),
            seconds=sum(reading.seconds for reading in readings),
            warmup_seconds=sum(reading.spent.get("warmup", 0.0) for reading in readings),
            latency_p50_ms=p50,
            latency_p95_ms=p95,
            latency_p99_ms=p99,
            batches=sum(reading.batches for reading in readings),
            tokens=sum(reading.tokens for reading in readings),
            padding=sum(reading.padding for reading in readings),
            peak_rss_gb=max((reading.peak_rss for reading in readings), default=0) / _GB,
            rss_before_gb=max((reading.rss_before for reading in readings), default=0) / _GB,
            peak_device_gb=_gb(_highest(reading.allocated for reading in readings)),
            process_device_gb=_gb(_highest(reading.on_device for reading in readings)),
            sessions=len({reading.session for reading in readings}),
            part_seconds=_sum(reading.parts for reading in readings),
        )

    def metrics(self) -> dict[str, float]:
        """The figures a user compares, under the names they are logged by; a device's name follows a slash.

        `batch_fill` is the share of useful tokens among those computed; what 1,000 samples take is told by part.
        """
        figures: dict[str, float] = {}
        for name, value in asdict(self).items():
            if name == "part_seconds":
                figures |= {
                    f"seconds_per_1000/{part}": 1000 * each / max(1, self.samples) for part, each in value.items()
                }
            elif isinstance(value, dict) and value:
                figures |= {name: max(value.values())} | {f"{name}/{device}": gb for device, gb in value.items()}
            elif isinstance(value, int | float):
                figures[name] = float(value)
        if self.samples and self.seconds > 0:
            figures["samples_per_min"] = 60 * self.samples / self.seconds
        if self.tokens and self.seconds > 0:
            figures["tokens_per_s"] = self.tokens / self.seconds
            figures["batch_fill"] = self.tokens / (self.tokens + self.padding)
        else:
            figures = {name: value for name, value in figures.items() if name not in {"tokens", "padding"}}
        return figures


class Clock:
    """Times samples as a stage works through them, and reads memory around the whole inference.

    With `profile`, the first batches leave a trace of what torch did, gzipped JSON for chrome://tracing, in `trace`.
    """

    def __init__(self, *, profile: bool = False) -> None:
        self._session = uuid.uuid4().hex
        self._thread = threading.get_ident()
        self._began = time.perf_counter()
        self._profiler = _Profiler() if profile else None
        self._rss_before = psutil.Process().memory_info().rss
        self._memory = _Memory()
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
        """Time samples that are computed together; the latency of each is its share of the batch.

        `padding` are tokens computed beside the useful ones.
        """
        with self._profiler.batch() if self._profiler else nullcontext():
            start = self._now()
            with self.spending("model"):
                yield
            seconds = self._now() - start
        self._latencies.append((seconds / samples, samples))
        self._batches += 1
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
        self._latencies += reading.latencies
        self._batches += reading.batches
        self._tokens += reading.tokens
        self._padding += reading.padding

    def lap(self) -> Reading:
        """Everything measured since the last lap."""
        others = list(self._elsewhere.values())
        reading = Reading(
            session=self._session,
            seconds=time.perf_counter() - self._lap,
            latencies=self._latencies,
            batches=self._batches,
            tokens=self._tokens,
            padding=self._padding,
            spent=dict(self._spent),
            rss_before=self._rss_before,
            peak_rss=max(peak_rss() + sum(other.peak_rss for other in others), self._memory.of_all),
            allocated=_sum([_allocated(), *(other.allocated for other in others)]) | self._memory.allocated,
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
        spent = _sum([self._total, self._spent])
        shares = {f"share_{kind}": seconds / wall for kind, seconds in spent.items()}
        rest = 1 - sum(shares.values())
        return shares | {"share_other": rest, "share_sampling": self._memory.seconds / wall, "wall_seconds": wall}

    @property
    def trace(self) -> bytes | None:
        """The profile, if one was asked for and any batch was computed in this process."""
        return self._profiler.trace() if self._profiler else None

    def forget_peak(self) -> None:
        """Leave out of the peaks what was needed until now."""
        reset_peak_rss()
        self._memory.forget()
        if cuda := _cuda():
            for device in range(cuda.device_count()):
                cuda.reset_peak_memory_stats(device)
        if mlx := sys.modules.get("mlx.core"):
            mlx.reset_peak_memory()

    def _restart(self) -> None:
        self._total = _sum([self._total, self._spent])
        self._spent = defaultdict(float)
        self._parts: defaultdict[str, float] = defaultdict(float)
        self._latencies: list[tuple[float, int]] = []
        self._batches, self._tokens, self._padding = 0, 0, 0
        self._mark()

    def _mark(self) -> None:
        self._lap, self._spent_at_lap = time.perf_counter(), sum(self._spent.values())

    def _now(self) -> float:
        if cuda := _cuda():
            for device in range(cuda.device_count()):
                cuda.synchronize(device)
        elif mps := _mps():
            mps.synchronize()
        return time.perf_counter()


class _Memory:
    """Peaks found by looking again and again, in bytes, and the processor time that looking took."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.forget()

    def forget(self) -> None:
        self.of_all = 0
        self.allocated: dict[str, int] = {}
        self.on_device: dict[str, int] = {}

    def watch(self, stop: threading.Event) -> None:
        """Look until told to stop, so rarely that it costs next to nothing, and a last time then."""
        started = time.thread_time()
        if _cuda():
            _driver_view(set())  # the first question to the driver takes longest
        pause, stopped = _PAUSE, False
        while not stopped:
            stopped = stop.wait(pause)
            before = time.thread_time()
            self.look()
            pause = min(_RAREST, max(_PAUSE, _RARELY * (time.thread_time() - before)))
        self.seconds += time.thread_time() - started

    def look(self) -> None:
        processes = _family()
        self.of_all = max(self.of_all, sum(map(_resident, processes)))
        if mps := _mps():
            self.allocated = _highest([self.allocated, {"mps": mps.driver_allocated_memory()}])
        if _cuda():
            self.on_device = _highest([self.on_device, _driver_view({process.pid for process in processes})])


class _Profiler:
    """torch's profiler around the first batches."""

    def __init__(self) -> None:
        from torch.profiler import profile

        self._profile = profile()
        self._batches = 0
        self._trace: bytes | None = None

    @contextmanager
    def batch(self) -> Iterator[None]:
        if self._batches == 0:
            self._profile.start()
        yield
        self._batches += 1
        if self._batches == _TRACED:
            self._profile.stop()

    def trace(self) -> bytes | None:
        if self._batches == 0 or self._trace:
            return self._trace
        if self._batches < _TRACED:
            self._profile.stop()
        self._batches = _TRACED
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "trace.json"
            self._profile.export_chrome_trace(str(file))
            self._trace = gzip.compress(file.read_bytes())
        return self._trace


def _cuda() -> Any:
    """torch.cuda where a stage has loaded torch and there is a GPU, else None."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() else None


def _mps() -> Any:
    """torch.mps, likewise."""
    torch = sys.modules.get("torch")
    return torch.mps if torch is not None and torch.backends.mps.is_available() else None


def _allocated() -> dict[str, int]:
    """The peaks that allocators keep themselves."""
    peaks: dict[str, int] = {}
    if cuda := _cuda():
        peaks |= {f"cuda:{i}": cuda.max_memory_allocated(i) for i in range(cuda.device_count())}
    if mlx := sys.modules.get("mlx.core"):
        peaks["mlx"] = mlx.get_peak_memory()
    return peaks


def _driver_view(pids: set[int]) -> dict[str, int]:
    """What NVML says that these processes hold of each GPU; nothing where it does not answer, or not about them.

    A container may see other process numbers than the driver does.
    """
    try:
        import pynvml
    except ImportError:
        return {}
    held: dict[str, int] = {}
    try:
        pynvml.nvmlInit()
        for i in range(_cuda().device_count()):
            gpu = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{_cuda().get_device_properties(i).uuid}")
            found = pynvml.nvmlDeviceGetComputeRunningProcesses(gpu)
            if ours := [each.usedGpuMemory for each in found if each.pid in pids and each.usedGpuMemory is not None]:
                held[f"cuda:{i}"] = sum(ours)
    except pynvml.NVMLError:
        return {}
    return held


def _family() -> list[psutil.Process]:
    """This process and all that it, or one of them, has started."""
    own = psutil.Process()
    return [own, *own.children(recursive=True)]


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:  # it has ended since it was listed
        return 0


def _highest(peaks: Iterable[Mapping[str, N]]) -> dict[str, N]:
    return _by_name(peaks, max)


def _sum(parts: Iterable[Mapping[str, N]]) -> dict[str, N]:
    return _by_name(parts, sum)


def _by_name(parts: Iterable[Mapping[str, N]], together: Callable[[list[N]], Any]) -> dict[str, N]:
    every = list(parts)
    names = dict.fromkeys(name for each in every for name in each)
    return {name: together([each[name] for each in every if name in each]) for name in names}


def _gb(sizes: Mapping[str, int]) -> dict[str, float]:
    return {name: size / _GB for name, size in sorted(sizes.items())}


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
