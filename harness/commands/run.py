"""`STAGE` and `score STAGE`: one configuration, tracked."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from harness.commands.arguments import named, typed
from harness.commands.console import show, show_place
from harness.running import hardware
from harness.running.run import execute
from harness.running.settings import resolve
from harness.stage import BadInput, Stage
from harness.tracking.runs import tracked


def run(given: argparse.Namespace, stages: Sequence[Stage[Any, Any]]) -> int:
    """Run one configuration, log it and show it."""
    stage = named(stages, given.stage if given.command == "score" else given.command)
    if given.command == "score" and not getattr(given, "records", None):
        raise BadInput(
            "score: it takes a stage and --records, a file or the id of a run; without them a model would run"
        )
    with tracked(stage.name) as tracked_run:
        plan = resolve(stage, typed(given), hardware.load_profiles())
        tracked_run.begin(plan)
        result = execute(plan)
        tracked_run.record(result)
        show(result, "debug" in given)
        show_place(tracked_run)
        headline = stage.metrics[0].name
        if reason := result.report.undefined.get(headline):
            raise BadInput(f"{stage.name}: {headline} is undefined: {reason}; what could be measured was logged")
    return 0
