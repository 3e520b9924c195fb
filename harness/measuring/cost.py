"""What an inference cost: the readings of its clocks, their sum, and the figures that a user compares."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import numpy as np

N = TypeVar("N", int, float)

_GB = 2**30


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
            peak_device_gb=_gb(highest(reading.allocated for reading in readings)),
            process_device_gb=_gb(highest(reading.on_device for reading in readings)),
            sessions=len({reading.session for reading in readings}),
            part_seconds=total(reading.parts for reading in readings),
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


def highest(peaks: Iterable[Mapping[str, N]]) -> dict[str, N]:
    return _by_name(peaks, max)


def total(parts: Iterable[Mapping[str, N]]) -> dict[str, N]:
    return _by_name(parts, sum)


def _by_name(parts: Iterable[Mapping[str, N]], together: Callable[[list[N]], Any]) -> dict[str, N]:
    every = list(parts)
    names = dict.fromkeys(name for each in every for name in each)
    return {name: together([each[name] for each in every if name in each]) for name in names}


def _gb(sizes: Mapping[str, int]) -> dict[str, float]:
    return {name: size / _GB for name, size in sorted(sizes.items())}
