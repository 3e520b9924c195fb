"""`sweep STAGE`: search a stage's settings, each trial a run below the study's."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from harness.commands.arguments import named, typed
from harness.commands.console import show_conclusion, show_place, show_trials
from harness.running import hardware
from harness.running.settings import resolve
from harness.stage import BadInput, Stage
from harness.sweeping import front, pictures
from harness.sweeping.conclusion import Conclusion, conclude
from harness.sweeping.engines import InProcess
from harness.sweeping.planning import prepare
from harness.sweeping.study import Study, opened
from harness.tracking.runs import Child, Children, Tracked, tracked


def sweep(given: argparse.Namespace, stages: Sequence[Stage[Any, Any]]) -> int:
    """Search a stage's settings, go on with the study where there is one, and score the winner on the holdout."""
    stage = named(stages, given.stage)
    planned = prepare(typed(given), lambda rest: resolve(stage, rest, hardware.load_profiles()))
    with (
        opened(planned) as (study, why),
        tracked(stage.name, "study", study.parent, f"sweep {planned.name}") as tracked_run,
    ):
        study.parent = tracked_run.run_id
        print(f"study {planned.name} in {planned.options.storage}" + (f": {why}" if why else ""))
        children = _search(study, tracked_run)
        trials = study.trials()
        conclusion = conclude(planned, trials, study.evaluator, partial(study.look, len(trials)))
        children.mark("pareto", {trial.number for trial in front.pareto(trials, planned)})
        children.mark("winner", {conclusion.winner.number} if conclusion.winner else set())
        _record(tracked_run, study, conclusion)
        show_trials(planned, trials)
        show_conclusion(conclusion, "debug" in given)
        show_place(tracked_run, f", filter: {planned.filter()}")
        if conclusion.winner is None:
            raise BadInput(f"sweep: {conclusion.audit.all_findings[0].message}")
    return 0


def _search(study: Study, parent: Tracked) -> Children:
    """Run what is missing of a study; every trial has its run in the end, or when the search is interrupted."""
    children = Children(parent, study.sweep.tags())
    try:
        for trial in study.trials():
            children.add(Child(**trial.row()))
        study.conduct(InProcess(), lambda trial: children.add(Child(**trial.row())))
    except KeyboardInterrupt:
        show_trials(study.sweep, study.trials())
        raise
    finally:
        children.close()
    return children


def _record(tracked_run: Tracked, study: Study, conclusion: Conclusion) -> None:
    """Log what the study has come to: numbers, tables, texts and pictures."""
    planned, trials = study.sweep, study.trials()
    chosen = conclusion.winner.params if conclusion.winner else {}
    mute = planned.plan.options.mute
    muted = {"muted": mute} if mute else {}
    best = {f"best.{name}": str(value) for name, value in chosen.items()}
    tracked_run.record_sweep(
        planned.settings(),
        conclusion.metrics,
        planned.tags() | best | muted | {"kind": "study", "note": _summary(conclusion)},
        conclusion.audit,
        front.table(trials, planned),
    )
    texts = {
        "sweep.json": json.dumps(conclusion.as_json(planned, trials), indent=2),
        "search_space.yaml": planned.space.text,
        "figures.html": pictures.interactive(study),
    }
    drawn = conclusion.selection.figures if conclusion.selection else {}
    tracked_run.record_files({**pictures.figures(study), **drawn}, texts)


def _summary(conclusion: Conclusion) -> str:
    """What a reader of the study's page should see first."""
    if conclusion.winner is None:
        return "No winner."
    settings = " ".join(f"{name}={value}" for name, value in conclusion.winner.params.items())
    ranked = sorted(conclusion.metrics.items(), key=lambda item: item[0].startswith("trials_"))
    figures = "\n".join(f"- {name}: {value:.4f}" for name, value in ranked)
    return f"Winner: trial {conclusion.winner.number}, {settings}\n\n{figures}"
