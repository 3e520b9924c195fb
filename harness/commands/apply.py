"""`apply --detector RUN --dataset NEW`: score new data by what a run has learnt."""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.commands.arguments import named, typed
from harness.commands.console import number
from harness.measuring.clock import Clock
from harness.progress import counted
from harness.running import detectors, hardware
from harness.running.run import obtain, require_writable
from harness.running.settings import Plan, resolve
from harness.running.surroundings import environment
from harness.stage import BadInput, Stage


def apply(given: argparse.Namespace, stages: Sequence[Stage[Any, Any]]) -> int:
    """Score data that nobody need have labelled, a JSON object a line, by the detector of a run."""
    settings = typed(given)
    detector = detectors.read(_file(settings.pop("detector", "")))
    output = Path(settings.pop("output", "scored.jsonl")).expanduser()
    require_writable("output", str(output))
    for name in ("dataset", "records"):
        if name in settings and Path(settings[name]).expanduser().resolve() == output.resolve():
            raise BadInput(f"output = {output}: is what is to be scored; name another file")
    stage = named(stages, detector["stage"])
    plan = planned(stage, detector, settings)
    count, called = write(output, scored(stage, plan, detector))
    print(f"{count} scored, {called} called, in {output}; threshold {number(detector['threshold'])}")
    learnt_from = ", ".join(f"{count} {what}" for what, count in detector["learnt_from"].items())
    judged, _, _ = detector["judged"].partition(": ")
    print(f"the detector has learnt from {learnt_from}; {judged}:")
    _show_figures(stage, detector["figures"])
    here = environment(stage, plan.machine)
    for name, then in detector["environment"].items():
        if name in here and here[name] != then:
            print(f"  changed  {name}: {then} in the detector's run, {here[name]} now")
    return 0


def planned(stage: Stage[Any, Any], detector: Mapping[str, Any], settings: Mapping[str, str]) -> Plan:
    """How new data are observed: as the detector's run did, but for where they are."""
    if "records" not in settings:
        settings = detectors.observing(stage, detector, settings)
        if not settings.keys() & {"dataset"}:
            raise BadInput("apply: it takes --dataset, the data to be scored, or --records, a file or the id of a run")
    return resolve(stage, settings, hardware.load_profiles())


def scored(stage: Stage[Any, Any], plan: Plan, detector: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Observe the data of a plan, and score them one by one."""
    if stage.detectors is None:
        raise BadInput(f"apply: {stage.name} has no detector that can be kept")
    if plan.infer is not None:
        detectors.require_inputs(detector, plan.stage.inputs(plan.infer))
    records, digests, _ = obtain(plan, Clock())
    if plan.infer is None:
        known = records.origin.get("infer", {})
        if not (known and detector["observed"]):
            whose = "the detector has learnt from" if known else "are to be scored"
            told = f"apply: how the records that {whose} were observed is not known; scores mean nothing if otherwise"
            print(told, file=sys.stderr)
        detectors.require_observed(stage, detector, known)
        detectors.require_inputs(detector, digests)
    return stage.detectors.apply(detector, records)


def write(output: Path, lines: Iterator[dict[str, Any]]) -> tuple[int, int]:
    """Write a JSON object a line, all of them or nothing; how many there are, and how many are called."""
    count = called = 0
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".writing-") as scratch:
        file = Path(scratch, output.name)
        with file.open("w") as stream:
            for line in counted(lines, "score", "responses"):
                stream.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
                count, called = count + 1, called + line["call"]
        file.replace(output)
    return count, called


def _show_figures(stage: Stage[Any, Any], figures: Mapping[str, float]) -> None:
    headline = stage.metrics[0].name
    if headline not in figures:
        print(f"  {headline} is undefined: what it is worth on other data is not known")
        return
    ends = [number(figures[f"{headline}_{end}"]) for end in ("low", "high") if f"{headline}_{end}" in figures]
    print(f"  {headline} {number(figures[headline])}  [{', '.join(ends)}]")


def _file(text: str) -> Path:
    if not text:
        raise BadInput("apply: it takes --detector, the id of a run or its detector.json")
    if re.fullmatch("[0-9a-f]{32}", text) and not Path(text).exists():
        from harness.tracking.runs import artifact

        return artifact(text, "detector/detector.json")
    return Path(text).expanduser()
