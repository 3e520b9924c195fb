"""`bench STAGE`: a stage beside its baselines; `bench sweep`, `bench start`: what sweeps and commands cost."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.commands.arguments import named
from harness.commands.bookkeeping import bookkeeping
from harness.commands.start import start
from harness.measuring.clock import Clock
from harness.running import hardware
from harness.running.records import write_records
from harness.running.run import obtain
from harness.running.settings import resolve
from harness.stage import BadInput, Stage, suggest
from harness.tracking.runs import tracked

if TYPE_CHECKING:
    import pandas as pd


def bench(given: argparse.Namespace, stages: Sequence[Stage[Any, Any]]) -> int:
    """Measure a stage against its baselines, print each table and keep it in a run of its own."""
    if given.unknown:
        raise BadInput(f"bench: {given.unknown[0]} is not an option; --table, --quick, --repeats and --device are")
    of_all = {"sweep": ["bookkeeping"], "start": ["start"]}
    benches = of_all[given.stage] if given.stage in of_all else [*named(stages, given.stage).benches]
    if given.table is not None and given.table not in benches:
        raise BadInput(f"bench: {given.stage} has no table {given.table}; {suggest(given.table, benches)}")
    with tracked(f"bench-{given.stage}", "benchmark") as tracked_run:
        for name, table in _tables(given, stages):
            print(f"\n{table.to_string(index=False, float_format=lambda value: f'{value:.3f}')}")
            tracked_run.record_table(name, table)
        print(f"\nrun {tracked_run.name} ({tracked_run.run_id}) in {tracked_run.store}")
    return 0


def _tables(given: argparse.Namespace, stages: Sequence[Stage[Any, Any]]) -> Iterator[tuple[str, pd.DataFrame]]:
    """The tables of a benchmark, each as soon as it is measured."""
    stage = next(stage for stage in stages if stage.score_many is not None)
    if given.stage == "sweep":
        with _records(stage) as file:
            yield "bookkeeping", bookkeeping(stage, {"records": str(file)}, 200 if given.quick else 2000)
        return
    if given.stage == "start":
        with _records(stage) as file:
            name = stage.name
            commands = ["--help", f"{name} --help", f"score {name} --records {file}", name, f"mlflow run . -e {name}"]
            commands += [f"compare {name}"]
            chosen = [command.split() for command in commands[: 1 if given.quick else None]]
            yield "start", start(chosen, file.parent, given.repeats)
        return
    for name, measure in named(stages, given.stage).benches.items():
        if given.table in {None, name}:
            yield name, measure(given.device, given.repeats, given.quick)


@contextmanager
def _records(stage: Stage[Any, Any]) -> Iterator[Path]:
    """The records of the stage's built-in run, whose scoring takes next to nothing, in a folder of their own."""
    records, _, _ = obtain(resolve(stage, {}, hardware.load_profiles()), Clock())
    with tempfile.TemporaryDirectory(prefix="rigsweep-bench-") as folder:
        file = Path(folder) / "records.parquet"
        write_records(records, file)
        yield file
