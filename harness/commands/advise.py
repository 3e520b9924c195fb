"""`advise --run ID`: what to try after a tracked run."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from harness.commands.arguments import named
from harness.measuring import cost
from harness.running import hardware
from harness.stage import BadInput, Remedy, Stage
from harness.sweeping import space
from harness.tracking import advise as advice
from harness.tracking.runs import recorded


def advise(given: argparse.Namespace, stages: Sequence[Stage[Any, Any]]) -> int:
    """Print what to try after a run, and the command that tries the first of it."""
    if given.unknown or given.run_id is None:
        raise BadInput("advise: it takes --run ID, the id of a run of a stage")
    params, metrics, tags = recorded(given.run_id)
    if tags.get("kind") != "run" or tags.get("stage") not in {stage.name for stage in stages}:
        raise BadInput(
            f"advise: run {given.run_id} is a {tags.get('kind', 'run of another program')}, not a stage's run"
        )
    stage, profile = named(stages, tags["stage"]), _profile(given.run_id, tags.get("hardware", "auto"))
    advised = advice.advise(stage, advice.past(stage, params, metrics, tags), profile)
    print(f"run {tags.get('mlflow.runName', given.run_id)} of {stage.name} on {profile.tag}")
    for goal, (need, remedies) in advised.items():
        print(f"\n{goal}: {need}")
        if goal == "quality":
            print(f"  {_search(stage, given.run_id, profile)}")
        for remedy in remedies:
            print(f"  {_typed(remedy):<28} {remedy.why}")
        if not remedies:
            print("  nothing left that this stage and this machine know")
    if tried := [remedy for _, remedies in advised.values() for remedy in remedies]:
        print(f"\nnext: {_command(stage, params, tags, tried[0])}\nthen: mlflow run . -e compare -P stage={stage.name}")
    return 0


def _profile(run_id: str, tag: str) -> hardware.Profile:
    for profile in hardware.load_profiles():
        if profile.tag == tag:
            return profile
    raise BadInput(f"advise: run {run_id} was measured on {tag}, a hardware tag that is not in hardware/")


def _search(stage: Stage[Any, Any], run_id: str, profile: hardware.Profile) -> str:
    """The sweep over the stage's own space; records cannot be searched for settings that decide others."""
    searched = space.load(None, stage, cost.bounds(profile.match.device, 0, 0)).searched
    again = "" if searched.keys() & stage.infer_params.model_fields.keys() else f" --records {run_id}"
    return f"python -m harness sweep {stage.name}{again}  (searches {', '.join(searched)})"


def _command(stage: Stage[Any, Any], params: Mapping[str, str], tags: Mapping[str, str], remedy: Remedy) -> str:
    """What to type to have the run again with a remedy."""
    kept = [name for name in params if tags.get(f"origin.{name}") == "given" and name != remedy.setting]
    words = [f"{name}={params[name]}" for name in kept]
    words += ["hardware_unchecked=true"] if "hardware_unchecked" in tags else []
    return f"mlflow run . -e {stage.name} " + " ".join(f"-P {shlex.quote(word)}" for word in [*words, _typed(remedy)])


def _typed(remedy: Remedy) -> str:
    return f"{remedy.setting}={str(remedy.value).lower()}"
