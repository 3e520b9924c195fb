"""The loop of every inference: batches of units -> rows, here or in several processes, kept as they come, resumed."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import re
import signal
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pandas as pd

from harness.measuring.clock import Clock
from harness.measuring.cost import Cost, Reading
from harness.progress import working
from harness.running.hardware import load_profiles
from harness.stage import BadInput, Records

if TYPE_CHECKING:
    from harness.stage import Context

U = TypeVar("U")
V = TypeVar("V", contravariant=True)
_UNIT = "_unit"  # the journal's column that says whose row it is


@dataclass(frozen=True)
class Failure:
    """A unit that could not be worked on, why, and the row of what is known of it nevertheless."""

    unit: str
    reason: str
    row: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Part:
    """What came of some units: the rows of those that are done, indexed by unit, and what was counted on the way.

    What failed is not kept, so that the same command tries it again.
    """

    done: Sequence[str]
    frame: pd.DataFrame
    counts: Mapping[str, int] = field(default_factory=dict)
    failures: Sequence[Failure] = ()


Compute = Callable[[Sequence[U], Clock], Iterable[Part]]
Runner = Callable[[Iterable[Sequence[U]], "Context"], Iterator[tuple[Part, Reading]]]


class Job(Hashable, Protocol[V]):
    """What all batches of a worker process have in common; it is sent there, and equal ones are loaded once."""

    def load(self, device: str) -> Callable[[Sequence[V], Clock], Iterable[Part]]:
        """Load what is needed, and return what computes a batch."""


def here(compute: Compute[U]) -> Runner[U]:
    """Compute in this process, one batch after the other."""

    def run(batches: Iterable[Sequence[U]], context: Context) -> Iterator[tuple[Part, Reading]]:
        for batch in batches:
            for part in compute(batch, context.clock):
                yield part, context.clock.lap()

    return run


def in_workers(job: Job[U], count: int) -> Runner[U]:
    """Compute in several processes that each load the job, on GPUs of their own where there are several."""

    def run(batches: Iterable[Sequence[U]], context: Context) -> Iterator[tuple[Part, Reading]]:
        from joblib import Parallel, delayed

        clock, where = context.clock, (job, context.device, context.hardware)
        with clock.warmup(), working(f"load the model in {count} processes"):  # kept for the calls that follow
            Parallel(n_jobs=count)(delayed(_load)(*where) for _ in range(count))
        parallel = Parallel(n_jobs=count, return_as="generator_unordered")
        for parts in parallel(delayed(_in_worker)(*where, batch) for batch in batches):
            for part, reading in parts:
                clock.join(reading)
                yield part, clock.lap()

    return run


def work(
    context: Context,
    runner: Runner[U],
    batches: Iterable[Sequence[U]],
    name: Callable[[U], str],
    order: Sequence[str],
    description: str,
    *,
    samples: str = "samples",
    samples_a_unit: int = 1,
    max_error_rate: float = 1.0,
) -> tuple[pd.DataFrame, list[Failure]]:
    """Work through what an interrupted run has left: all rows in the order of their units' names, and what failed.

    BadInput where more than `max_error_rate` of the units fail.
    """
    clock, journal = context.clock, context.journal
    failures: list[Failure] = []
    left = ([unit for unit in batch if name(unit) not in journal.done] for batch in batches)
    total, before = (samples_a_unit * count for count in (len(order), len(journal.done)))
    with working(description, total, samples, before) as advance, _telling(advance, samples_a_unit) as bar:
        for part, reading in runner((batch for batch in left if batch), context):
            with clock.spending("io"):
                rows = part.frame.rename_axis(_UNIT).reset_index().astype({_UNIT: "str"})  # also where there is none
                journal.keep(rows, part.done, part.counts, reading)
            failures += part.failures
            _require_few(failures, len(order), max_error_rate)
            bar.kept(len(part.done) + len(part.failures))
    with clock.spending("io"):
        known = [{_UNIT: failure.unit, **failure.row} for failure in failures if failure.row is not None]
        tables = [table for table in (journal.frame(), pd.DataFrame(known)) if len(table)]
        if not tables:
            failed = f"the first failed for this reason: {failures[0].reason}" if failures else ""
            raise BadInput(f"no row was had; {failed or 'there was nothing to observe'}")
        frame = pd.concat(tables) if len(tables) > 1 else tables[0]
        place = {unit: i for i, unit in enumerate(order)}
        frame = frame.iloc[frame.pop(_UNIT).map(place).argsort(kind="stable")].reset_index(drop=True)
    return frame, failures


class _Bar:
    """How far the work has come: units count when they are kept, or when it is said that they have come before."""

    def __init__(self, advance: Callable[..., None], samples_a_unit: int) -> None:
        self._advance, self._samples, self._early = advance, samples_a_unit, 0

    def came(self, count: int, note: str, found: int) -> None:
        self._early += count
        self._advance(self._samples * count, note, found=self._samples * found)

    def kept(self, count: int) -> None:
        told = min(self._early, count)
        self._early -= told
        self._advance(self._samples * (count - told))


_bars: list[_Bar] = []


@contextmanager
def _telling(advance: Callable[..., None], samples_a_unit: int) -> Iterator[_Bar]:
    _bars.append(bar := _Bar(advance, samples_a_unit))
    try:
        yield bar
    finally:
        _bars.remove(bar)


def came(count: int, note: str = "", *, found: int = 0) -> None:
    """Say that so many units of a batch here have come, before it is at its end and kept; some were only `found`."""
    if _bars:
        _bars[-1].came(count, note, found)


def records(context: Context, frame: pd.DataFrame, counts: Mapping[str, int], **origin: Any) -> Records:
    """Records of these rows, with what the journal has counted and measured."""
    cost = Cost.of(context.journal.readings(), context.hardware, context.device)
    return Records(frame, cost, {"counts": dict(counts) | context.journal.counts(), **origin})


def _require_few(failures: Sequence[Failure], total: int, max_error_rate: float) -> None:
    if len(failures) > max_error_rate * total:
        raise BadInput(
            f"max_error_rate = {max_error_rate}: {len(failures)} of {total} failed, the first for this reason:"
            f" {failures[0].reason}; what was served is kept, and the same command goes on from there"
        )


# --- of a worker process ---------------------------------------------------------------------------------------------

_loaded: dict[Any, tuple[Compute[Any], Clock]] = {}  # the one job that it holds


def _in_worker(job: Job[U], device: str, hardware: str, batch: Sequence[U]) -> list[tuple[Part, Reading]]:
    _load(job, device, hardware)
    compute, clock = _loaded[job, device]
    return [(part, clock.lap()) for part in compute(batch, clock)]


def _load(job: Job[Any], device: str, hardware: str) -> None:
    """Load a job at a worker's first task, under the hardware profile; what it held of one before is let go first."""
    if (job, device) not in _loaded:
        die_with_parent()
        for profile in load_profiles():
            if profile.tag == hardware:
                profile.apply()
        _loaded.clear()
        gc.collect()
        _loaded[job, device] = job.load(_own_gpu() if device == "cuda" else device), Clock()


def _own_gpu() -> str:
    """The GPU of this worker: they are counted off as the workers are."""
    import torch

    number = re.search(r"\d+$", multiprocessing.current_process().name)
    device = f"cuda:{(int(number[0]) - 1 if number else 0) % torch.cuda.device_count()}"
    torch.cuda.set_device(device)
    return device


def die_with_parent() -> None:
    """Have this process killed when the one that started it is (Linux): else a killed run would go on computing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
