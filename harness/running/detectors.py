"""What a run has learnt, as one JSON file: with it other data are scored, and it says what that is worth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from harness import __version__
from harness.progress import working
from harness.stage import BadInput, Params, Records, Report, Stage, Undefined, one_line

_PARTS = ("stage", "observed", "digests", "environment", "figures")


class ApplyOptions(Params):
    """What `apply` takes besides the settings of inference that name the data."""

    detector: str | None = Field(None, description="what a run has learnt: the run's id, or its detector.json")
    output: str = Field("scored.jsonl", description="write one JSON object a line to this file")


@working("learn the detector that is kept")
def learnt(
    stage: Stage[Any, Any],
    params: Params,
    records: Records,
    report: Report,
    digests: Mapping[str, str],
    environment: Mapping[str, str],
) -> dict[str, Any] | None:
    """All that is needed to score other data as here, and the run's figures; None where nothing can be learnt."""
    if stage.detectors is None:
        return None
    try:
        detector = stage.detectors.learn(records, params)
    except Undefined:
        return None
    return {
        "rigsweep": __version__,
        "stage": stage.name,
        **detector,
        "scoring": params.canonical(),
        "judged": report.judged,
        "figures": report.metrics,
        "digests": {name: value for name, value in digests.items() if name != "config"},
        "environment": dict(environment),
    }


def read(path: Path) -> dict[str, Any]:
    """Read what `learnt` returned; BadInput where a file is something else."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BadInput(f"detector {path}: cannot be read: {one_line(error)[:200]}") from error
    if not isinstance(content, dict) or not content.keys() >= set(_PARTS):
        raise BadInput(f"detector {path}: is not what a run has logged as detector.json, which has {', '.join(_PARTS)}")
    return content


def observing(stage: Stage[Any, Any], detector: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
    """The settings by which new data are observed: those of the detector, and what is given for the data.

    BadInput where a setting that decides what the detector reads is given another value.
    """
    observed = detector["observed"]
    if observed is None:
        raise BadInput(
            "the detector has learnt from records made elsewhere, so that no model is known which would observe new"
            " data as they were; records=… scores others like them"
        )
    assert stage.detectors is not None
    require_observed(stage, detector, given)
    return {**observed, **given}


def require_observed(stage: Stage[Any, Any], detector: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Refuse settings of inference, those that there are, by which other features come about than the detector's."""
    observed, free = detector["observed"] or {}, stage.detectors.free if stage.detectors else ()
    for name in sorted(settings.keys() & observed.keys() - set(free)):
        if str(settings[name]).lower() != str(observed[name]).lower():
            raise BadInput(
                f"{name} = {settings[name]}: the detector has learnt from what was observed with {name} ="
                f" {observed[name]}, and scores nothing else"
            )


def require_inputs(detector: Mapping[str, Any], digests: Mapping[str, str]) -> None:
    """Refuse what was observed by another model than that of the run, where both are known; data may be others."""
    then = detector["digests"]
    for name in sorted(then.keys() & digests.keys() - {"data"}):
        if then[name] != digests[name]:
            raise BadInput(
                f"the {name} is not the one that the detector has learnt from: its digest is {digests[name][:12]}, and"
                f" was {then[name][:12]}"
            )
