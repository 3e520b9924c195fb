"""The loop of every inference keeps its promises for any work at all: order, resuming, failures, worker processes."""

from __future__ import annotations

import multiprocessing
import os
import uuid
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from harness.measuring.clock import Clock
from harness.measuring.cost import Reading
from harness.progress import Work
from harness.running import work as module
from harness.running.journal import Journal
from harness.running.work import Compute, Failure, Part, Runner, here, in_workers, work
from harness.stage import BadInput, Context

UNITS = [3, 0, 4, 1, 2]
NAMES = [str(unit) for unit in UNITS]
BATCHES = [[0, 1], [2], [3, 4]]


@dataclass(frozen=True)
class Counting:
    """A job that gives each number as many rows as it says, and leaves a file wherever a process loads it."""

    folder: str
    factor: int = 1
    fails_to_load: bool = False

    def load(self, device: str) -> Compute[int]:
        if self.fails_to_load:
            raise BadInput(f"factor = {self.factor}: cannot be had on {device}")
        (Path(self.folder) / f"{self.factor} {os.getpid()} {uuid.uuid4().hex}").touch()
        return self.compute

    def compute(self, batch: Sequence[int], clock: Clock) -> Iterator[Part]:
        with clock.batch(samples=len(batch)):
            numbers = [number for number in batch for _ in range(number)]
            values = [12 // self.factor * number for number in numbers]
            frame = pd.DataFrame({"value": values}, index=[str(number) for number in numbers])
        yield Part([str(number) for number in batch], frame, {"seen": len(batch)})


def single(batch: Sequence[int], clock: Clock) -> Iterator[Part]:
    """One row a number, each number a part of its own."""
    for number in batch:
        with clock.batch(samples=1):
            frame = pd.DataFrame({"value": [10 * number]}, index=[str(number)])
        yield Part([str(number)], frame, {"seen": 1})


def unlucky(batch: Sequence[int], clock: Clock) -> Iterator[Part]:
    """Nothing comes of 1, and of 3 no more than a row without a value; the rest is done."""
    done = [number for number in batch if number not in {1, 3}]
    failures = [Failure(str(number), f"no reply to {number}") for number in batch if number == 1]
    failures += [Failure("3", "no reply to 3", {"value": None})] if 3 in batch else []
    names = [str(number) for number in done]
    yield Part(names, pd.DataFrame({"value": [10 * number for number in done]}, index=names), {}, failures)
    del clock


def backwards(compute: Compute[int]) -> Runner[int]:
    """Gives the last part first."""

    def run(batches: Iterable[Sequence[int]], context: Context) -> Iterator[tuple[Part, Reading]]:
        for part in reversed([part for batch in batches for part in compute(batch, context.clock)]):
            yield part, context.clock.lap()

    return run


def context(place: Path) -> Context:
    return Context("cpu-any", "cpu", 0, Clock(), Journal(place))


def run(place: Path, runner: Runner[int], **more: Any) -> tuple[pd.DataFrame, list[Failure]]:
    return work(context(place), runner, BATCHES, str, NAMES, "counting", **more)


# ---- rows ----


@pytest.mark.parametrize("turn", [here, backwards])
def test_rows_follow_the_order_that_is_asked_for_whatever_order_they_come_in(tmp_path: Path, turn: Any) -> None:
    frame, failures = run(tmp_path, turn(single))
    assert frame.to_dict("list") == {"value": [10 * unit for unit in UNITS]}
    assert list(frame.index) == list(range(len(UNITS)))
    assert failures == []


@pytest.mark.parametrize("turn", [here, backwards])
def test_a_unit_may_have_several_rows_or_none(tmp_path: Path, turn: Any) -> None:
    frame, _ = run(tmp_path / "journal", turn(Counting(str(tmp_path)).compute))
    assert frame["value"].tolist() == [36, 36, 36, 48, 48, 48, 48, 12, 24, 24]
    assert Journal(tmp_path / "journal").done == set(NAMES)  # also the one without a row


@pytest.mark.parametrize("batches", [[], [[0]]], ids=["no unit", "no row"])
def test_where_there_is_nothing_one_line_says_so(tmp_path: Path, batches: list[list[int]]) -> None:
    names = [str(unit) for batch in batches for unit in batch]
    with pytest.raises(BadInput, match=r"^[^\n]+$"):
        work(context(tmp_path / "j"), here(Counting(str(tmp_path)).compute), batches, str, names, "counting")


# ---- resuming ----


def test_what_was_done_before_is_not_computed_again(tmp_path: Path, told: list[Work]) -> None:
    seen: list[int] = []

    def interrupted(batch: Sequence[int], clock: Clock) -> Iterator[Part]:
        for part in single(batch, clock):
            if len(seen) == 4:
                raise KeyboardInterrupt
            seen.append(int(part.done[0]))
            yield part

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, here(interrupted))
    assert seen == [0, 1, 2, 3]
    again = context(tmp_path)
    assert again.journal.done == {"0", "1", "2", "3"}
    offered: list[Sequence[int]] = []

    def watched(batch: Sequence[int], clock: Clock) -> Iterable[Part]:
        offered.append(list(batch))
        return single(batch, clock)

    frame, _ = work(again, here(watched), BATCHES, str, NAMES, "counting", samples="passes", samples_a_unit=5)
    assert offered == [[4]]
    assert frame["value"].tolist() == [10 * unit for unit in UNITS]
    assert again.journal.counts() == {"seen": 5}
    assert sum(len(reading.batches) for reading in again.journal.readings()) == 5
    bar = [work for work in told if work.what == "counting"][-1]
    assert (bar.unit, bar.initial, bar.done, bar.total) == ("passes", 20, 25, 25)


