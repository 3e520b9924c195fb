"""The cost of an inference: what counts as time, what a percentile is, and whose memory is measured."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from harness import measure
from harness.measure import Clock

MB = 2**20


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A time that passes only when a test says so."""
    watch = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: watch.seconds))
    return watch


def test_warm_up_is_reported_beside_the_rates_and_never_inside_them(now: SimpleNamespace) -> None:
    clock = Clock("bench", "cpu")
    with clock.warmup():
        now.seconds += 50
    now.seconds += 7  # neither warm-up nor a sample: reading, bookkeeping
    for _ in range(4):
        with clock.batch(samples=1, tokens=30):
            now.seconds += 0.5
    cost = clock.cost()
    assert (cost.hardware, cost.device, cost.samples, cost.tokens) == ("bench", "cpu", 4, 120)
    assert (cost.seconds, cost.warmup_seconds) == (2.0, 50.0)
    assert cost.metrics()["samples_per_min"] == 120.0
    assert cost.metrics()["tokens_per_s"] == 60.0


def test_latency_percentiles_are_those_of_the_samples(now: SimpleNamespace) -> None:
    clock = Clock("bench", "cpu")
    for milliseconds in np.random.default_rng(0).permutation(101):
        with clock.batch(samples=1, tokens=1):
            now.seconds += milliseconds / 1e3
    cost = clock.cost()
    assert (cost.latency_p50_ms, cost.latency_p95_ms, cost.latency_p99_ms) == pytest.approx((50, 95, 99))


def test_a_sample_that_fails_is_not_counted() -> None:
    clock = Clock("bench", "cpu")
    with pytest.raises(MemoryError), clock.batch(samples=1, tokens=10):
        raise MemoryError
    assert (clock.cost().samples, clock.cost().tokens) == (0, 0)
    assert "samples_per_min" not in clock.cost().metrics()


def test_every_figure_of_a_cost_is_a_number_and_absent_where_there_is_no_such_memory() -> None:
    figures = Clock("bench", "cpu").cost().metrics()
    assert all(type(value) is float for value in figures.values())
    assert not {"hardware", "device"} & figures.keys()
    assert ("peak_device_gb" in figures) == (measure._cuda() is not None)


def test_peak_memory_follows_an_allocation_of_200_mb() -> None:
    clock = Clock("bench", "cpu")
    used = psutil.Process().memory_info().rss
    block = np.ones(200 * MB // 8)
    peak = clock.cost().peak_rss_gb * 2**30
    assert peak - used > 0.9 * block.nbytes
    assert clock.cost().rss_before_gb * 2**30 < peak - 0.9 * block.nbytes


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak cannot be reset here")
def test_the_peak_is_not_that_of_what_went_before_the_clock() -> None:
    block = np.ones(200 * MB // 8)
    before = Clock("bench", "cpu").cost().peak_rss_gb * 2**30
    size = block.nbytes
    del block
    assert Clock("bench", "cpu").cost().peak_rss_gb * 2**30 < before - 0.9 * size


def test_without_leave_to_reset_the_peak_it_is_measured_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(Path, "write_text", refuse)
    assert Clock("bench", "cpu").cost().peak_rss_gb > 0
