"""Run a tracked run again from what it recorded, and say metric by metric what came out the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from harness.running import run
from harness.stage import BadInput, Stage


def settings(recorded: Mapping[str, Any], stage: Stage[Any, Any]) -> dict[str, str]:
    """What to type to get the run again: every setting in force then, inference done anew."""
    known = {*stage.infer_params.model_fields, *stage.score_params.model_fields, "seed", "records"}
    params = recorded["params"]
    if unknown := [name for name in params if name not in known]:
        raise BadInput(f"reproduce: {stage.name} has no setting {unknown[0]} any more; check out the run's commit")
    return {name: str(each["value"]) for name, each in params.items()} | {"cache": "off"}


def obstacles(recorded: Mapping[str, Any], digests: Mapping[str, str]) -> list[str]:
    """Why nothing can be compared: inputs that are not those of the run."""
    then = {name: value for name, value in recorded["digests"].items() if name != "config"}
    return [name for name, value in then.items() if digests.get(name) != value]


def compare(recorded: Mapping[str, Any], result: run.Result) -> pd.DataFrame:
    """One row a metric of quality: then, now, difference, verdict; then the figures of cost, which never come again."""
    then, now = recorded["metrics"], result.report.metrics
    rows = []
    for name in sorted({*then, *now}):
        pair = then.get(name), now.get(name)
        if None in pair:
            rows.append({"metric": name, "then": pair[0], "now": pair[1], "verdict": "differs"})
            continue
        same = "equal" if pair[0] == pair[1] else "differs"
        rows.append({"metric": name, "then": pair[0], "now": pair[1], "difference": pair[1] - pair[0], "verdict": same})
    cost = result.records.cost.metrics() if result.records.cost else {}
    for name, value in (recorded["cost"] or {}).items():
        if name in cost and isinstance(value, int | float):
            again = "the records' own" if result.replayed else "measured again"
            verdict = again if _same_device(recorded, result) else "cannot be compared"
            row = {"metric": name, "then": value, "now": cost[name], "difference": cost[name] - value}
            rows.append(row | {"verdict": verdict})
    return pd.DataFrame(rows)


def changes(recorded: Mapping[str, Any], result: run.Result) -> Iterator[str]:
    """What is not as it was, and may explain a difference; what only one of the two runs has recorded says nothing."""
    then, now = recorded["environment"], result.environment
    for name, value in now.items():
        if then.get(name, value) != value:
            yield f"{name}: {then[name]} then, {value} now"


def _same_device(recorded: Mapping[str, Any], result: run.Result) -> bool:
    return bool(recorded["environment"].get("device") == result.environment["device"])
