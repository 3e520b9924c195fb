"""`reproduce --run-id ID`: run a tracked run again."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from harness.commands.arguments import named
from harness.running import hardware
from harness.running.run import execute, input_digests
from harness.running.settings import resolve
from harness.stage import BadInput, Stage
from harness.tracking.reproduce import changes, compare, obstacles, settings
from harness.tracking.runs import artifact, tracked


def reproduce(given: argparse.Namespace, stages: Sequence[Stage[Any, Any]]) -> int:
    """Run a tracked run again: 0 when every metric of quality is equal, 1 when one differs."""
    if given.unknown or given.run_id is None:
        raise BadInput("reproduce: it takes --run_id ID, the id of a run of a stage")
    recorded = json.loads(artifact(given.run_id, "report.json").read_text())
    stage = named(stages, recorded["stage"])
    plan = resolve(stage, settings(recorded, stage), hardware.load_profiles())
    if other := obstacles(recorded, input_digests(plan)):
        raise BadInput(
            f"reproduce: cannot be compared, for the {' and '.join(other)} of the run are not these any more"
        )
    with tracked(stage.name, "reproduction", name=f"reproduce {given.run_id[:8]}") as tracked_run:
        result = execute(plan)
        table = compare(recorded, result)
        tracked_run.record_table("reproduction", table)
        print(table.to_string(index=False, na_rep="-"))
        for line in changes(recorded, result):
            print(f"  changed  {line}")
    differing = table.query("verdict == 'differs'")
    print(f"\n{len(differing)} metrics differ, {(table['verdict'] == 'equal').sum()} are equal bit for bit")
    return int(len(differing) > 0)
