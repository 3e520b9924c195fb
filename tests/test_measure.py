"""The cost of an inference: what counts as time, what a percentile is, and whose memory is measured."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from harness.measuring import clock as clocks
from harness.measuring import memory, trace
from harness.measuring.clock import Clock
from harness.measuring.cost import Cost

MB = 2**20


def cost_of(*clocks: Clock) -> Cost:
    return Cost.of([clock.lap() for clock in clocks], "bench", "cpu")


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A time that passes only when a test says so."""
    watch = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(clocks, "time", SimpleNamespace(perf_counter=lambda: watch.seconds))
    return watch


def test_warm_up_is_reported_beside_the_rates_and_never_inside_them(now: SimpleNamespace) -> None:
    clock = Clock()
    with clock.warmup():
        now.seconds += 50
    for _ in range(4):
        now.seconds += 1.5  # tokenising, writing: it is part of what a minute holds, not of what a sample waits
        with clock.batch(samples=1, tokens=30):
            now.seconds += 0.5
    cost = cost_of(clock)
    assert (cost.hardware, cost.device, cost.samples, cost.tokens) == ("bench", "cpu", 4, 120)
    assert (cost.seconds, cost.warmup_seconds, cost.batch_p50_ms) == (8.0, 50.0, 500.0)
    assert cost.metrics()["samples_per_min"] == 30.0
    assert cost.metrics()["tokens_per_s"] == 15.0


def test_a_sample_waits_for_its_whole_batch_and_percentiles_are_over_samples(now: SimpleNamespace) -> None:
    clock = Clock()
    waits = []
    for seconds, samples in np.random.default_rng(0).integers(1, 60, (40, 2)).tolist():
        with clock.batch(samples=samples, tokens=1):
            now.seconds += seconds
        waits += [1e3 * seconds] * samples
    cost = cost_of(clock)
    found = (cost.batch_p50_ms, cost.batch_p95_ms, cost.batch_p99_ms)
    assert found == pytest.approx(tuple(np.percentile(waits, [50, 95, 99])))
    assert (cost.samples, cost.batches) == (len(waits), 40)


def test_a_sample_that_fails_is_not_counted() -> None:
    clock = Clock()
    with pytest.raises(MemoryError), clock.batch(samples=1, tokens=10):
        raise MemoryError
    cost = cost_of(clock)
    assert (cost.samples, cost.tokens, cost.batches) == (0, 0, 0)
    assert "samples_per_min" not in cost.metrics()


def test_every_figure_of_a_cost_is_a_number_and_absent_where_there_is_no_such_thing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "mlx.core", raising=False)
    figures = cost_of(Clock()).metrics()
    assert all(type(value) is float for value in figures.values())
    assert not {"hardware", "device", "tokens", "padding", "tokens_per_s", "batch_fill"} & figures.keys()
    assert ("peak_device_gb" in figures) == (memory.cuda() is not None)


def test_batch_fill_is_the_share_of_useful_tokens_among_those_computed(now: SimpleNamespace) -> None:
    clock = Clock()
    for padding in (0, 50):
        with clock.batch(samples=2, tokens=75, padding=padding):
            now.seconds += 1
    figures = cost_of(clock).metrics()
    assert (figures["batches"], figures["tokens"], figures["padding"]) == (2, 150, 50)
    assert figures["batch_fill"] == 0.75


