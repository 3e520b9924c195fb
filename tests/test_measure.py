"""The cost of an inference: what counts as time, what a percentile is, and whose memory is measured."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from harness import measure
from harness.measure import Clock, Cost

MB = 2**20


def cost_of(*clocks: Clock) -> Cost:
    return Cost.of([clock.lap() for clock in clocks], "bench", "cpu")


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A time that passes only when a test says so."""
    watch = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: watch.seconds))
    return watch


def test_warm_up_is_reported_beside_the_rates_and_never_inside_them(now: SimpleNamespace) -> None:
    clock = Clock()
    with clock.warmup():
        now.seconds += 50
    now.seconds += 7  # neither warm-up nor a sample: reading, bookkeeping
    for _ in range(4):
        with clock.batch(samples=1, tokens=30):
            now.seconds += 0.5
    cost = cost_of(clock)
    assert (cost.hardware, cost.device, cost.samples, cost.tokens) == ("bench", "cpu", 4, 120)
    assert (cost.seconds, cost.warmup_seconds) == (2.0, 50.0)
    assert cost.metrics()["samples_per_min"] == 120.0
    assert cost.metrics()["tokens_per_s"] == 60.0


def test_latency_percentiles_are_those_of_the_samples(now: SimpleNamespace) -> None:
    clock = Clock()
    for milliseconds in np.random.default_rng(0).permutation(101):
        with clock.batch(samples=1, tokens=1):
            now.seconds += milliseconds / 1e3
    cost = cost_of(clock)
    assert (cost.latency_p50_ms, cost.latency_p95_ms, cost.latency_p99_ms) == pytest.approx((50, 95, 99))


def test_a_sample_that_fails_is_not_counted() -> None:
    clock = Clock()
    with pytest.raises(MemoryError), clock.batch(samples=1, tokens=10):
        raise MemoryError
    cost = cost_of(clock)
    assert (cost.samples, cost.tokens) == (0, 0)
    assert "samples_per_min" not in cost.metrics()


def test_every_figure_of_a_cost_is_a_number_and_absent_where_there_is_no_such_memory() -> None:
    figures = cost_of(Clock()).metrics()
    assert all(type(value) is float for value in figures.values())
    assert not {"hardware", "device"} & figures.keys()
    assert ("peak_device_gb" in figures) == (measure._cuda() is not None)


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
    assert cost.latency_p50_ms == 4000
    assert cost.peak_rss_gb * 2**30 > sum(reading.peak_rss for reading in elsewhere)
