"""`batch_images=auto` finds what memory allows, halves what it does not, says what it chose, and changes no number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.montecarlo.inference import batch, compute, halving, pixels
from experiments.montecarlo.inference.compute import Unit
from experiments.montecarlo.inference.images import Item
from experiments.montecarlo.inference.pixels import View
from experiments.montecarlo.scoring import remedies
from harness.measuring.clock import Clock
from harness.running.work import Part
from harness.stage import BadInput
from tests.test_montecarlo_infer import COUNT, execute, folder, require_alike  # noqa: F401

FULL: list[Exception] = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("MPS backend out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
    MemoryError(),
]


def units(images: int, trials: int) -> list[Unit]:
    views = [View(Item(str(i), Path(str(i)), None), "original", i) for i in range(images)]
    return [Unit(view, trial) for trial in range(trials) for view in views]


class Device:
    """Computes up to so many images at once; more run out of memory, in a trial that is drawn."""

    def __init__(self, room: int, error: Exception = FULL[0], fails_in: int = 0) -> None:
        self.room, self.error, self.fails_in, self.sizes = room, error, fails_in, Counter[int]()

    def __call__(self, some: Sequence[Unit], clock: Clock) -> Iterator[Part]:
        for trial in sorted({unit.trial for unit in some}):
            names = [unit.name for unit in some if unit.trial == trial]
            if len(names) > self.room and trial >= self.fails_in:
                raise self.error
            self.sizes[len(names)] += 1
            yield Part(names, pd.DataFrame({"x": range(len(names))}, index=names), {"kept": len(names)})


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 20), st.integers(1, 4), st.integers(1, 20), st.integers(1, 20), st.integers(0, 3))
def test_every_unit_is_computed_once_however_often_memory_runs_out(
    images: int, trials: int, room: int, size: int, fails_in: int
) -> None:
    all_units = units(images, trials)
    forgiving = halving.Halving(Device(room, fails_in=fails_in), size)
    parts = list(forgiving(all_units, Clock()))
    assert sorted(name for part in parts for name in part.done) == sorted(unit.name for unit in all_units)
    assert sum(part.counts["kept"] for part in parts) == len(all_units)
    assert [list(part.done) for part in parts] == [part.frame.index.tolist() for part in parts]


@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
def test_a_size_that_did_not_fit_is_not_tried_again(error: Exception) -> None:
    device = Device(3, error)
    forgiving = halving.Halving(device, 16)
    parts = list(forgiving(units(16, 2), Clock()))
    assert forgiving.size == 2
    assert set(device.sizes) == {2}
    assert sum(part.counts.get(halving.HALVED, 0) for part in parts) == 3
    assert not any(halving.HALVED in part.counts for part in forgiving(units(5, 1), Clock()))


def test_what_is_no_lack_of_memory_is_raised_and_one_image_that_does_not_fit_is_one_line() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        list(halving.Halving(Device(0, RuntimeError("mat1 and mat2 shapes")), 4)(units(4, 1), Clock()))
    with pytest.raises(BadInput, match=r"^batch_images = auto: memory does not hold one image: CUDA out of memory"):
        list(halving.Halving(Device(0), 4)(units(4, 1), Clock()))


@pytest.mark.parametrize(
    ("free", "base", "each", "device", "found"),
    [
        (1000.0, 0.0, 10.0, "cpu", 64),
        (1000.0, 0.0, 10.0, "cuda", 64),
        (1000.0, 300.0, 10.0, "cuda", 32),
        (1e9, 300.0, 10.0, "cuda", 1024),
        (1e9, 300.0, 10.0, "cpu", 64),
        (1e9, 300.0, 0.0, "cpu", 64),
        (1.0, 300.0, 10.0, "cuda", 1),
    ],
)
def test_a_batch_is_a_power_of_two_that_fits_into_what_is_free(
    monkeypatch: pytest.MonkeyPatch, free: float, base: float, each: float, device: str, found: int
) -> None:
    monkeypatch.setattr(batch, "free_bytes", lambda _: free)
    monkeypatch.setattr(batch, "need_of", lambda _, count, __: base + each * count)
    given: Any = SimpleNamespace()
    assert batch.find(given, device) == found
    assert batch.find(given, device, sharing=4) <= found


def test_auto_gives_the_numbers_of_any_batch_and_records_what_it_chose(
    folder: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RIGSWEEP_CACHE", str(tmp_path))
    one = execute(images=folder, batch_images=1)
    auto = execute(images=folder, batch_images="auto")
    require_alike(one.records.frame, auto.records.frame, 1e-4)
    chosen = auto.records.origin["batch_images"]
    assert chosen in {2**i for i in range(7)}
    assert one.records.origin["batch_images"] == 1
    assert "batches_halved" not in auto.records.origin["counts"]
    monkeypatch.setattr(batch, "find", lambda *_: pytest.fail("it is measured once on a machine"))
    assert execute(images=folder, batch_images="auto").records.origin["batch_images"] == chosen


def test_a_run_whose_memory_runs_out_halves_its_batches_and_says_so(
    folder: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RIGSWEEP_CACHE", str(tmp_path))
    whole = execute(images=folder, batch_images=COUNT)
    real = compute.passes.begin

    def begin(model: Any, depth: int, pixels: torch.Tensor, keys: Sequence[int]) -> Any:
        if len(pixels) > 2:
            raise FULL[0]
        return real(model, depth, pixels, keys)

    monkeypatch.setattr(batch, "find", lambda *_: 16)
    monkeypatch.setattr(compute.passes, "begin", begin)
    auto = execute(images=folder, batch_images="auto")
    require_alike(whole.records.frame, auto.records.frame, 1e-4)
    assert auto.records.origin["counts"]["batches_halved"] == 2  # of the six images three, and then one
    said = {finding.code: finding.message for finding in auto.audit.findings}
    assert "in batches of 16 images" in said["batches_halved"]
    with pytest.raises(torch.OutOfMemoryError):  # a size that was asked for is a trial's outcome
        execute(images=folder, batch_images=COUNT)


def test_a_plain_pass_is_halved_as_well() -> None:
    views = [unit.view for unit in units(9, 1)]

    def summed(some: Sequence[View]) -> int:
        if len(some) > 3:
            raise FULL[0]
        return sum(view.place for view in some)

    assert sum(halving.in_batches(views, 8, summed, halving=True)) == np.arange(9).sum()
    with pytest.raises(torch.OutOfMemoryError):
        halving.in_batches(views, 8, summed, halving=False)


def test_no_smaller_batch_is_advised_where_it_is_found() -> None:
    given = {"batch_images": "auto", "pixels": "auto", "precision": "fp32"}
    assert "batch_images" not in {remedy.setting for remedy in remedies._memory(given)}
    assert "batch_images" in {remedy.setting for remedy in remedies._memory(given | {"batch_images": 64})}


class Counted(Item):
    """An item that counts how often it is looked up."""

    looked_up = 0

    def __hash__(self) -> int:
        Counted.looked_up += 1
        return hash(self.name)


@pytest.mark.parametrize("count", [100, 400, 1600])
def test_which_images_are_changed_is_looked_up_once_an_image(count: int) -> None:
    items = [Counted(str(i), Path(str(i)), None) for i in range(count)]
    changed = items[::3]
    Counted.looked_up = 0
    found = pixels.variants_of(items, changed)
    assert Counted.looked_up <= count + len(changed)
    assert [(item.name, len(variants)) for item, variants in found] == [
        (str(i), 1 if i % 3 else 3) for i in range(count)
    ]
