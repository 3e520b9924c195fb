"""What an inference cost: the readings of its clocks, their sum, and the figures that a user compares."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from harness.stage import Direction, Metric

N = TypeVar("N", int, float)
Bound = Literal["host", "device"]

_GB = 2**30


@dataclass(frozen=True)
class Reading:
    """What was measured since the reading before; seconds are wall time, all of it but for warm-up.

    `batches` says of each batch how many seconds it took from its beginning to its end, and how many samples it has.

    `peak_rss` is the highest sum of resident bytes of all processes at work so far; the devices' peaks, in bytes by
    device, are those of the framework's allocators (`allocated`) and of the processes as the driver sees them
    (`on_device`).  `spent` are the seconds of each kind of work, `parts` those of the stage's own parts,
    which may have worked at the same time.
    """

    session: str
    seconds: float
    batches: list[tuple[float, int]]
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

    `seconds` run from batch to batch, with what is done between them (tokenising, writing).  `batch_p50_ms` and the
    like are over samples what each one waits for: the time from its batch's beginning to its end.  `tokens` are those
    of every sample: one that several share, computed once, counts for each.  `rss_before_gb` is the process before the
    model was loaded (interpreter and libraries), to be subtracted from `peak_rss_gb` when only the pipeline's share is
    wanted.  `sessions` counts the processes that one after the other made the records, more than one where a run was
    killed and resumed.
    """

    hardware: str
    device: str
    samples: int
    seconds: float
    warmup_seconds: float
    batch_p50_ms: float
    batch_p95_ms: float
    batch_p99_ms: float
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
        import numpy as np  # which those who only ask what figures there are need not wait for

        batches = [batch for reading in readings for batch in reading.batches]
        counts = [samples for _, samples in batches]
        waits = np.repeat([1e3 * seconds for seconds, _ in batches], counts) if sum(counts) else np.zeros(1)
        p50, p95, p99 = (float(p) for p in np.percentile(waits, [50, 95, 99]))
        return cls(
            hardware=hardware,
            device=device,
            samples=sum(counts),
            seconds=sum(reading.seconds for reading in readings),
            warmup_seconds=sum(reading.spent.get("warmup", 0.0) for reading in readings),
            batch_p50_ms=p50,
            batch_p95_ms=p95,
            batch_p99_ms=p99,
            batches=len(batches),
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
        """The figures a user compares, under the names they are logged by; a device's or a part's follows a slash."""
        figures: dict[str, float] = {}
        for figure in COSTS:
            value = figure.of(self) if figure.of else getattr(self, figure.name)
            if isinstance(value, Mapping):
                figures |= {f"{figure.name}/{part}" if part else figure.name: share for part, share in value.items()}
            elif value is not None:
                figures[figure.name] = float(value)
        return figures


@dataclass(frozen=True, kw_only=True)
class CostMetric(Metric):
    """A figure of a cost, and how it comes from one: a number, numbers by device or part, or None where it has none.

    By the empty name such a mapping has the figure as a whole; without `whole` there is none.
    `axis` says whether leaderboards draw quality against it, `bound` whose memory bounds it, `speed` whether it is
    what a run's speed is told by, `devices` those on which it is measured (none named: on all).
    """

    of: Callable[[Cost], float | Mapping[str, float] | None] | None = None  # None: what stands there under its name
    whole: bool = True
    axis: bool = False
    bound: Bound | None = None
    speed: bool = False
    devices: tuple[str, ...] = ()

    def measured_on(self, device: str) -> bool:
        """Whether a run on that device has it."""
        return not self.devices or device in self.devices


def directions() -> dict[str, Direction]:
    """Which way each figure that can be searched and ranked by is better."""
    return {figure.name: figure.direction for figure in COSTS if figure.whole}


def bounds(device: str, host_gb: float, device_gb: float) -> dict[str, float]:
    """What of a machine bounds figures of a cost, by name: its memory in GiB, and that of one device."""
    memory = {"host": host_gb, "device": device_gb}
    return {figure.name: memory[figure.bound] for figure in COSTS if figure.bound and figure.measured_on(device)}


def speeds(metrics: Mapping[str, float]) -> dict[str, float]:
    """Those of some metrics that a run's speed is told by."""
    return {figure.name: metrics[figure.name] for figure in COSTS if figure.speed and figure.name in metrics}


def _highest_and_each(sizes: Mapping[str, float]) -> dict[str, float]:
    return {"": max(sizes.values())} | dict(sizes) if sizes else {}


def _known(cost: Cost, count: int, figure: Callable[[], float]) -> float | None:
    """A figure that only what was counted has, in time that went by."""
    return figure() if count and cost.seconds > 0 else None


COSTS = (
    CostMetric("samples", "count", "none", "samples computed"),
    CostMetric("seconds", "s", "minimize", "wall time of all samples, warm-up left out"),
    CostMetric("warmup_seconds", "s", "minimize", "loading, and what only the first sample pays for"),
    CostMetric("batch_p50_ms", "ms", "minimize", "time from a batch's beginning to its end, median over samples"),
    CostMetric("batch_p95_ms", "ms", "minimize", "95th percentile of the same"),
    CostMetric("batch_p99_ms", "ms", "minimize", "99th percentile of the same"),
    CostMetric("batches", "count", "none", "batches computed"),
    CostMetric(
        "tokens", "count", "none", "tokens of every sample: one that several share counts for each",
        of=lambda cost: _known(cost, cost.tokens, lambda: cost.tokens),
    ),
    CostMetric(
        "padding", "count", "minimize", "tokens computed beside the useful ones",
        of=lambda cost: _known(cost, cost.tokens, lambda: cost.padding),
    ),
    CostMetric(
        "peak_rss_gb", "GiB", "minimize", "highest resident memory of all processes together", axis=True, bound="host",
    ),
    CostMetric("rss_before_gb", "GiB", "minimize", "resident memory before the model was loaded"),
    CostMetric(
        "peak_device_gb", "GiB", "minimize", "highest memory of a device that its allocator has handed out",
        of=lambda cost: _highest_and_each(cost.peak_device_gb), axis=True, bound="device", devices=("cuda", "mps"),
    ),
    CostMetric(
        "process_device_gb", "GiB", "minimize", "highest memory of a device that the driver says our processes hold",
        of=lambda cost: _highest_and_each(cost.process_device_gb), devices=("cuda",),
    ),
    CostMetric("sessions", "count", "none", "processes that made the records"),
    CostMetric(
        "seconds_per_1000", "s", "minimize", "what 1,000 samples take of each part of the stage",
        of=lambda cost: {part: 1000 * each / max(1, cost.samples) for part, each in cost.part_seconds.items()},
        whole=False,
    ),
    CostMetric(
        "samples_per_min", "1/min", "maximize", "samples a minute of wall time",
        of=lambda cost: _known(cost, cost.samples, lambda: 60 * cost.samples / cost.seconds), axis=True, speed=True,
    ),
    CostMetric(
        "tokens_per_s", "1/s", "maximize", "tokens a second of wall time",
        of=lambda cost: _known(cost, cost.tokens, lambda: cost.tokens / cost.seconds),
    ),
    CostMetric(
        "batch_fill", "share", "maximize", "useful tokens among those computed",
        of=lambda cost: _known(cost, cost.tokens, lambda: cost.tokens / (cost.tokens + cost.padding)),
    ),
)  # fmt: skip
"""Every figure of a cost; from here alone follow its metric, and that it can be searched, ranked and bounded."""


def highest(peaks: Iterable[Mapping[str, N]]) -> dict[str, N]:
    """The largest of each name."""
    return _by_name(peaks, max)


def total(parts: Iterable[Mapping[str, N]]) -> dict[str, N]:
    """The sum of each name."""
    return _by_name(parts, sum)


def _by_name(parts: Iterable[Mapping[str, N]], together: Callable[[list[N]], Any]) -> dict[str, N]:
    every = list(parts)
    names = dict.fromkeys(name for each in every for name in each)
    return {name: together([each[name] for each in every if name in each]) for name in names}


def _gb(sizes: Mapping[str, int]) -> dict[str, float]:
    return {name: size / _GB for name, size in sorted(sizes.items())}
