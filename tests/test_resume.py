"""A journal keeps what is done through kills, damage and full disks, for one run at a time and its workers."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pyarrow
import pytest

from experiments.detect import DETECT
from harness.measuring.clock import Clock
from harness.running import hardware, run
from harness.running.journal import Journal, open_journal
from harness.running.settings import resolve
from harness.stage import BadInput
from tests import tiny

COUNT = 40
FRAME = pd.DataFrame({"group": ["a", "b"], "ecs_0_0": [0.25, 0.5]})
# Runs as a user's process would, without the tracking store, and slowly enough to be killed on the way.
SCRIPT = """
import sys, time
from contextlib import nullcontext, suppress
from experiments.detect import DETECT
from experiments.detect.inference import compute
from harness.running import hardware, run
from harness.running.settings import resolve
real = compute.extract.extractor
def slow(*arguments):
    extract = real(*arguments)
    return lambda batch: (time.sleep(0.05), print(*(each.sample.id for each in batch), flush=True), extract(batch))[-1]
compute.extract.extractor = slow
plan = resolve(DETECT, dict(word.split("=") for word in sys.argv[1:]), hardware.load_profiles())
run.execute(plan)
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A tiny model and data set, an empty cache, and a batch for each prompt."""
    monkeypatch.setenv("RIGSWEEP_CACHE", str(tmp_path / "cache"))
    tiny.save_llama(tmp_path / "model")
    tiny.write_jsonl(tmp_path / "data.jsonl", tiny.samples(COUNT))
    return {
        "model": str(tmp_path / "model"),
        "dataset": str(tmp_path / "data.jsonl"),
        "batch_tokens": "1",
        "folds": "2",
    }


def execute(settings: dict[str, str], **given: str) -> run.Result:
    plan = resolve(DETECT, settings | given, hardware.load_profiles())
    return run.execute(plan)


def start(settings: dict[str, str]) -> subprocess.Popen[str]:
    words = [f"{name}={value}" for name, value in settings.items()]
    return subprocess.Popen([sys.executable, "-c", SCRIPT, *words], stdout=subprocess.PIPE, text=True)


def kept(tmp_path: Path) -> set[str]:
    return {unit for place in (tmp_path / "cache").glob("*.journal") for unit in Journal(place).done}


def test_two_runs_do_not_infer_the_same_records_at_once(settings: dict[str, str], tmp_path: Path) -> None:
    process = start(settings)
    assert process.stdout is not None
    process.stdout.readline()
    while not kept(tmp_path):
        time.sleep(0.01)
    try:
        with pytest.raises(BadInput, match="being inferred by another run; wait for it"):
            execute(settings)
    finally:
        process.kill()
        process.wait()


def test_what_workers_take_is_the_sum_of_them_all(settings: dict[str, str]) -> None:
    one, several = execute(settings, cache="off"), execute(settings, cache="off", workers="2")
    assert one.records.cost is not None
    assert several.records.cost is not None
    assert (several.records.cost.samples, several.records.cost.tokens) == (COUNT, one.records.cost.tokens)
    assert several.records.cost.peak_rss_gb > one.records.cost.rss_before_gb + 0.5  # two more with torch in them


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a process's life to its parent's")
def test_workers_die_with_the_process_that_started_them(settings: dict[str, str], tmp_path: Path) -> None:
    process = start(settings | {"workers": "2"})
    while not kept(tmp_path):
        time.sleep(0.05)
    workers = [child for child in psutil.Process(process.pid).children() if "LokyProcess" in " ".join(child.cmdline())]
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert len(workers) == 2
    assert alive == []


# --- the journal itself ------------------------------------------------------------------------------------------


def keep(journal: Journal, *units: str) -> None:
    journal.keep(FRAME.assign(group=units[0]), units, {"cut": 1, "shared": 0}, Clock().lap())


def test_a_journal_knows_what_is_done_when_it_is_opened_again(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    keep(first, "a", "b")
    keep(first, "c")
    again = Journal(tmp_path)
    assert again.done == {"a", "b", "c"}
    assert again.counts() == {"cut": 2, "shared": 0}
    assert again.readings() == first.readings()
    assert again.frame()["group"].tolist() == ["a", "a", "c", "c"]


@pytest.mark.parametrize("content", [b"", b"ARROW1 and then nothing"])
def test_a_part_that_is_not_whole_is_computed_again(tmp_path: Path, content: bytes) -> None:
    for unit in "abc":
        keep(Journal(tmp_path), unit)
    (tmp_path / "00000001.arrow").write_bytes(content)
    journal = Journal(tmp_path)
    assert journal.done == {"a", "c"}
    keep(journal, "b")
    assert Journal(tmp_path).done == {"a", "b", "c"}


def test_a_part_whose_cost_was_measured_in_other_figures_is_computed_again(tmp_path: Path) -> None:
    keep(Journal(tmp_path), "a")
    (path,) = tmp_path.iterdir()
    table = pyarrow.ipc.open_file(path.read_bytes()).read_all()
    note = json.loads(table.schema.metadata[b"rigsweep"])
    note["reading"] |= {"latencies": note["reading"].pop("batches"), "batches": 0}  # shares of a batch, once
    table = table.replace_schema_metadata(table.schema.metadata | {b"rigsweep": json.dumps(note)})
    with pyarrow.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)
    assert Journal(tmp_path).done == set()


def test_a_journal_outlives_an_interruption_unless_it_is_to_be_fresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIGSWEEP_CACHE", str(tmp_path / "cache"))
    for name, fresh, found in (("k", False, set()), ("k", False, {"a"}), ("k", True, set()), (None, False, set())):
        with suppress(KeyboardInterrupt), open_journal(name, fresh=fresh) as journal:
            assert journal.done == found
            keep(journal, "a")
            raise KeyboardInterrupt
    with open_journal("k", fresh=False) as journal:
        assert journal.done == {"a"}
    assert not (tmp_path / "cache" / "k.journal").exists()


def test_a_full_disk_is_one_line_and_keeps_what_came_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)
    keep(journal, "a")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pyarrow, "OSFile", full)
        with pytest.raises(
            BadInput, match=r"cannot be written: .*No space left on device; what came before it is kept"
        ):
            keep(journal, "b")
    assert Journal(tmp_path).done == {"a"}
