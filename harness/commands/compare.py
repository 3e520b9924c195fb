"""`compare STAGE`: rank tracked runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from harness.commands.arguments import named, typed
from harness.commands.console import number
from harness.running.settings import validate
from harness.stage import BadInput, Stage, suggest
from harness.tracking.compare import CompareOptions, figures, in_words, leaderboard
from harness.tracking.runs import listed, tracked


def compare(given: argparse.Namespace, stages: Sequence[Stage[Any, Any]]) -> int:
    """Rank tracked runs of a stage, and log the leaderboard and its pictures as a run of its own."""
    stage, settings = named(stages, given.stage), typed(given)
    if unknown := [name for name in settings if name not in CompareOptions.model_fields]:
        raise BadInput(f"compare has no option {unknown[0]}; {suggest(unknown[0], CompareOptions.model_fields)}")
    options = validate(CompareOptions, stage, settings, dict.fromkeys(settings, "given"))
    table = leaderboard(listed(options.tags(stage.name)), stage, options)
    for part in in_words(table, options.top, number):
        print(part)
    with tracked(stage.name, "comparison", name=f"compare {stage.name}") as tracked_run:
        tracked_run.record_table("leaderboard", table)
        tracked_run.record_files(figures(table, options.metric or stage.metrics[0].name), {})
        print(f"\n{len(table)} runs; pictures in run {tracked_run.name} ({tracked_run.run_id}) in {tracked_run.store}")
    return 0