# ---- failures ----


def test_what_has_failed_is_in_its_place_with_what_is_known_and_is_tried_again(
    tmp_path: Path, told: list[Work]
) -> None:
    frame, failures = work(context(tmp_path), here(unlucky), BATCHES, str, NAMES, "counting")
    assert frame["value"].fillna(-1).tolist() == [-1, 0, 40, 20]  # of 3, 0, 4 and 2
    assert {failure.unit: failure.reason for failure in failures} == {"1": "no reply to 1", "3": "no reply to 3"}
    assert [work.done for work in told if work.what == "counting"] == [len(UNITS)]
    assert Journal(tmp_path).done == {"0", "2", "4"}
    offered: list[int] = []

    def lucky(batch: Sequence[int], clock: Clock) -> Iterable[Part]:
        offered.extend(batch)
        return single(batch, clock)

    frame, failures = run(tmp_path, here(lucky))
    assert offered == [1, 3]
    assert frame["value"].tolist() == [10 * unit for unit in UNITS]
    assert failures == []


@pytest.mark.parametrize("allowed", [0.0, 0.39])
def test_too_many_failures_end_the_run_in_one_line_and_keep_what_was_served(tmp_path: Path, allowed: float) -> None:
    with pytest.raises(BadInput, match=rf"^max_error_rate = {allowed}: [12] of 5 failed, .*: no reply to 1; .*$"):
        run(tmp_path, here(unlucky), max_error_rate=allowed)
    assert Journal(tmp_path).done == ({"0"} if allowed == 0 else {"0", "2", "4"})
    assert run(tmp_path, here(single))[0]["value"].tolist() == [10 * unit for unit in UNITS]


def test_as_many_failures_as_are_allowed_end_nothing(tmp_path: Path) -> None:
    assert len(run(tmp_path, here(unlucky), max_error_rate=0.4)[1]) == 2


def test_where_everything_fails_the_reason_is_told(tmp_path: Path) -> None:
    def fail(batch: Sequence[int], _: Clock) -> Iterator[Part]:
        yield Part([], pd.DataFrame(), {}, [Failure(str(number), "the judge is away") for number in batch])

    with pytest.raises(BadInput, match="no row was had; the first failed for this reason: the judge is away"):
        run(tmp_path, here(fail))


# ---- worker processes ----


def loads(folder: Path) -> Counter[tuple[str, ...]]:
    """How often each process has loaded each job."""
    return Counter(tuple(path.name.split()[:2]) for path in folder.iterdir())


def test_workers_give_the_same_rows_and_load_equal_jobs_once(tmp_path: Path) -> None:
    folder = tmp_path / "loads"
    folder.mkdir()
    alone, _ = run(tmp_path / "alone", here(Counting(str(folder)).compute))
    first, _ = run(tmp_path / "first", in_workers(Counting(str(folder)), 2))
    second, _ = run(tmp_path / "second", in_workers(Counting(str(folder)), 2))
    pd.testing.assert_frame_equal(first, alone, check_exact=True)
    pd.testing.assert_frame_equal(second, alone, check_exact=True)
    for journal in (Journal(tmp_path / "first"), Journal(tmp_path / "alone")):
        assert journal.counts() == {"seen": 5}
        assert sum(len(reading.batches) for reading in journal.readings()) == len(BATCHES)
    assert set(loads(folder).values()) == {1}
    assert str(os.getpid()) not in {process for _, process in loads(folder)}
    other, _ = run(tmp_path / "other", in_workers(Counting(str(folder), factor=2), 2))
    assert other["value"].tolist() == [value // 2 for value in alone["value"]]
    assert {factor for factor, _ in loads(folder)} == {"1", "2"}


def test_a_worker_lets_its_job_go_before_it_loads_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_loaded", {})
    monkeypatch.setattr(module, "die_with_parent", lambda: None)  # this process is no worker

    class Held:
        def __call__(self, batch: Sequence[int], clock: Clock) -> Iterable[Part]:
            return single(batch, clock)

    references: list[weakref.ref[Held]] = []

    @dataclass(frozen=True)
    class Heavy:
        number: int

        def load(self, device: str) -> Compute[int]:
            assert device == "cpu"
            assert not any(reference() for reference in references), "two jobs are held at once"
            held = Held()
            references.append(weakref.ref(held))
            return held

    for number in (1, 1, 2, 1):
        module._load(Heavy(number), "cpu", "cpu-x86_64")
    assert len(references) == 3


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        ({"fails_to_load": True}, BadInput, r"^factor = 1: cannot be had on cpu$"),
        ({"factor": 0}, ZeroDivisionError, "division"),
    ],
    ids=["loading", "computing"],
)
def test_what_a_worker_raises_reaches_the_caller(
    tmp_path: Path, fault: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        run(tmp_path / "journal", in_workers(Counting(str(tmp_path), **fault), 2))
    assert not Journal(tmp_path / "journal").done


@pytest.mark.parametrize(
    ("process", "device"),
    [("LokyProcess-1", "cuda:0"), ("LokyProcess-3", "cuda:2"), ("LokyProcess-5", "cuda:1"), ("MainProcess", "cuda:0")],
)
def test_workers_are_counted_off_over_the_gpus(process: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[str] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(multiprocessing.current_process(), "name", process)
    assert module._own_gpu() == device
    assert chosen == [device]