def test_peak_memory_follows_an_allocation_of_200_mb() -> None:
    clock = Clock()
    used = psutil.Process().memory_info().rss
    block = np.ones(200 * MB // 8)
    cost = cost_of(clock)
    peak = cost.peak_rss_gb * 2**30
    assert peak - used > 0.9 * block.nbytes
    assert cost.rss_before_gb * 2**30 < peak - 0.9 * block.nbytes


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak cannot be reset here")
def test_the_peak_is_not_that_of_what_went_before_the_clock() -> None:
    block = np.ones(200 * MB // 8)
    before = cost_of(Clock()).peak_rss_gb * 2**30
    size = block.nbytes
    del block
    assert cost_of(Clock()).peak_rss_gb * 2**30 < before - 0.9 * size


def test_without_leave_to_reset_the_peak_it_is_measured_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(Path, "write_text", refuse)
    assert cost_of(Clock()).peak_rss_gb > 0


def test_laps_and_sessions_add_up(now: SimpleNamespace) -> None:
    readings = []
    for _ in range(2):  # two processes, one after the other
        clock = Clock()
        with clock.warmup():
            now.seconds += 10
        for seconds in (1, 3):
            with clock.batch(samples=2, tokens=5):
                now.seconds += seconds
            readings.append(clock.lap())
    cost = Cost.of(readings, "bench", "cpu")
    assert (cost.sessions, cost.samples, cost.tokens, cost.seconds, cost.warmup_seconds) == (2, 8, 20, 8.0, 20.0)


def test_what_other_processes_compute_takes_wall_time_here_and_memory_there(now: SimpleNamespace) -> None:
    here, workers = Clock(), [Clock(), Clock()]
    for worker in workers:
        with worker.batch(samples=1, tokens=5):
            now.seconds += 4
    elsewhere = [worker.lap() for worker in workers]
    with here.warmup():
        now.seconds += 9
    readings = []
    for reading in elsewhere:  # both arrive within five seconds, for they worked at the same time
        now.seconds += 2.5
        here.join(reading)
        readings.append(here.lap())
    cost = Cost.of(readings, "bench", "cpu")
    assert (cost.samples, cost.tokens, cost.seconds, cost.warmup_seconds) == (2, 10, 5.0, 9.0)
    assert (cost.batches, cost.batch_p50_ms) == (2, 4000)  # each batch's own time, in the worker that computed it
    assert cost.peak_rss_gb * 2**30 > sum(reading.peak_rss for reading in elsewhere)
    shares = here.shares()
    assert shares["wall_seconds"] == 8 + 9 + 5  # the workers' own work went by on the same watch
    assert (shares["share_model"], shares["share_warmup"]) == pytest.approx((5 / 22, 9 / 22))


# --- what the time went into ---------------------------------------------------------------------------------------


def test_work_inside_other_work_is_counted_once_and_the_shares_make_up_the_whole(now: SimpleNamespace) -> None:
    clock = Clock()
    with clock.warmup(), clock.spending("io"):
        now.seconds += 10
    for _ in range(3):
        with clock.batch(samples=1):
            now.seconds += 6
            with clock.spending("tokenising"):
                now.seconds += 2
        clock.lap()
    with suppress(OSError), clock.spending("io"):
        now.seconds += 5
        raise OSError
    now.seconds += 11
    shares = {name: share for name, share in clock.shares().items() if name != "share_sampling"}
    expected = {"warmup": 0, "io": 0.3, "model": 0.36, "tokenising": 0.12, "other": 0.22}
    assert shares == pytest.approx({f"share_{kind}": share for kind, share in expected.items()} | {"wall_seconds": 50})


def test_what_other_threads_do_beside_takes_no_share_of_the_wall(now: SimpleNamespace) -> None:
    clock = Clock()

    def beside() -> None:
        with clock.spending("tokenising"):
            now.seconds += 4

    with clock.spending("io"):
        thread = threading.Thread(target=beside)
        thread.start()
        thread.join()
    shares = clock.shares()
    assert (shares["share_io"], shares["share_other"]) == (1.0, 0.0)
    assert "share_tokenising" not in shares


def test_waiting_for_workers_is_divided_as_their_own_time_was_but_for_what_was_done_meanwhile(
    now: SimpleNamespace,
) -> None:
    here, worker = Clock(), Clock()
    with worker.spending("preprocessing"):
        now.seconds += 1
    with worker.batch(samples=1):
        now.seconds += 3
    reading = worker.lap()
    here = Clock()
    with here.spending("io"):
        now.seconds += 2
    now.seconds += 8
    here.join(reading)
    shares = here.shares()
    found = [shares[f"share_{kind}"] for kind in ("io", "preprocessing", "model", "other")]
    assert found == pytest.approx([0.2, 0.2, 0.6, 0.0])


def test_a_profile_traces_the_first_batches_and_nothing_where_there_were_none() -> None:
    assert Clock().trace is None
    clock = Clock(profile=True)
    assert clock.trace is None
    for size in (3, *[5] * 20):
        with clock.batch(samples=1):
            torch.ones(size, size) @ torch.ones(size, size)
    assert clock.trace is not None
    events = json.loads(gzip.decompress(clock.trace))["traceEvents"]
    assert sum(event["name"] == "aten::mm" for event in events) == trace.TRACED


# --- whose memory --------------------------------------------------------------------------------------------------


def test_memory_is_that_of_all_processes_together_while_it_is_looked_at() -> None:
    script = f"block = b'1' * {200 * MB}; print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        clock = Clock()
        alone = clock.lap().peak_rss
        with clock.sampling():
            time.sleep(2 * memory.PAUSE)
        child.stdin.close()
    assert clock.lap().peak_rss > alone + 180 * MB
    assert clock.shares()["share_sampling"] > 0
    clock.forget_peak()
    assert clock.lap().peak_rss < alone + 180 * MB


def test_the_more_a_look_at_memory_costs_the_more_rarely_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    class Stop:
        def wait(self, pause: float) -> bool:
            pauses.append(pause)
            return len(pauses) > 3

    def look() -> None:
        until = time.thread_time() + 0.01
        while time.thread_time() < until:
            pass

    peaks = memory.Memory()
    monkeypatch.setattr(peaks, "look", look)
    peaks.watch(Stop())  # type: ignore[arg-type]
    assert pauses[0] == memory.PAUSE
    assert min(pauses[1:]) >= 0.01 * memory.RARELY
    assert max(pauses) <= memory.RAREST
    assert peaks.seconds >= 0.04  # the last look is taken when it is told to stop


def test_memory_of_each_gpu_is_the_allocators_peak_and_what_the_driver_says_of_our_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class NVMLError(Exception):
        pass

    class Cuda(SimpleNamespace):
        def __getattr__(self, name: str) -> Any:
            return lambda *_: None  # synchronize, reset_peak_memory_stats

    def running(gpu: str) -> list[SimpleNamespace]:
        if broken:
            raise NVMLError
        pids = {"GPU-a": [os.getpid(), 2**30], "GPU-b": [2**30, os.getpid()]}[gpu]  # no process has such a number
        known = {os.getpid(): 3 * 2**30 if gpu == "GPU-a" else None, 2**30: 3 * 2**30}  # not every driver tells
        return [SimpleNamespace(pid=pid, usedGpuMemory=known[pid]) for pid in pids]

    broken = False
    cuda = Cuda(
        device_count=lambda: 2,
        max_memory_allocated=lambda i: (i + 1) * 2**30,
        get_device_properties=lambda i: SimpleNamespace(uuid="ab"[i]),
    )
    monkeypatch.setattr(memory, "cuda", lambda: cuda)
    nvml = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetComputeRunningProcesses=running,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.delitem(sys.modules, "mlx.core", raising=False)
    clock = Clock()
    clock._memory.look()
    figures = Cost.of([clock.lap()], "bench", "cuda").metrics()
    found = {name: value for name, value in figures.items() if "device" in name}
    assert found == {
        "peak_device_gb": 2,
        "peak_device_gb/cuda:0": 1,
        "peak_device_gb/cuda:1": 2,
        "process_device_gb": 3,
        "process_device_gb/cuda:0": 3,
    }
    broken = True
    clock.forget_peak()
    clock._memory.look()
    assert clock.lap().on_device == {}


def test_memory_of_a_mac_is_the_highest_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter([1, 5, 2])
    mps = SimpleNamespace(driver_allocated_memory=lambda: next(sizes) * 2**30, synchronize=lambda: None)
    monkeypatch.setattr(memory, "mps", lambda: mps)
    monkeypatch.delitem(sys.modules, "mlx.core", raising=False)
    clock = Clock()
    for _ in range(3):
        clock._memory.look()
    assert cost_of(clock).peak_device_gb == {"mps": 5}


def test_memory_of_mlx_is_its_own_peak() -> None:
    mx = pytest.importorskip("mlx.core")
    clock = Clock()
    mx.eval(mx.zeros((8 * MB,)) + 1)
    assert 0.03 < cost_of(clock).peak_device_gb["mlx"] < 1


def test_parts_of_a_stage_are_timed_each_by_itself_also_beside_each_other() -> None:
    clock = Clock()

    def work(name: str) -> None:
        with clock.part(name):
            time.sleep(0.1)

    with clock.batch(samples=4), clock.part("both"), ThreadPoolExecutor(2) as pool:
        list(pool.map(work, ("first", "second")))
        clock.count(30, padding=10)
    cost = Cost.of([clock.lap()], "here", "cpu")
    assert cost.part_seconds.keys() == {"first", "second", "both"}
    assert 0.1 <= cost.part_seconds["both"] < cost.part_seconds["first"] + cost.part_seconds["second"]
    figures = cost.metrics()
    assert figures["seconds_per_1000/first"] == pytest.approx(250 * cost.part_seconds["first"])
    assert (figures["tokens"], figures["batch_fill"]) == (30, 0.75)
    assert Cost.of([clock.lap()], "here", "cpu").part_seconds == {}
